"""Plans that paste a box of the partner, for CutMix and its relatives."""

import torch

from ..plan import MixPlan


def box_plan(box: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor | None, size: tuple[int, int]) -> MixPlan:
    """Make the plan that pastes a box of each partner.

    Args:
        box: [B, 4] int64, (top, bottom, left, right) in pixels, bottom and right exclusive; it may be empty.
        partner: [B] int64.
        lam: [B] float32, the label weight of the own image; None for the share of the area that it keeps.
        size: (H, W) of the images.
    """
    if lam is None:
        lam = 1 - ((box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])).float() / (size[0] * size[1])
    top, bottom, left, right = box.view(-1, 4, 1, 1).unbind(1)
    y = torch.arange(size[0], device=box.device)[:, None]
    x = torch.arange(size[1], device=box.device)
    pasted = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return MixPlan.of_pairs(partner, 1 - pasted[:, None].float(), lam)


def centred_box_plan(centre: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Paste boxes of the share 1 - lam of the area around `centre`, [B, 2] int64, (y, x) in pixels; see `box_plan`.

    What the frame leaves of a box sets the label weights.
    """
    edges = []
    for middle, length in zip(centre.unbind(1), size, strict=True):
        side = ((1 - lam).sqrt() * length).long()
        start = middle - side // 2
        edges += [start.clamp_min(0), (start + side).clamp_max(length)]
    return box_plan(torch.stack(edges, 1), partner, None, size)
