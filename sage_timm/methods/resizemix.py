"""ResizeMix (Qin et al., 2020): the whole partner, shrunk, at a random place."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ..checks import check_number
from ..plan import Batch, MixPlan
from .boxes import box_plan


@dataclass(frozen=True)
class ResizeMix:
    """Paste the whole partner, shrunk, at a place drawn uniformly for each image from torch's generator.

    Args:
        scale_min, scale_max: the partner's sides are a share of the image's between these two, in [0, 1]; the share
            falls with lam, scale_min + (scale_max - scale_min) * (1 - lam), so that alpha 1 draws it uniformly, as the
            authors do.

    The label weight of the partner is its share of the area. It is resized with antialiasing, to a pixel at least.

    Reference: Qin et al., "ResizeMix: Mixing Data with Preserved Object Information and True Labels", 2020, section 3.
    """

    scale_min: float = 0.1
    scale_max: float = 0.8
    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("scale_max", self.scale_max, 0, 1, open_low=True)
        check_number("scale_min", self.scale_min, 0, self.scale_max)

    def __call__(self, batch: Batch) -> MixPlan:
        scale = self.scale_min + (self.scale_max - self.scale_min) * (1 - batch.lam)
        places = torch.rand(2, len(scale), device=scale.device, dtype=scale.dtype)
        edges = []
        for place, length in zip(places, batch.size, strict=True):
            side = (scale * length).round().long().clamp_min(1)
            first = (place * (length - side + 1)).long().clamp_max(length - side)
            edges += [first, first + side]
        box = torch.stack(edges, 1)
        return replace(box_plan(box, batch.partner, None, batch.size), box=box)
