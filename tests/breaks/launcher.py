"""Breaks of the launcher: what, file, text, replacement, the test file that must fail."""

FLAGS, SETTINGS, SESSION, PATCHES, LOADERS, STYLES, PROCESS, MIXERS, MONITOR = (
    f"tests/launcher/test_{name}.py"
    for name in ("flags", "settings", "session", "patches", "loaders", "styles", "process", "mixers", "monitor")
)
CLI_PY, CONSOLE_PY, FLAGS_PY, SETTINGS_PY, SESSION_PY, PATCHES_PY, MONITOR_PY = (
    f"sage_timm/launcher/{name}.py" for name in ("cli", "console", "flags", "settings", "session", "patches", "monitor")
)

MUTANTS = [
    ("flags without a mixer train all the same", CLI_PY, "        if self.given:\n            flags", "        if False:\n            flags", "tests/launcher/test_flags.py"),
    ("a script's config file comes too late", CLI_PY, 'if args and not args.get("config"):', "if args:", STYLES),
    ("errors of ours with a traceback", CLI_PY, "if _is_raised_here(error):", "if False:", "tests/launcher/test_process.py"),
    ("errors of the script without a traceback", CLI_PY, "and Path(frames[-1].filename).is_relative_to(PACKAGE)", "", "tests/launcher/test_process.py"),
    ("pictures of another run written over", "sage_timm/launcher/session.py", "self.folder or unused(self.settings.folder)", "self.settings.folder", "tests/launcher/test_session.py"),
    ("pictures call CutMix the method", "sage_timm/launcher/session.py", '"CutMix" if by_cutmix', 'method if by_cutmix', "tests/launcher/test_session.py"),
    ("--mixer-label-weight does nothing", "sage_timm/launcher/session.py", "label_weight=settings.label_weight", 'label_weight="mask"', "tests/launcher/test_mixers.py"),
    ("misspelt flags reach the script", PATCHES_PY, "OPTIONS, 1, 0.8)", "(), 1, 0.8)", "tests/launcher/test_flags.py"),
    ("a missing checkpoint told late", "sage_timm/launcher/settings.py", '        check_file(source["checkpoint"])\n', "        pass\n", "tests/launcher/test_settings.py"),
    ("recipes: a key that no flag has", "scripts/recipes/finetune.yaml", "drop_path:", "droppath:", "tests/launcher/test_recipes.py"),
    ("recipes: a number that YAML reads as text", "scripts/recipes/finetune.yaml", "lr: 0.0002", "lr: 2e-4", "tests/launcher/test_recipes.py"),
    # the script as __main__, its end, its traceback
    ("sys.exit() escapes the check at the end", CLI_PY, "if end.code in (None, 0) and", "if False and", STYLES),
    ("script's end not checked", CLI_PY, "elif self.session.mixup is None:", "elif False:", STYLES),
    ("script is no real __main__", CLI_PY, 'sys.modules["__main__"] = argv, module', 'sys.modules["_"] = argv, module', PROCESS),
    ("own frames in tracebacks", CLI_PY, "    sys.excepthook = report\n", "", PROCESS),
    ("excepthook not put back after an error", CLI_PY, "    def report(kind, error, trace) -> None:\n        sys.excepthook = former\n", "    def report(kind, error, trace) -> None:\n", STYLES),
    ("excepthook not put back after a good end", CLI_PY, "        raise\n    sys.excepthook = former\n", "        raise\n", STYLES),
    ("sys.argv not put back", CLI_PY, "        sys.argv, sys.path[:], sys.modules[\"__main__\"] = before\n", "        pass\n", STYLES),
    ("a mixup of 0 stays 0", CLI_PY, 'args["mixup"] = settings.mixup', "pass", LOADERS),
    ("flags without effect not said", CLI_PY, "        if self.session is None:\n            self.refuse_unused()\n", "        if self.session is None:\n            pass\n", STYLES),
    # flags and settings
    ("choices of --mixer typed by hand", "sage_timm/options.py", "choices=tuple(METHODS)", 'choices=("sage", "mixup")', FLAGS),
    ("flags inherited from a parent not known", FLAGS_PY, "if action.container.title == GROUP]", "if action.container is parser._action_groups[-1]]", FLAGS),
    ("the script's own flag overridden", FLAGS_PY, "        raise ValueError(f\"the script has", "        raise KeyError(f\"the script has", FLAGS),
    ("errors name arguments", CONSOLE_PY, "refuse(in_flags(str(error), ARGUMENTS))", "refuse(str(error))", FLAGS),
    ("mistyped YAML keys ignored", PATCHES_PY, 'if name.startswith(("sage", "salien", "mixer", "save_mixed")):', "if False:", FLAGS),
    ("command line loses to YAML", PATCHES_PY, "            values.update(given)\n", "", FLAGS),
    ("a second parser gets the flags when it parses", PATCHES_PY, "        for parser in list(parsers):\n", "        for parser in [self]:\n", STYLES),
    ("--mixer-kwargs ignored", SETTINGS_PY, "return {**by_flag, **kwargs}", "return by_flag", SETTINGS),
    ("--sage and another --mixer together", SETTINGS_PY, 'if merged.get("sage") and mixer != "sage":', "if False:", SETTINGS),
    ("a model that spectral can't use is kept", SETTINGS_PY, "source.pop(key) for key in (\"model\", \"checkpoint\")", "source[key] for key in (\"model\", \"checkpoint\")", SETTINGS),
    ("--naflex-loader not refused", SETTINGS_PY, '("naflex_loader", "aug_splits", "jsd_loss")', '("aug_splits", "jsd_loss")', FLAGS),
    # the session
    ("statistics of the run not passed on", SESSION_PY, "            self.source.normalized_with(mean, std)\n", "            pass\n", SESSION),
    ("earlier statistics not passed on", SESSION_PY, "            self.source.normalized_with(*(self.statistics or (None, None)))\n", "", SESSION),
    ("a source for every Mixup", SESSION_PY, "if self.source is None and self.settings", "if self.settings", SESSION),
    ("self follows a model that is not trained", SESSION_PY, "for model in self.models if model.training", "for model in self.models", SESSION),
    ("every rank speaks", CONSOLE_PY, 'return os.environ.get("RANK", "0") == "0"', "return True", PROCESS),
    ("every rank loads its saliency at once", SESSION_PY, "torch.distributed.get_rank())) == 0", "torch.distributed.get_rank())) >= 0", SESSION),
    ("a probability of 0 accepted", SESSION_PY, "if mixup.mix_prob == 0:", "if False:", SESSION),
    ("--save-mixed writes one too many", SESSION_PY, "self.monitor.mixed <= self.settings.save_mixed", "self.monitor.mixed <= self.settings.save_mixed + 1", SESSION),
    ("a full disk ends the run", SESSION_PY, "except OSError as error:", "except ZeroDivisionError as error:", SESSION),
    ("batches not shown to the session", SESSION_PY, "        self.session.show(self, x, weights, plan)\n", "", SESSION),
    # the monitor
    ("--save-mixed draws normalised images", MONITOR_PY, "        images = images * std + mean\n", "", SESSION),
    ("rare mixing taken for none", MONITOR_PY, " and (1 - mixup.mix_prob) ** self.chances < 1e-9", "", MONITOR),
    ("unmixed batches not noticed", MONITOR_PY, "if self.chances and not self.mixed and (size == 1 or improbable):", "if False:", MONITOR),
    ("a run without mixed batches ends in silence", MONITOR_PY, "if self.batches and not self.mixed:", "if False:", MONITOR),
    ("the end of a run is not looked at", CLI_PY, "            self.session.monitor.end()\n", "            pass\n", LOADERS),
    ("batches after the off-epoch count as chances", MONITOR_PY, "self.chances += self.enabled", "self.chances += 1", MONITOR),
    ("steps without a batch not noticed", MONITOR_PY, "if self.batches == 0 and self.steps >= PATIENCE:", "if False:", MONITOR),
    # what is replaced, and put back
    ("prefetcher path not mixed", PATCHES_PY, "(collate.mixup(*batch) for batch in batches) if", "(batch for batch in batches) if", PATCHES),
    ("off-epoch switch of the prefetcher lost", PATCHES_PY, "        self.mixup.mixup_enabled = enabled\n", "        pass\n", LOADERS),
    ("names replaced, not objects", PATCHES_PY, '("timm.data.mixup.Mixup", "__init__", _mixup_init)', '("timm.data.mixup", "Mixup", lambda original, session, *args, **kwargs: SessionMixup(session, *args, **kwargs))', PATCHES),
    ("FastCollateMixup left as it is", PATCHES_PY, "if kind in (Mixup, FastCollateMixup):", "if kind is Mixup:", PATCHES),
    ("subclasses train without our mixing", PATCHES_PY, "    elif isinstance(mixup, MethodMixup):", "    elif True:", PATCHES),
    ("foreign loaders train on plain batches", PATCHES_PY, "if not self.attached:", "if False:", PATCHES),
    ("the mixer travels to spawned workers", PATCHES_PY, "    def __reduce__(self):", "    def reduce(self):", PATCHES),
    ("early workers of MultiEpochsDataLoader refuse", PATCHES_PY, '    _attach(kwargs.get("collate_fn"))\n', "", PATCHES),
    ("nothing is put back", PATCHES_PY, "    finally:\n        setattr(owner, name, original)\n", "    finally:\n        pass\n", PATCHES),
    ("step hook stays", PATCHES_PY, "lambda *_: session.monitor.step()).remove)", "lambda *_: session.monitor.step()).remove and list)", PATCHES),
    ("steps not counted", PATCHES_PY, "lambda *_: session.monitor.step()", "lambda *_: None", STYLES),
    ("a timm without an inner name fails in many lines", PATCHES_PY, "except (AttributeError, ImportError, KeyError):", "except ZeroDivisionError:", PATCHES),
    ("statistics of evaluation taken", PATCHES_PY, '"transforms_imagenet_train", _training', '"transforms_imagenet_eval", _training', PATCHES),
    ("statistics without augmentation missed", PATCHES_PY, '    ("timm.data.transforms_factory", "transforms_noaug_train", _training_transform),\n', "", PATCHES),
    ("every model is kept", PATCHES_PY, 'return noted if session.settings.saliency == "self" else create', "return noted", PATCHES),
    ("torch.multiprocessing.spawn not refused", PATCHES_PY, '    ("torch.multiprocessing.spawn", "start_processes", _start_processes),\n', "", PATCHES),
    ("replaced though no mixer is asked for", CLI_PY, "        if settings is None:\n", "        if settings is None and not self.given:\n", PATCHES),
    ("--mixer-share does nothing", "sage_timm/launcher/session.py", "method_share=settings.share", "method_share=1.0", "tests/launcher/test_mixers.py"),
    ("--saliency-grid does nothing", "sage_timm/options.py", '"blur", "grid", "floor")', '"blur", "floor")', "tests/launcher/test_settings.py"),
    ("settings of self saliency do nothing", "sage_timm/launcher/session.py", "size=self.size, **self.settings)", "size=self.size)", "tests/launcher/test_session.py"),
]  # fmt: skip
