"""Plans that paste a box of the partner, for CutMix and its relatives."""

import torch

from ..plan import MixPlan


def box_plan(box: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Make the plan that pastes a box of each partner.

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


def centred_box_plan(centre: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Make the plan that pastes, around a centre, a box with the share 1 - lam of the area, clipped to the frame.

    Args:
        centre: [B, 2] int64, (y, x) in pixels.
        partner: [B] int64.
        lam: [B] float32 in [0, 1]; the box's sides are sqrt(1 - lam) of the frame's, in whole pixels.
        size: (H, W) of the images.

    Returns:
        The plan; its label weights are those of the clipped box.
    """
    edges, kept = [], torch.ones_like(lam)
    for middle, length in zip(centre.unbind(1), size, strict=True):
        side = ((1 - lam).sqrt() * length).long()
        start = middle - side // 2
        first, last = start.clamp_min(0), (start + side).clamp_max(length)
        edges += [first, last]
        kept = kept * (last - first) / length
    return box_plan(torch.stack(edges, 1), partner, 1 - kept, size)
