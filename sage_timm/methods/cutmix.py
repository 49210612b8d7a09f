"""CutMix (Yun et al., ICCV 2019): a box of the partner, pasted at the same place."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..plan import Batch, MixPlan


def paste(box: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Build the plan that pastes a box of each partner.

    Args:
        box: [B, 4] int64, (top, bottom, left, right) in pixels, bottom and right exclusive; it may be empty.
        partner: [B] int64.
        lam: [B] float32, the label weight of the own image.
        size: (H, W) of the images.
    """
    top, bottom, left, right = box.view(-1, 4, 1, 1).unbind(1)
    y = torch.arange(size[0], device=box.device)[:, None]
    x = torch.arange(size[1], device=box.device)
    pasted = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return MixPlan.of_pairs(partner, 1 - pasted[:, None].float(), lam)


def paste_around(centre: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Build the plan that pastes, around a centre, a box with the share 1 - lam of the area, clipped to the frame.

    Args:
        centre: [B, 2] int64, (y, x) in pixels.
        partner: [B] int64.
        lam: [B] float32 in [0, 1]; the box's sides are sqrt(1 - lam) of the frame's, in whole pixels.
        size: (H, W) of the images.

    Returns:
        The plan; its label weights are those of the clipped box.
    """
    edges, kept = [], 1
    for middle, length in zip(centre.unbind(1), size, strict=True):
        side = ((1 - lam).sqrt() * length).long()
        start = middle - side // 2
        first, last = start.clamp_min(0), (start + side).clamp_max(length)
        edges += [first, last]
        kept = kept * (last - first) / length
    return paste(torch.stack(edges, 1), partner, 1 - kept, size)


@dataclass(frozen=True)
class CutMix:
    """Paste a box of the partner, its centre drawn uniformly for each image from torch's generator.

    Reference: Yun et al., "CutMix", ICCV 2019, section 3.1.
    """

    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> MixPlan:
        """Make the plan of a batch."""
        y, x = torch.rand(2, len(batch.lam), device=batch.lam.device)
        centre = torch.stack([y * batch.size[0], x * batch.size[1]], 1).long()
        return paste_around(centre, batch.partner, batch.lam, batch.size)
