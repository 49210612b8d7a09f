"""One file per mixing method; each turns a `Batch` into a `MixPlan`."""

import inspect
from collections.abc import Callable
from typing import ClassVar, Protocol

from ..plan import Batch, MixPlan
from .comixup import CoMixup
from .cutmix import CutMix
from .guidedmixup import GuidedMixup
from .mixup import Mixup
from .puzzlemix import PuzzleMix
from .resizemix import ResizeMix
from .sage import SAGE
from .saliencymix import SaliencyMix

__all__ = [
    "METHODS",
    "SAGE",
    "CoMixup",
    "CutMix",
    "GuidedMixup",
    "Method",
    "Mixup",
    "PuzzleMix",
    "ResizeMix",
    "SaliencyMix",
    "create_method",
]


class Method(Protocol):
    """Makes the plan of a batch.

    Attributes:
        alpha: the authors' Beta (or Dirichlet) parameter.
        uses_saliency: whether `Batch.saliency` is looked at.
    """

    alpha: ClassVar[float]
    uses_saliency: ClassVar[bool]

    def __call__(self, batch: Batch) -> MixPlan:
        """Make the plan of a batch."""


METHODS: dict[str, Callable[..., Method]] = {
    "sage": SAGE,
    "mixup": Mixup,
    "cutmix": CutMix,
    "saliencymix": SaliencyMix,
    "puzzlemix": PuzzleMix,
    "comixup": CoMixup,
    "resizemix": ResizeMix,
    "guidedmixup": GuidedMixup,
}


def create_method(name: str, /, **settings) -> Method:
    """Create a method by its name in `METHODS`, with settings by the names of its paper (see its class).

    Raises:
        ValueError, TypeError: an unknown name or setting, or one out of range.
        ImportError: a library of the extra `methods` is missing.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {name!r}")
    known = list(inspect.signature(METHODS[name]).parameters)
    if unknown := sorted(set(settings) - set(known)):
        has = f"has {', '.join(known)}" if known else "has no settings of its own"
        raise TypeError(f"{name} {has}, got {', '.join(unknown)}")
    return METHODS[name](**settings)
