"""Break the code on purpose and see a test fail: `python tests/mutants.py` rewrites the table in tests/README.md.

Each mutant replaces one piece of text in a copy of the repository; the named tests must then fail (pytest's exit code
1, not an error of collection). The unchanged copy must pass them. `python tests/mutants.py WORD` breaks only what has
WORD in its description and leaves the table alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = "rearrange sage mixup saliency auxiliary launch methods transforms scripts"
NAMES += " study distributed hostile precision long_run house"
TESTS = [f"tests/test_{name}.py" for name in NAMES.split()]
SEARCH, SAGE, MIXUP, SALIENCY, AUXILIARY, LAUNCH, METHODS, TRANSFORMS, SCRIPTS, *REST = TESTS
STUDY, DISTRIBUTED, HOSTILE, PRECISION, LONG_RUN, HOUSE = REST

MUTANTS = [
    # what is broken, file, text, replacement, tests
    ("dy and dx swapped in translate", "rearrange.py", "[:, None] - dy", "[:, None] - dx", SEARCH),
    ("partner moves the other way", "rearrange.py", "device=images.device) - dx", "device=images.device) + dx", SEARCH),
    ("outside the frame not 0", "rearrange.py", "torch.where(inside[:, None], pixels.view(images.shape), 0)", "pixels.view(images.shape)", SEARCH),
    ("correlation instead turned round", "rearrange.py", "other.flip(-2, -1)", "other", SEARCH),
    ("one exponential dropped", "rearrange.py", "zip(RATES, WEIGHTS, strict=True)", "zip(RATES[:-3], WEIGHTS[:-3], strict=True)", SEARCH),
    ("no zero padding: circular overlap", "rearrange.py", "size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))", "size = (_fast_length(height + 1), _fast_length(width + 1))", SEARCH),
    ("visible mass ignored", "rearrange.py", "spectrum = torch.fft.rfft2(maps[:, 1], s=size) *", "spectrum = 0 *", SEARCH),
    ("maps not scaled to a peak of 1", "rearrange.py", "peak[:, 0] * gained", "gained", SEARCH),
    ("no exact re-evaluation", "rearrange.py", "TOP = 8 ", "TOP = 1 ", SEARCH),
    ("candidates ignored", "rearrange.py", "if candidates is not None:\n", "if False:\n", SEARCH),
    ("ties go to the longest", "rearrange.py", "length = translation.square().sum(2)", "length = -translation.square().sum(2)", SEARCH),
    ("every pick certified", "rearrange.py", "certified = (highest >= bound - TIE * total).all(1)", "certified = (highest >= 0 * bound).all(1)", SEARCH),
    ("mask for 1 - mask", "methods/sage.py", "own / both.masked_fill(both == 0, 1)", "moved / both.masked_fill(both == 0, 1)", SAGE),
    ("both maps 0: always own image", "methods/sage.py", "torch.where(present > 0, ratio.view(-1, 1, 1, 1), 1)", "torch.ones_like(own)", SAGE),
    ("zero map is not uniform", "rearrange.py", "torch.where(peak > 0, saliency / peak, 1)", "saliency / peak", SAGE),
    ("ratio and 1 - ratio swapped", "methods/sage.py", "share * maps, (1 - share) * maps[partner], candidates", "(1 - share) * maps, share * maps[partner], candidates", SAGE),
    ("cells not scaled to pixels", "methods/sage.py", "[dy * (height / rows), dx * (width / columns)]", "[dy * 1.0, dx * 1.0]", SAGE),
    ("zero translation not always tried", "methods/sage.py", "candidates[:, rows - 1, columns - 1] = True", "candidates[:, 0, 0] = True", SAGE),
    ("one draw of candidates for the batch", "methods/sage.py", "shape = (len(saliency), 2", "shape = (1, 2", SAGE),
    ("lam is the mean of 1 - mask", "methods/sage.py", "mask.mean((1, 2, 3)), moves", "1 - mask.mean((1, 2, 3)), moves", SAGE),
    ("wrong partner for the target", "plan.py", "target.float()[self.source]", "target.float()[self.source.roll(1, 0)]", SAGE),
    ("lam weighs the partner's label", "plan.py", "self.lam[..., None] * target", "self.lam.flip(1)[..., None] * target", SAGE),
    ("image of the wrong partner", "plan.py", "images = images[self.source[:, k]]", "images = images[self.source[:, 0]]", SAGE),
    ("layout lost", "plan.py", "torch.channels_last if channels_last else torch.contiguous_format", "torch.contiguous_format", SAGE),
    ("CutMix box one pixel off", "methods/cutmix.py", "(y < bottom)", "(y <= bottom)", MIXUP),
    ("lam_max does nothing", "methods/sage.py", "self.lam_max * batch.lam", "batch.lam", MIXUP),
    ("search_fraction does nothing", "methods/sage.py", "search_fraction=self.search_fraction)", "search_fraction=1.0)", MIXUP),
    ("smoothing as for multi-label", "mixup.py", "self.label_smoothing * 0.5 if self.multi_label else", "self.label_smoothing * 0.5 if True else", MIXUP),
    ("middle image of odd batches mixed with itself", "mixup.py", "if batch % 2:", "if False:", MIXUP),
    ("pair mode draws per element", "mixup.py", 'batch // 2, "elem": batch}', 'batch, "elem": batch}', MIXUP),
    ("multi_label does nothing", "mixup.py", "self.multi_label = multi_label", "self.multi_label = False", MIXUP),
    ("labels not checked", "checks.py", "if low < 0 or high >= num_classes:", "if low < 0:", MIXUP),
    ("non-finite saliency kept", "mixup.py", ".nan_to_num(0, 0, 0)", "", MIXUP),
    ("non-finite saliency not reported", "checks.py", "if (unfit or empty) and not self._warned:", "if False:", MIXUP),
    ("device checks never act", "checks.py", "act(host)", "pass", MIXUP),
    ("saliency of the mixed-up sign", "saliency.py", "gradient.abs().mean(1, keepdim=True)", "gradient.mean(1, keepdim=True)", SALIENCY),
    ("true label ignored", "saliency.py", "if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):", "if True:", SALIENCY),
    ("power does nothing", "saliency.py", "if self.power != 1:", "if False:", SALIENCY),
    ("blur does nothing", "saliency.py", "if self.blur:", "if False:", SALIENCY),
    ("grid does nothing", "saliency.py", "(self.grid or side)", "side", SALIENCY),
    ("size does nothing", "saliency.py", "images = resize(images, self.size or tuple(images.shape[-2:]))", "images = resize(images, tuple(images.shape[-2:]))", SALIENCY),
    ("statistics not converted", "saliency.py", "return (images * std + (mean - own_mean)) / own_std", "return images", SALIENCY),
    ("self saliency leaves the model in eval mode", "saliency.py", "module.training = training", "pass", SALIENCY),
    ("auxiliary model is the user's own object", "auxiliary.py", "copy.deepcopy(unwrap(model))", "unwrap(model)", SALIENCY),
    ("parameters not frozen", "auxiliary.py", ".eval().requires_grad_(False)", ".eval()", SALIENCY),
    ("averaged weights ignored", "auxiliary.py", '("state_dict_ema", "model_ema", "state_dict", "model")', '("state_dict", "model")', AUXILIARY),
    ("pickled code is run", "auxiliary.py", "weights_only=True", "weights_only=False", AUXILIARY),
    ("hub asked without a probe", "auxiliary.py", "get_session().head(constants.ENDPOINT, timeout=5)", "pass", AUXILIARY),
    ("a Beta draw of 1 counts as unmixed", "mixup.py", "lam, by_method = on_device(lam), mixed & ~use_cutmix", "lam, by_method = on_device(lam), mixed & ~use_cutmix & (lam < 1)", MIXUP),
    ("sys.exit() escapes the check at the end", "launch.py", "if end.code in (None, 0) and", "if False and", LAUNCH),
    ("spawned processes not refused", "takeover.py", "self._replace((torch.multiprocessing.start_processes, self._refuse_to_spawn))", "pass", LAUNCH),
    ("mistyped YAML keys ignored", "launch.py", 'if name.startswith(("sage", "salien", "mixer", "save_mixed")):', "if False:", LAUNCH),
    ("size of fixed-size models ignored", "auxiliary.py", "size = built_for or config", "size = config", SALIENCY),
    ("random state consumed", "auxiliary.py", "with torch.random.fork_rng(devices=[]):", "if True:", AUXILIARY),
    ("prefetcher path not mixed", "takeover.py", "return MixLoader(original(*call.args, **call.kwargs), mixing.mixup)", "return original(*call.args, **call.kwargs)", LAUNCH),
    ("off-epoch switch lost", "loader.py", "self.mixup.mixup_enabled = enabled", "pass", LAUNCH),
    ("gate left closed", "takeover.py", 'args["mixup"] = self.method.alpha', "pass", LAUNCH),
    ("command line loses to YAML", "launch.py", "vars(parsed).update(given)", "pass", LAUNCH),
    ("names patched in timm.data only", "takeover.py", '_PUBLIC = ("timm", "timm.data", "timm.data.mixup",', '_PUBLIC = ("timm", "timm.data",', LAUNCH),
    ("statistics of the run not passed on", "takeover.py", "self.source.normalized_with(self.mean, self.std)", "pass", LAUNCH),
    ("unmixed training not noticed", "takeover.py", "register_optimizer_step_post_hook(lambda *_: self.watch.step())", "register_optimizer_step_post_hook(lambda *_: None)", LAUNCH),
    ("script's exit not checked", "takeover.py", "if self.settings is not None and not self.built:", "if False:", LAUNCH),
    ("every rank speaks", "flags.py", 'return os.environ.get("RANK", "0") == "0"', "return True", DISTRIBUTED),
    ("script is no real __main__", "launch.py", 'sys.modules["__main__"] = module', "pass", LAUNCH),
    ("own frames in tracebacks", "launch.py", "sys.excepthook = from_script", "pass", LAUNCH),
    ("tiles of a plan not moved on their own", "rearrange.py", "tiles = tiles.index_select(dim,", "tiles = tiles.narrow(dim, 0, 1).index_select(dim, 0 *", METHODS),
    ("a plan's second condition ignored", "plan.py", "return torch.where(condition.view(-1, *[1] * (a.ndim - 1)), a, b)", "return a", METHODS),
    ("translations lost where plans meet", "plan.py", "translation = torch.where(condition.view(-1, 1, 1, 1, 1), *moves)", "pass", METHODS),
    ("retained saliency of maps that do not move", "plan.py", "self._moved(maps, k)", "maps[self.source[:, k]]", METHODS),
    ("SaliencyMix: box around the own peak", "methods/saliencymix.py", "batch.size)[batch.partner]", "batch.size)", METHODS),
    ("SaliencyMix: y and x of the peak swapped", "methods/saliencymix.py", "y, x = index // columns + 0.5, index % columns + 0.5", "x, y = index // columns + 0.5, index % columns + 0.5", METHODS),
    ("pasted box not clipped for the label weight", "methods/cutmix.py", "kept = kept * (last - first) / length", "kept = kept * side / length", METHODS),
    ("Puzzle Mix: own and partner's saliency swapped", "methods/puzzlemix.py", "cost = mask * own[batch.partner, ..., None] + (1 - mask)", "cost = (1 - mask) * own[batch.partner, ..., None] + mask", METHODS),
    ("Puzzle Mix: labels out of order", "methods/puzzlemix.py", "never, 0 * never)", "0 * never, never)", METHODS),
    ("Puzzle Mix: correction of the convex cost left out", "methods/puzzlemix.py", "cost + weights[..., None] * label * (label - top)", "cost", METHODS),
    ("Puzzle Mix: prior ignored", "methods/puzzlemix.py", "cost = cost + self.eta", "cost = cost + 0 * self.eta", METHODS),
    ("Puzzle Mix: rows of a seam exchanged", "methods/puzzlemix.py", "(seam[1, 0] - seam[0, 1]) / 2", "(seam[0, 1] - seam[1, 0]) / 2", METHODS),
    ("Puzzle Mix: the seam's second image wrong", "methods/puzzlemix.py", "pairs = [[last[b], first[a]]", "pairs = [[last[a], first[b]]", METHODS),
    ("Puzzle Mix: transport inverted", "methods/puzzlemix.py", "distance - wanted[i][:, None] * saliency[i])[1]", "distance - wanted[i][:, None] * saliency[i])[0]", METHODS),
    ("Puzzle Mix: transport skips too much", "methods/puzzlemix.py", "gain > 2 * shortest", "gain > 9 * shortest", METHODS),
    ("Puzzle Mix: blocks move the other way", "methods/puzzlemix.py", "edge[place] - torch.minimum(edge[index], side - width)", "torch.minimum(edge[index], side - width) - edge[place]", METHODS),
    ("Puzzle Mix: moved blocks leave the frame", "methods/puzzlemix.py", "torch.minimum(edge[index], side - width)", "edge[index]", METHODS),
    ("Puzzle Mix: partner's blocks moved by the own map", "methods/puzzlemix.py", "(maps[batch.partner], 1 - mask)", "(maps, 1 - mask)", METHODS),
    ("Puzzle Mix: std ignored", "methods/puzzlemix.py", "* std.view(1, -1, 1, 1)", "* 1.0", METHODS),
    ("Puzzle Mix: NaN images reach the cut", "methods/puzzlemix.py", "batch.images.float().nan_to_num(0, 0, 0)", "batch.images.float()", METHODS),
    ("Co-Mixup: diversity ignored", "methods/comixup.py", "np.where(taken > self.limit, taken, 0)", "np.zeros_like(taken)", METHODS),
    ("Co-Mixup: an output crowds itself", "methods/comixup.py", "others = blocks.sum(1) - blocks[:, j]", "others = blocks.sum(1)", METHODS),
    ("Co-Mixup: last round instead of the best", "methods/comixup.py", "best = np.where(better[:, None, None, None, None], shares, best)", "best = shares", METHODS),
    ("Co-Mixup: no halves", "methods/comixup.py", "if soft and inputs > 1:", "if False:", METHODS),
    ("Co-Mixup: neighbours on one side only", "methods/comixup.py", "for neighbour in (lines - 1, lines + 1):", "for neighbour in (lines - 1,):", METHODS),
    ("Co-Mixup: back-pointers lost", "methods/comixup.py", "reversed(came_from)", "came_from", METHODS),
    ("Co-Mixup: parts of the batch mixed up", "methods/comixup.py", "source = inputs.gather(1, order)", "source = order", METHODS),
    ("Co-Mixup: alpha does nothing", "methods/comixup.py", "float(batch.alpha)", "2.0", METHODS),
    ("Co-Mixup: compatibility ignored", "methods/comixup.py", "+ self.omega * far", "+ self.omega * np.eye(member.shape[1])", METHODS),
    ("CutMix alone takes the wrong alpha", "mixup.py", "mixup_alpha, cutmix_alpha = 0, cutmix_alpha or mixup_alpha", "mixup_alpha, cutmix_alpha = 0, mixup_alpha or cutmix_alpha", METHODS),
    ("authors' alpha not the default", "mixup.py", '{"mixup_alpha": made.alpha} | ', "", METHODS),
    ("saliency made though unused", "mixup.py", "if method.uses_saliency:", "if True:", METHODS),
    ("SageMix: timm's partner", "transforms.py", ".roll(1)", ".flip(0)", TRANSFORMS),
    ("SageMix: uint8 cut off, not rounded", "transforms.py", "mixed.round().to(torch.uint8)", "mixed.to(torch.uint8)", TRANSFORMS),
    ("SageMix: uint8 not normalised for the model", "transforms.py", "pixels = self.saliency.normalized(pixels)", "pass", TRANSFORMS),
    ("SageMix: tv_tensor type lost", "transforms.py", "tv_tensors.wrap(mixed, like=inpt) if isinstance(inpt, tv_tensors.Image) else mixed", "mixed", TRANSFORMS),
    ("SageMix: second view left alone", "transforms.py", "changed = [labels, *images]", "changed = [labels, images[0]]", TRANSFORMS),
    ("SageMix: copies of labels accepted", "transforms.py", "if not any(item is labels for item in flat):", "if False:", TRANSFORMS),
    ("SageMix: CUDA model in a worker not refused", "transforms.py", "if in_worker and any(", "if False and any(", TRANSFORMS),
    ("SageMix: alpha does nothing", "transforms.py", "torch.full((2,), float(self.alpha))", "torch.full((2,), 1.0)", TRANSFORMS),
    ("SageMix: exact key 'labels' not preferred", "transforms.py", "(exact or keys)[0]", "keys[0]", TRANSFORMS),
    ("--mixer-kwargs ignored", "takeover.py", "create_method(mixer, **ours, **kwargs)", "create_method(mixer, **ours)", LAUNCH),
    ("the run's std does not reach Puzzle Mix", "takeover.py", "mixup.method = self.method", "pass", LAUNCH),
    ("--sage and another --mixer together", "takeover.py", 'if self.settings.get("sage") and mixer != "sage":', "if False:", LAUNCH),
    ("--save-mixed draws normalised images", "watch.py", "images = images * std + mean", "pass", LAUNCH),
    ("--save-mixed writes one too many", "watch.py", "self.mixed <= self.save_mixed", "self.mixed <= self.save_mixed + 1", LAUNCH),
    ("pictures: --mixer ignored", "visualize.py", "for name in args.mixer:", 'for name in ["sage"]:', SCRIPTS),
    ("pictures: weights of equal labels not added up", "visualize.py", "total.get(names[source], 0) + share", "share", SCRIPTS),
    ("state: NumPy's generator left out", "draws.py", "np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))", "pass", MIXUP),
    ("state: torch's generator left out", "draws.py", 'torch.set_rng_state(state["torch"].cpu())', "pass", MIXUP),
    ("mixing is compiled", "draws.py", "torch.compiler.disable(torch.no_grad()(function))", "torch.no_grad()(function)", PRECISION),
    ("types of the calls erased", "draws.py", "def eager(function: Function) -> Function:", "def eager(function):", HOUSE),
    ("mixing in the dtype of the images", "plan.py", "mixed = self.mask[:, :1] * self", "mixed = self.mask[:, :1].to(images.dtype) * self", PRECISION),
    ("mask under autocast", "saliency.py", "torch.autocast(images.device.type, enabled=False)", "contextlib.nullcontext()", SALIENCY),
    ("labels checked by a value the host waits for", "mixup.py", "self._value_checks.labels(target, self.num_classes)", "assert 0 <= target.min().item() and target.max().item() < self.num_classes", PRECISION),
    ("every batch's map is kept", "mixup.py", "self._value_checks.saliency(saliency)", 'self.__dict__.setdefault("kept", []).append(saliency)', LONG_RUN),
    ("the batch is mixed in place", "mixup.py", "return plan.mix_images(x), ", "return x.copy_(plan.mix_images(x)), ", HOSTILE),
    ("dtype of the images lost", "plan.py", "mixed.to(images.dtype).contiguous", "mixed.contiguous", HOSTILE),
    ("empty batches let through", "checks.py", "if images.ndim != 4 or 0 in images.shape:", "if images.ndim != 4:", HOSTILE),
    ("num_classes may be a float", "checks.py", "if isinstance(value, bool) or not isinstance(value, Integral):", "if isinstance(value, bool):", HOSTILE),
    ("labels in a column let through", "checks.py", "elif tuple(target.shape) != (batch_size, num_classes):", "elif target.ndim > 2:", HOSTILE),
    ("every rank draws the same", "scripts/train.py", "utils.random_seed(args.seed, args.rank)", "utils.random_seed(args.seed)", DISTRIBUTED),
    ("every rank loads its saliency at once", "takeover.py", "torch.distributed.get_rank())) == 0", "torch.distributed.get_rank())) >= 0", DISTRIBUTED),
    ("study: arms see images in another order", "scripts/study.py", "torch.randperm(len(self.images), generator=generator, device=self.device)", "torch.randperm(len(self.images), device=self.device)", STUDY),
    ("study: weights at the start depend on the arm", "scripts/study.py", "random_seed(seed)\n        model = self.create_model(self.args.model)", "model = self.create_model(self.args.model)", STUDY),
    ("study: time of the auxiliary model not counted", "scripts/study.py", "round(seconds + extra, 2)", "round(seconds, 2)", STUDY),
    ("study: every part is the first", "scripts/study_data.py", "each[args.part * count : (args.part + 1) * count]", "each[:count]", STUDY),
    ("study: held-out images are trained on", "scripts/study_data.py", "members = [each[:-cut] for each in members]", "pass", STUDY),
    ("study: runs of another recipe count as done", "scripts/study.py", 'run["recipe"] == study.recipe and', "", STUDY),
    ("study: flipped but not cropped", "scripts/study.py", "+ draw(9)", "+ 0 * draw(9) + 4", STUDY),
    ("study: control of no translation searches", "scripts/study_arms.py", '"still": 1e-9', '"still": 1.0', STUDY),
    ("study: weight ignored", "scripts/study_arms.py", 'if self.weight == "retained":', "if False:", STUDY),
    ("study: pairing ignored", "scripts/study_arms.py", 'if self.pairing == "best":', "if False:", STUDY),
    ("study: pairs of least saliency", "scripts/study_arms.py", "maximize=True", "maximize=False", STUDY),
    ("study: partners' maps turned round", "scripts/study_arms.py", "other[:, 0].flip(-2, -1)", "other[:, 0]", STUDY),
    ("study: seeds not paired", "scripts/study_table.py", 'other[seed]["accuracy"] for seed in arm', 'other[0]["accuracy"] for seed in arm', STUDY),
    ("study: splits of other classes accepted", "scripts/study_data.py", "if train.classes != test.classes:", "if False:", STUDY),
    ("study: cut-off lines are written on", "scripts/study_table.py", 'text != b"" and not text.endswith(b"\\n")', "False", STUDY),
    ("study: no table after an error", "scripts/study.py", "    finally:\n        if runs:", "    else:\n        if runs:", STUDY),
    ("state: set though it does not fit", "draws.py", "if not _fits(state):", "if False:", MIXUP),
    ("study: --prob does nothing", "scripts/study.py", "arm.create(self.num_classes, self.args.prob, model", "arm.create(self.num_classes, 1.0, model", STUDY),
    ("study: an arm's prob does nothing", "scripts/study_arms.py", 'self.settings.get("prob", prob)', "prob", STUDY),
    ("study: an arm's alpha does nothing", "scripts/study_arms.py", 'alpha = self.settings.get("alpha", 1.0)', "alpha = 1.0", STUDY),
    ("study: --lr does nothing", "scripts/study.py", "model.parameters(), self.args.lr, momentum", "model.parameters(), 0.1, momentum", STUDY),
    ("study: --auxiliary-epochs does nothing", "scripts/study.py", "self.train(model, self.args.auxiliary_epochs, seed + 1000)", "self.train(model, 1, seed + 1000)", STUDY),
    ("study: blur, power and grid do nothing", "scripts/study_arms.py", "if key in OF_SALIENCY}\n", "if False}\n", STUDY),
    ("study: --model does nothing", "scripts/study.py", "self.create_model(self.args.model)", 'self.create_model("narrow")', STUDY),
    ("state: CUDA's generator left out", "draws.py", 'if "cuda" in state and', "if False and", MIXUP),
    ("study: any difference counts", "scripts/study_table.py", "abs(gap) <= 2 * error", "abs(gap) < 0 * error", STUDY),
    ("study: budget ignored", "scripts/study_table.py", "if at <= budget.get(seed, SLACK * mean)", "if True", STUDY),
]  # fmt: skip


def outcome(mutant):
    """Return pytest's exit code and last line for a mutant, or for the unchanged code (None, with all tests)."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sage_timm", "tests", "scripts", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        tests = TESTS
        if mutant is not None:
            _, name, text, replacement, tests = mutant
            path, tests = Path(folder, "" if name.startswith("scripts") else "sage_timm", name), [tests]
            content = path.read_text()
            if content.count(text) != 1:
                return None, f"the text stands {content.count(text)} times in {name}"
            path.write_text(content.replace(text, replacement))
        try:
            run = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-x",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    *tests,
                    *([] if mutant else ["-n", "2"]),
                ],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": folder},
                capture_output=True,
                text=True,
                timeout=120 if mutant else None,
            )
        except subprocess.TimeoutExpired:
            return 1, "the tests hang"
        failed = [line.split(" - ")[0].removeprefix("FAILED ") for line in run.stdout.splitlines() if "FAILED" in line]
        return run.returncode, failed[-1].split("::")[-1] if failed else run.stdout.strip().splitlines()[-1]


def main():
    chosen = [mutant for mutant in MUTANTS if " ".join(sys.argv[1:]) in mutant[0]]
    code, line = outcome(None) if chosen == MUTANTS else (0, "")
    if code != 0:
        sys.exit(f"the unchanged code fails: {line}")
    rows, missed = [], 0
    with ThreadPoolExecutor(2) as pool:
        for (what, name, *_), (code, line) in zip(chosen, pool.map(outcome, chosen), strict=True):
            rows.append(f"| {what} | `{name}` | {f'`{line}`' if code == 1 else f'**not seen** ({line})'} |")
            print(rows[-1], flush=True)
            missed += code != 1
    if chosen == MUTANTS:
        readme = ROOT / "tests" / "README.md"
        head = readme.read_text().split("| broken |")[0]
        readme.write_text(head + "| broken | in | seen by |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    print(f"{len(rows) - missed} of {len(rows)} mutants seen")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
