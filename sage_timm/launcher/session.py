"""One run with a mixer: its method, its saliency source, the statistics of its images, and what it announces."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..checks import check_count
from ..mixup import Draw, MethodMixup
from ..plan import MixPlan
from ..saliency import Saliency, create_saliency
from .console import is_first_rank, say
from .monitor import DRAWN, Monitor, save_picture, unused
from .settings import Settings

ASSUMED = (
    ", assumed to be normalised as for the saliency model: the script made no transforms and no loader by timm's "
    "create_transform or create_loader, whose mean and std would count"
)


class Session:
    """What the mixers of a run share.

    Attributes:
        settings: may be replaced until the script builds its Mixup, by what a later parser parsed.
        statistics: per-channel mean and std the training images are normalised with; None where unknown.
        models: models that the script created, for saliency 'self'.
        source: the saliency source, once a mixer needed it.
        monitor: counts the run's batches.
        mixup: the mixer built last; None where the script never built one.
        folder: where pictures of mixed batches go, once there are any.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.statistics: tuple[Sequence[float], Sequence[float]] | None = None
        self.models: list[nn.Module] = []
        self.source: Saliency | None = None
        self.monitor = Monitor(settings.asked)
        self.mixup: SessionMixup | None = None
        self.folder: Path | None = None

    def saliency(self) -> Saliency | None:
        """Return the run's saliency source, created once; None for a method that uses none.

        In a distributed run a node's first rank gets the weights first.
        """
        if self.source is None and self.settings.uses_saliency:
            settings = self.settings
            if settings.saliency == "self":
                self.source = SelfSaliency(self.models, **settings.source)
            else:
                with _first_rank_first():
                    self.source = create_saliency(settings.saliency, **settings.source)
            self.source.normalized_with(*(self.statistics or (None, None)))
        return self.source

    def note_statistics(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        """Remember the normalisation of the training images and tell the saliency source."""
        mean, std = (tuple(s) if isinstance(s, (tuple, list)) else (s,) for s in (mean, std))
        self.statistics = mean, std
        if self.source is not None:
            self.source.normalized_with(mean, std)

    def announce(self, mixup: "SessionMixup") -> None:
        """Say what mixes; ValueError where the script's settings leave the method nothing."""
        asked = self.settings.asked
        if mixup.mix_prob == 0:
            raise ValueError(f"the mixing probability must be > 0 with {asked}, got 0; set --mixup-prob")
        if mixup.mixup_alpha > 0 and mixup.cutmix_alpha > 0 and mixup.switch_prob == 1:
            raise ValueError(
                f"the switch probability must be < 1 with {asked}, got 1: CutMix would take all; "
                "set --mixup-switch-prob, or use --mixer cutmix"
            )
        self.mixup = mixup
        for note in (*self.settings.notes, repr(mixup)):
            say(note)

    def show(self, mixup: "SessionMixup", images: torch.Tensor, target: torch.Tensor, plan: MixPlan | None) -> None:
        """Count a batch; describe the first one, draw the first mixed ones."""
        self.monitor.batch(mixup, len(images), plan is not None)
        if self.monitor.batches == 1:
            size = " x ".join(map(str, images.shape))
            say(f"first batch {size}, {images.dtype} on {images.device}{self._normalisation()}")
        if plan is not None and self.monitor.mixed <= self.settings.save_mixed and is_first_rank():
            self.folder = self.folder or unused(self.settings.folder)
            path = self.folder / f"mixed-{self.monitor.mixed:03d}.png"
            try:
                save_picture(path, images, target, plan, mixup.mixers(), self.statistics)
                drawn = f"{min(DRAWN, len(images))} of {len(images)} images of a mixed batch"
                say(f"{path}: {drawn}, under each what mixed it, its classes and their weights")
            except OSError as error:
                self.settings = replace(self.settings, save_mixed=0)
                say(f"can't write {path} ({error.strerror}); the training goes on without pictures")

    def _normalisation(self) -> str:
        if self.statistics is not None:
            mean, std = self.statistics
            return f", normalised with mean {mean}, std {std}"
        return ASSUMED if self.settings.needs_model else ""


class SessionMixup(MethodMixup):
    """The mixer of a session, with the arguments of timm's Mixup; it shows the session every batch."""

    def __init__(self, session: Session, *args, **kwargs) -> None:
        settings = session.settings
        super().__init__(
            settings.method,
            *args,
            **kwargs,
            saliency=session.saliency(),
            method_share=settings.share,
            label_weight=settings.label_weight,
        )
        self.session = session
        session.announce(self)

    def _plan(self, x: torch.Tensor, weights: torch.Tensor) -> MixPlan | None:
        plan = super()._plan(x, weights)
        self.session.show(self, x, weights, plan)
        return plan

    def _draw(self, shape: torch.Size) -> Draw:
        self.drawn = super()._draw(shape)
        return self.drawn

    def mixers(self) -> list[str]:
        """Name for each image of the last batch what mixed it."""
        drawn, method = self.drawn, type(self.method).__name__
        each = zip(drawn.by_method, drawn.by_cutmix, drawn.by_mixup, strict=True)
        return [
            method if by_method else "CutMix" if by_cutmix else "Mixup" if by_mixup else "not mixed"
            for by_method, by_cutmix, by_mixup in each
        ]


class SelfSaliency(Saliency):
    """The gradient of the model in training, which a script may create after its Mixup.

    Args:
        models: the models created so far, looked at when the first batch comes; the first in training mode counts.
        size: see `create_saliency`.
        **settings: `blur`, `grid` and `floor`, see `create_saliency`.
    """

    def __init__(self, models: Sequence[nn.Module], size: int | None = None, **settings) -> None:
        super().__init__(**settings)
        self.models = models
        self.size = None if size is None else check_count("size", size, 1)
        self.settings = settings
        self.source: Saliency | None = None

    def __call__(self, images: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the maps [B, 1, h, w] of a batch."""
        if self.source is None:
            model = next((model for model in self.models if model.training), None)
            if model is None:
                raise RuntimeError("--saliency self needs a model in training mode of timm's create_model, found none")
            weights = sum(parameter.numel() for parameter in model.parameters())
            say(f"the saliency follows a {type(model).__name__} of {weights:,} weights")
            self.source = create_saliency("self", model=model, size=self.size, **self.settings)
        return self.source(images, target)

    def __repr__(self) -> str:
        size = f"{self.size} x {self.size} px" if self.size else "the images' own size"
        return f"gradient of the model in training, at {size}"


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
