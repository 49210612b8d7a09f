"""CutMix (Yun et al., ICCV 2019): a box of the partner, pasted at the same place."""

import torch

from ..plan import MixPlan


def cutmix(box: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, size: tuple[int, int]) -> MixPlan:
    """Build the plan that pastes a box of each partner.

    Args:
        box: [B, 4] int64, (top, bottom, left, right) in pixels, bottom and right exclusive.
        partner: [B] int64.
        lam: [B] float32, the label weight of the own image.
        size: (H, W) of the images.
    """
    top, bottom, left, right = box.view(-1, 4, 1, 1).unbind(1)
    y = torch.arange(size[0], device=box.device)[:, None]
    x = torch.arange(size[1], device=box.device)
    pasted = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return MixPlan(partner, torch.zeros_like(box[:, :2]), 1 - pasted[:, None].float(), lam)
