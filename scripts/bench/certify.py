"""Proof that a translation is the best one, by the search's own sums with more poles."""

import torch

from sage_timm.methods.sage_search import TERMS, TIE, TOP, lost_saliency, poles, retained_saliency

FINE_TERMS = 12  # poles to prove with


def number_of(translation: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Number translations [..., 2], (dy, dx) in cells of maps [..., h, w], as the search does."""
    height, width = maps.shape[-2:]
    dy, dx = translation.unbind(-1)
    return (height - 1 - dy) * (2 * width - 1) + width - 1 - dx


def retained_saliency_map(own: torch.Tensor, other: torch.Tensor, terms: int = TERMS) -> torch.Tensor:
    """Approximate the retained saliency v(t) of every translation.

    Args:
        own: [B, 1, h, w] float32, non-negative.
        other: [B, 1, h, w] float32, non-negative, the map that moves.
        terms: number of poles.

    Returns:
        [B, 2h - 1, 2w - 1] float32; entry (i, j) belongs to (dy, dx) = (i - h + 1, j - w + 1).
    """
    value = own.sum((1, 2, 3))[:, None] - 4 * lost_saliency(own, other, terms)
    return value.unflatten(1, (-1, 2 * own.shape[-1] - 1)).flip(1, 2)


def largest_error(own: torch.Tensor, other: torch.Tensor, terms: int = TERMS) -> torch.Tensor:
    """Bound the error of `retained_saliency_map`, up to float32 rounding: [B], in the unit of the maps.

    2 a b / (a + b) is at most sqrt(a b), so that no value is wrong by more than the square root of (sum of
    own * r_K(own)^2) * (sum of other * r_K(other)^2), by the inequality of Cauchy and Schwarz.
    """
    maps = torch.stack([own, other], dim=1)
    pole = poles(maps, terms)
    remainder = ((pole - maps) / (pole + maps)).prod(2)
    return (maps[:, :, 0] * remainder.square()).sum((-2, -1)).prod(1).sqrt()


def certify(own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    """Try to prove that translations are best: that each retains as much as any, up to `TIE`.

    All are ranked with more poles than `rearrange` takes and the best evaluated exactly; of the others the first one's
    value and `largest_error` bound what any can retain.

    Args:
        own: see `rearrange`.
        other: see `rearrange`.
        translation: [B, 2] int64, (dy, dx) in cells.

    Returns:
        [B] bool; False where the bound cannot tell.
    """
    value = retained_saliency_map(own, other, FINE_TERMS).flip(1, 2).flatten(1)
    best, number = value.topk(min(TOP + 1, value.shape[1]), dim=1)
    exact = retained_saliency(own, other, number[:, :TOP])
    bound = best[:, TOP:] + largest_error(own, other, FINE_TERMS)[:, None]
    reached = retained_saliency(own, other, number_of(translation, own)[:, None])
    return (reached >= (1 - TIE) * torch.cat([exact, bound], dim=1)).all(1)
