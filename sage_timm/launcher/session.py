"""A mixer in timm's place in a running script: the names it imports, its loader, and what it parsed."""

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import timm.data
import timm.data.loader
import timm.data.mixup
import timm.data.transforms_factory
import timm.models
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..checks import check_count, check_library
from ..loader import MixLoader
from ..methods import create_method
from ..mixup import MethodMixup
from ..plan import MixPlan
from ..saliency import Source, create_saliency
from .flags import in_flags, refuse, say
from .monitor import Watch

# The modules that scripts import timm's names from; within timm itself they stay timm's.
_PUBLIC = ("timm", "timm.data", "timm.data.mixup", "timm.data.loader", "timm.data.transforms_factory", "timm.models")


class Takeover(contextlib.ExitStack):
    """One run of a script: what was asked for, what was replaced, and whether anything was mixed.

    Args:
        given: the flags of the command line, those alone that were given.
    """

    def __init__(self, given: dict) -> None:
        super().__init__()
        self.given = given
        self.settings = None  # the flags of the run, once a mixer is on
        self.in_chans = 3
        self.mean = self.std = None
        self.source = None
        self.models = []
        self.built = False
        self.asked, self.watch = "--sage", None

    def activate(self, args: dict) -> None:
        """Put the mixer in timm's place, once, and check and mend the script's parsed arguments, a dict to change."""
        first = self.settings is None
        self.settings = {**self.given, **{k: v for k, v in args.items() if v is not None}}
        mixer = self.settings.get("mixer") or "sage"
        self.asked = f"--mixer {mixer}" if self.settings.get("mixer") else "--sage"
        if self.settings.get("sage") and mixer != "sage":
            refuse(f"--sage and --mixer {mixer} can't be combined; drop one of the two")
        try:
            check_count("save_mixed", self.settings.get("save_mixed") or 0, 0)
            if self.settings.get("save_mixed"):
                check_library("matplotlib", "--save-mixed", "Matplotlib", "viz")
            self._create_method(mixer)
        except (ImportError, TypeError, ValueError) as error:
            refuse(in_flags(str(error)))
        if first:
            self._replace(*self._stand_ins())
            self._replace((torch.multiprocessing.start_processes, self._refuse_to_spawn))
            self.watch = Watch()
            self.callback(register_optimizer_step_post_hook(lambda *_: self.watch.step()).remove)
        folder = Path(str(args.get("output") or args.get("output_dir") or "."), "mixed")
        self.watch.tell(self.asked, self.settings.get("save_mixed") or 0, folder)
        if self.settings.get("saliency") == "self" and not self.models:
            self._replace((timm.models.create_model, self._noted_create_model()))
        for name in ("naflex_loader", "aug_splits", "jsd_loss"):
            if args.get(name):
                refuse(f"--{name.replace('_', '-')} can't be combined with {self.asked}; drop one of the two")
        mixup = args.get("mixup", 1.0)
        if isinstance(mixup, (int, float)) and mixup < 0:
            refuse(f"--mixup must be at least 0, got {mixup}")
        own_alpha = mixer == "cutmix" and (args.get("cutmix") or args.get("cutmix_minmax"))
        if mixup == 0 and not isinstance(mixup, bool) and not own_alpha:
            args["mixup"] = self.method.alpha
            say(f"--mixup is 0, so {mixer} would never mix; it takes --mixup {self.method.alpha}, its authors' alpha")
        input_size = args.get("input_size")
        self.in_chans = args.get("in_chans") or (input_size[0] if isinstance(input_size, (list, tuple)) else 3)

    def _create_method(self, mixer: str) -> None:
        """Create the run's method from its flags."""
        flags = {"lam_max": "sage_lam_max", "search_fraction": "sage_search_fraction"}
        ours = {name: self.settings[flag] for name, flag in flags.items() if self.settings.get(flag) is not None}
        if ours and mixer != "sage":
            refuse(f"--{flags[next(iter(ours))].replace('_', '-')} is SAGE's; drop it with {self.asked}")
        kwargs = self.settings.get("mixer_kwargs") or {}
        if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
            refuse(f"--mixer-kwargs must map names to values, got {kwargs!r}")
        if twice := sorted(set(ours) & set(kwargs)):
            refuse(f"{twice[0]} is given twice, by --mixer-kwargs and by --{flags[twice[0]].replace('_', '-')}")
        self.method = create_method(mixer, **ours, **kwargs)

    def finish(self) -> None:
        """Fail where a mixer was asked for and the script never built a Mixup."""
        self.note_unused()
        if self.settings is not None and not self.built:
            refuse(f"{self.asked} was given, but the script never built timm's Mixup; nothing was mixed")

    def note_unused(self) -> None:
        """Say, once, which flags do nothing because no mixer was asked for."""
        if self.settings is None and self.given:
            names = ", ".join("--" + name.replace("_", "-") for name in self.given)
            say(f"{names} has no effect without --sage or --mixer")
            self.given = {}

    def _refuse_to_spawn(self, *args, **kwargs) -> None:
        refuse(
            f"{self.asked} does not reach processes that a script spawns itself; start them by "
            "torchrun ... -m sage_timm SCRIPT"
        )

    def _stand_ins(self) -> list[tuple[object, object]]:
        """List what is replaced and by what."""
        mixup, collate = self._mixup_classes()
        return [
            (timm.data.mixup.Mixup, mixup),
            (timm.data.mixup.FastCollateMixup, collate),
            (timm.data.loader.create_loader, self._mixing_create_loader(collate)),
            (timm.data.transforms_factory.create_transform, self._noted_create_transform()),
        ]

    def _replace(self, *replacements: tuple[object, object]) -> None:
        """Replace timm's names wherever a script has or will have them from."""
        for module in list(sys.modules.values()):
            path = str(getattr(module, "__name__", ""))
            if path.partition(".")[0] in ("timm", "sage_timm") and path not in _PUBLIC:
                continue
            for name, value in list(getattr(module, "__dict__", {}).items()):
                for old, new in replacements:
                    if value is old:
                        self.callback(setattr, module, name, old)
                        setattr(module, name, new)

    def _mixup_classes(self) -> tuple[type, type]:
        takeover = self

        class Mixup(MethodMixup):
            def __init__(self, *args, **kwargs) -> None:
                try:
                    saliency = takeover.saliency() if takeover.method.uses_saliency else None
                    super().__init__(takeover.method, *args, **kwargs, saliency=saliency)
                except (RuntimeError, TypeError, ValueError) as error:
                    refuse(in_flags(str(error)))
                takeover._announce(self)

            def _plan(self, x: torch.Tensor, weights: torch.Tensor) -> MixPlan | None:
                plan = super()._plan(x, weights)
                takeover.watch.batch(self, x, weights, plan)
                return plan

        class FastCollateMixup:
            """What the script takes for timm's; it goes no further than `create_loader`, which unpacks it."""

            def __init__(self, *args, **kwargs) -> None:
                self.mixup = Mixup(*args, **kwargs)

            def __call__(self, batch) -> None:
                raise RuntimeError(
                    "sage_timm mixes after timm's create_loader, but this script gave its FastCollateMixup to another "
                    "loader; mix its batches on the device by `images, target = mixup_fn(images, target)`"
                )

        return Mixup, FastCollateMixup

    def _mixing_create_loader(self, collate: type):
        original = timm.data.loader.create_loader

        @functools.wraps(original)
        def create_loader(*args, **kwargs):
            call = _bind(original, args, kwargs)
            if not call.arguments["is_training"]:
                return original(*args, **kwargs)
            self._note_statistics(call.arguments)
            mixing = call.arguments["collate_fn"]
            if not isinstance(mixing, collate):
                return original(*args, **kwargs)
            call.arguments["collate_fn"] = None
            return MixLoader(original(*call.args, **call.kwargs), mixing.mixup)

        return create_loader

    def _noted_create_transform(self):
        original = timm.data.transforms_factory.create_transform

        @functools.wraps(original)
        def create_transform(*args, **kwargs):
            arguments = _bind(original, args, kwargs).arguments
            if arguments["is_training"]:
                self._note_statistics(arguments)
            return original(*args, **kwargs)

        return create_transform

    def _noted_create_model(self):
        original = timm.models.create_model

        @functools.wraps(original)
        def create_model(*args, **kwargs) -> nn.Module:
            model = original(*args, **kwargs)
            self.models.append(model)
            return model

        return create_model

    def _note_statistics(self, arguments: dict) -> None:
        """Remember the normalisation of the training images and tell the saliency source."""
        mean, std = (s if isinstance(s, (tuple, list)) else (s,) for s in (arguments["mean"], arguments["std"]))
        self.mean, self.std = tuple(mean), tuple(std)
        self.watch.mean, self.watch.std = self.mean, self.std
        if hasattr(self.source, "normalized_with"):
            self.source.normalized_with(self.mean, self.std)

    def saliency(self) -> Source:
        """Create the run's saliency source, once; in a distributed run a node's first rank gets the weights first."""
        if self.source is not None:
            return self.source
        name = self.settings.get("saliency") or "gradient"
        model, checkpoint, size = (
            self.settings.get(f"saliency_{key}") or None for key in ("model", "checkpoint", "size")
        )
        if name in ("spectral", "self") and (model or checkpoint):
            if self.given.keys() & {"saliency_model", "saliency_checkpoint"}:
                refuse(f"--saliency {name} takes no --saliency-model and no --saliency-checkpoint; drop them")
            say(f"--saliency {name} needs no auxiliary model; the config file's {model or checkpoint} is not used")
            model = checkpoint = None
        if name == "self":
            self.source = _SelfOnceBuilt(self, size)
        else:
            with _first_rank_first():
                self.source = create_saliency(
                    name,
                    model=model,
                    checkpoint=checkpoint,
                    size=size,
                    mean=self.mean,
                    std=self.std,
                    in_chans=self.in_chans,
                )
        return self.source

    def _announce(self, mixup: MethodMixup) -> None:
        """Say what mixes; refuse settings that leave the method nothing."""
        self.built = True
        if mixup.mix_prob == 0:
            refuse(f"the mixing probability must be > 0 with {self.asked}, got 0; set --mixup-prob")
        if mixup.mixup_alpha > 0 and mixup.cutmix_alpha > 0 and mixup.switch_prob == 1:
            refuse(
                f"the switch probability must be < 1 with {self.asked}, got 1: CutMix would take all; "
                "set --mixup-switch-prob, or take --mixer cutmix"
            )
        if not mixup.method.uses_saliency and (unused := [f for f in self.settings if f.startswith("saliency")]):
            say(f"{', '.join('--' + f.replace('_', '-') for f in unused)} has no effect: {self.asked} uses no saliency")
        say(repr(mixup))


class _SelfOnceBuilt:
    """The saliency of the model in training, which a script may build after its Mixup."""

    def __init__(self, takeover: Takeover, size: int | None) -> None:
        self.takeover, self.size, self.source = takeover, size, None

    def __call__(self, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.source is None:
            trained = [model for model in self.takeover.models if model.training]
            if not trained:
                raise RuntimeError("--saliency self needs a model in training mode of timm's create_model, found none")
            model = trained[0]
            weights = sum(parameter.numel() for parameter in model.parameters())
            say(f"the saliency follows a {type(model).__name__} of {weights:,} weights")
            self.source = create_saliency("self", model=model, size=self.size)
        return self.source(images, target)

    def __repr__(self) -> str:
        size = f"{self.size} x {self.size} px" if self.size else "the images' own size"
        return f"gradient of the model in training, at {size}"


def _bind(function, args: tuple, kwargs: dict) -> inspect.BoundArguments:
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call


@contextlib.contextmanager
def _first_rank_first() -> Iterator[None]:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not distributed or int(os.environ.get("LOCAL_RANK", torch.distributed.get_rank())) == 0
    if not first:
        torch.distributed.barrier()
    try:
        yield
    finally:
        if distributed and first:
            torch.distributed.barrier()
