"""One run with a mixer: its method, its saliency source, the statistics of its images, and what it announces."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..plan import MixPlan
from ..saliency import Saliency, create_saliency
from ..saliency.gradient import Feature
from ..surfaces.timm import Draw, MethodMixup
from ..surfaces.torchvision import SageMix
from ..tensors import per_channel
from ..visualize import draw_mixed
from .monitor import BY_METHOD, BY_OTHERS, CUTMIX, OFF, UNMIXED, Monitor, is_first_rank, say
from .settings import Settings

DRAWN = 32  # images of a picture
ASSUMED = (
    ", assumed to be normalised as for the saliency model: neither timm's loader nor torchvision's Normalize told a "
    "mean and std; --saliency-mean and --saliency-std say them"
)
Statistics = tuple[Sequence[float], Sequence[float]]


class Session:
    """What the mixers of a run share, and the processes that the script starts.

    Attributes:
        settings: may be replaced until the script builds its mixer, by what a later parser parsed.
        script, flags: the script, and the launcher's flags as words, for a command that starts it anew.
        noted: pairs of mean and std, of which the first counts: that of timm's loader, else of each Normalize.
        source: the saliency source, once a mixer needed it.
        built, described: whether there is a mixer; whether the first batch was described.
        drawn, taken: number of mixed batches at the last picture; largest number of a picture of another run.
    """

    def __init__(self, settings: Settings, script: str = "", flags: Iterable[str] = ()) -> None:
        self.settings, self.script, self.flags = settings, script, tuple(flags)
        self.noted: list[Statistics] = []
        self.by_loader = False
        self.source: Saliency | None = None
        self.monitor = Monitor(settings.asked)
        self.built, self.described, self.drawn, self.taken = False, False, 0, 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "source": None}

    @property
    def statistics(self) -> Statistics | None:
        """Per-channel mean and std the training images are normalised with; None where unknown."""
        return self.settings.statistics or (self.noted[0] if self.noted else None)

    def saliency(self) -> Saliency | None:
        """Return the run's source, created once; None for a method that uses none."""
        if self.source is None and self.settings.source is not None:
            self.source = create_saliency(**self.settings.source)
            self._tell_source()
        return self.source

    def note_statistics(self, mean: Any, std: Any, of_loader: bool = False) -> None:
        """Remember what images are normalised with; ignore a Normalize that is not for images in [0, 1]."""
        noted = _numbers(mean), _numbers(std)
        if of_loader:
            self.noted, self.by_loader = [noted], True
        elif not self.by_loader and noted not in self.noted and max(*noted[0], *noted[1]) <= 1 and min(noted[1]) > 0:
            self.noted.append(noted)
        self._tell_source()

    def _tell_source(self) -> None:
        if self.source is not None:
            self.source.normalized_with(*(self.statistics or (None, None)))

    def announce(self, mixer: str) -> None:
        """Say what mixes."""
        for note in (*self.settings.notes, mixer):
            say(note)
        self.built = True
        pictures = self.settings.folder.glob("mixed-[0-9][0-9][0-9].png")
        self.taken = max((int(path.stem[-3:]) for path in pictures), default=0)

    def show(
        self, images: torch.Tensor, target: torch.Tensor, plan: MixPlan | None, mixers: list[str], enabled: bool = True
    ) -> None:
        """Count a batch of images before they are mixed by `mixers`; describe the first, draw the first mixed ones."""
        by_method = type(self.settings.method).__name__ in mixers
        unmixed = UNMIXED if enabled else OFF
        number = self.monitor.batch(unmixed if plan is None else BY_METHOD if by_method else BY_OTHERS)
        if self.described and (plan is None or self.drawn >= self.settings.save_mixed):
            return
        counts = self.monitor.counts(number)
        if counts.total() - counts[CUTMIX] == 1:
            self._describe(images)
        self.described, self.drawn = True, counts[BY_METHOD] + counts[BY_OTHERS]
        if plan is not None and self.drawn <= self.settings.save_mixed and is_first_rank():
            self._save(images, target, plan, mixers)

    def _save(self, images: torch.Tensor, target: torch.Tensor, plan: MixPlan, mixers: list[str]) -> None:
        pixels = images.float() if images.is_floating_point() else images / 255
        if self.statistics is not None and images.is_floating_point():
            mean, std = (per_channel(values, pixels) for values in self.statistics)
            pixels = pixels * std + mean
        names = [f"class {label}" for label in target.argmax(1).tolist()]
        path = self.settings.folder / f"mixed-{self.taken + self.drawn:03d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_mixed(pixels, plan, names, DRAWN, mixers).savefig(path, dpi=100)
            drawn = f"{min(DRAWN, len(images))} of {len(images)} images of a mixed batch"
            say(f"{path}: {drawn}, under each what mixed it, its classes and their weights")
        except OSError as error:
            self.settings = replace(self.settings, save_mixed=0)
            say(f"can't write {path} ({error.strerror}); the training goes on without pictures")

    def _describe(self, images: torch.Tensor) -> None:
        said = f"first batch {' x '.join(map(str, images.shape))}, {images.dtype} on {images.device}"
        if images.is_floating_point() and self.statistics is not None:
            like = torch.empty(1, images.shape[1], 1, 1)
            mean, std = (_numbers(per_channel(values, like)) for values in self.statistics)
            said += f", normalised with mean {mean}, std {std}"
            if self.settings.statistics is None and len(self.noted) > 1:
                said += "; Normalize was given others, too: --saliency-mean and --saliency-std decide"
        elif images.is_floating_point() and self.source is not None and self.source.statistics is not None:
            said += ASSUMED
        if isinstance(self.source, Feature) and self.source.size is None:
            said += f"; saliency at stage {self.source.stage(images.shape[-2:])[0]['module']}"
        say(said)


