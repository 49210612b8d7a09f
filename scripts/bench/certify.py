"""Proof that a translation is the best one, by the search's own sums with more poles."""

import torch

from sage_timm.methods.sage_search import TERMS, TIE, TOP, poles, retained_saliency, retained_saliency_map

FINE_TERMS = 12  # poles to prove with


def largest_error(own: torch.Tensor, other: torch.Tensor, terms: int = TERMS) -> torch.Tensor:
    """Bound the error of `retained_saliency_map`, up to float32 rounding: [B], in the unit of the maps.

    2 a b / (a + b) is at most sqrt(a b), so that no value is wrong by more than the square root of (sum of
    own * r_K(own)^2) * (sum of other * r_K(other)^2), by the inequality of Cauchy and Schwarz.
    """
    maps = torch.stack([own, other], dim=1)
    pole = poles(maps, terms)
    remainder = ((pole - maps) / (pole + maps)).prod(2)
    return (maps[:, :, 0] * remainder.square()).sum((-2, -1)).prod(1).sqrt()


def certify(
    own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """Try to prove that translations are best: that each retains as much as any candidate, up to `TIE`.

    The candidates are ranked with more poles than `rearrange` takes and the best evaluated exactly; of the others the
    first one's value and `largest_error` bound what any can retain.

    Args:
        own: see `rearrange`.
        other: see `rearrange`.
        translation: [B, 2] int64, (dy, dx) in cells.
        candidates: see `rearrange`.

    Returns:
        [B] bool; False where the bound cannot tell.
    """
    height, width = own.shape[-2:]
    value = retained_saliency_map(own, other, FINE_TERMS).flatten(1)
    if candidates is not None:
        value = value.masked_fill(~candidates.flatten(1), -torch.inf)
    best, index = value.topk(min(TOP + 1, value.shape[1]), dim=1)
    tried = index[:, :TOP]
    moves = torch.stack([tried // (2 * width - 1) - (height - 1), tried % (2 * width - 1) - (width - 1)], dim=-1)
    exact = retained_saliency(own, other, moves).masked_fill(best[:, :TOP].isneginf(), -torch.inf)
    bound = best[:, TOP:] + largest_error(own, other, FINE_TERMS)[:, None]
    reached = retained_saliency(own, other, translation[:, None])
    return (reached >= (1 - TIE) * torch.cat([exact, bound], dim=1)).all(1)