class SessionMixup(MethodMixup):
    """The mixer of a session, with the arguments of timm's Mixup; it shows the session every batch.

    As timm's it changes the images in place, which scripts that drop what it returns rely on.
    """

    def __init__(self, session: Session, *args, **kwargs) -> None:
        settings = session.settings
        self.session = session
        super().__init__(
            settings.method, *args, **kwargs, saliency=session.saliency(), label_weight=settings.label_weight
        )
        if self.mix_prob == 0:
            raise ValueError(f"`prob` must be > 0 with {settings.asked}, got 0, which mixes nothing")
        if self.mixup_alpha > 0 and self.cutmix_alpha > 0 and self.switch_prob == 1:
            raise ValueError(f"`switch_prob` must be < 1 with {settings.asked}, got 1, which leaves all to CutMix")
        session.announce(repr(self))

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch, in place but where a graph hangs on it or its images share memory; see `MethodMixup`."""
        mixed, target = super().__call__(x, target)
        with contextlib.suppress(RuntimeError):
            mixed = mixed if x.requires_grad else x.copy_(mixed)
        return mixed, target

    def _plan(self, x: torch.Tensor, weights: torch.Tensor) -> MixPlan | None:
        plan = super()._plan(x, weights)
        self.session.show(x, weights, plan, self.mixers, self.mixup_enabled)
        return plan

    def _draw(self, shape: torch.Size) -> Draw:
        draw, method = super()._draw(shape), type(self.method).__name__
        each = zip(draw.by_method, draw.by_cutmix, strict=True)
        self.mixers = [method if by_method else "CutMix" if by_cutmix else "not mixed" for by_method, by_cutmix in each]
        return draw


class SessionMix(SageMix):
    """The mixer of a session, with the arguments of torchvision's v2.MixUp; it shows the session every batch."""

    def __init__(self, session: Session, **kwargs) -> None:
        settings, saliency = session.settings, session.saliency()
        super().__init__(
            **kwargs, **settings.kwargs, method=settings.mixer, saliency=saliency, label_weight=settings.label_weight
        )
        self.session = session
        session.announce(self.extra_repr())

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw and search for a batch; see `SageMix`."""
        images = flat_inputs[0].as_subclass(torch.Tensor)
        params = super().make_params(flat_inputs)
        self.session.show(images, params["weights"], params["plan"], [type(self.method).__name__] * len(images))
        return params


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in torch.as_tensor(values).flatten().tolist())
