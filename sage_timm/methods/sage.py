"""SAGE (Ma et al., BMVC 2022): saliency mask after the rearrangement that retains most saliency."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..checks import check_number
from ..plan import Batch, MixPlan
from ..tensors import translate, unit_mass
from .sage_search import rearrange


def saliency_mask(own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor, ratio: torch.Tensor):
    """Compute SAGE's mask M = own / (own + m), m being the other map moved by `translation`.

    M is 1 where the partner is absent (it has left the frame, or its map is 0 where the own one is not), and `ratio`
    where both maps are 0 inside the frame.

    Args:
        own: [B, 1, H, W] float32, non-negative, with the mixing ratio in its mass.
        other: [B, 1, H, W], the partner's map, likewise.
        translation: [B, 2] int64, (dy, dx) in cells of the maps.
        ratio: [B] float32.

    Returns:
        [B, 1, H, W] float32 in [0, 1].

    Reference: section 3.1. Differs: the authors' code yields 0, a black pixel, where both maps are 0.
    """
    moved = translate(other, translation, outside=-1)
    neither = ratio.view(-1, 1, 1, 1).masked_fill(moved < 0, 1)
    both = own + moved.clamp_min_(0)
    return torch.where(both > 0, own / both, neither)


def sage(
    saliency: torch.Tensor,
    partner: torch.Tensor,
    ratio: torch.Tensor,
    size: tuple[int, int],
    *,
    search_fraction: float = 1.0,
    candidates: torch.Tensor | None = None,
) -> MixPlan:
    """Plan a SAGE mix: find each partner's best translation, then mask and label weight.

    The search runs on the grid of the saliency maps; its translation is rounded to whole pixels of the image, and the
    mask is computed at the image's resolution from the enlarged maps. Maps finer than the image are averaged down.

    Args:
        saliency: [B, 1, h, w] float32, non-negative and finite, any scale.
        partner: [B] int64.
        ratio: [B] float32 in [0, 1], the share of the own map's mass; 1 leaves the image unmixed.
        size: (H, W) of the images.
        search_fraction: in (0, 1], the chance of each translation to be tried; the zero translation always is.
        candidates: [B or 1, 2h - 1, 2w - 1] bool, the translations to try instead (see `rearrange`).

    Returns:
        The plan; its lam is the mean of the mask.

    Reference: section 3. Differs: the authors' code draws `rand_pos` = 1 % of the translations, the same for the batch.
    """
    height, width = size
    if saliency.shape[-2] > height or saliency.shape[-1] > width:
        grid = (min(saliency.shape[-2], height), min(saliency.shape[-1], width))
        saliency = F.adaptive_avg_pool2d(saliency, grid)
    rows, columns = saliency.shape[-2:]

    if candidates is None and search_fraction < 1:
        shape = (len(saliency), 2 * rows - 1, 2 * columns - 1)
        candidates = torch.rand(shape, device=saliency.device, dtype=saliency.dtype) < search_fraction
        candidates[:, rows - 1, columns - 1] = True

    share, maps = ratio.view(-1, 1, 1, 1), unit_mass(saliency)
    own, other = share * maps, (1 - share) * maps[partner]
    translation = rearrange(own, other, candidates)
    if (rows, columns) != size:
        dy, dx = translation.float().unbind(1)
        translation = torch.stack([dy * (height / rows), dx * (width / columns)], 1).round().long()
        own, other = (F.interpolate(each, size, mode="bilinear") for each in (own, other))
    mask = saliency_mask(own, other, translation, ratio)
    moves = F.pad(translation[:, None], (0, 0, 1, 0))[..., None, None]
    return MixPlan.of_pairs(partner, mask, mask.mean((1, 2, 3)), moves)


@dataclass(frozen=True)
class SAGE:
    """Move the partner to where most saliency is retained, then blend by the share of the saliency at each pixel.

    With s0 and s1 the saliency of the image and of its partner, of masses a and 1 - a (a = lam_max * lam), and m the
    map s1 moved by a translation t and 0 outside the frame:

        M = s0 / (s0 + m)                                 the mask of the own image
        v(t) = sum over the frame of s0 M + m (1 - M)     retained saliency; t is the translation of largest v
        mixed = M image + (1 - M) moved partner,  label weight of the own image = mean of M

    Example:
        >>> import torch
        >>> from sage_timm.plan import Batch
        >>> images, saliency = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
        >>> saliency[:, :, 12:20, 12:20] = 1  # both objects in the middle
        >>> plan = SAGE()(Batch(images, saliency, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), 1.0))
        >>> plan.translation[:, 1, :, 0, 0].abs().amax(1) >= 8  # each partner moves aside
        tensor([True, True])

    Args:
        lam_max: the ratio, the own image's share of saliency mass, is lam_max * Beta(alpha, alpha); in (0, 1].
        search_fraction: chance of each translation to be tried, in (0, 1]; 1 tries all. Drawn from torch's generator.

    Reference: Ma et al., "SAGE: Saliency-Guided Mixup with Optimal Rearrangements", BMVC 2022.
    """

    lam_max: float = 0.6
    search_fraction: float = 1.0
    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("lam_max", self.lam_max, 0, 1, open_low=True)
        check_number("search_fraction", self.search_fraction, 0, 1, open_low=True)

    def __call__(self, batch: Batch) -> MixPlan:
        """Make the plan of a batch."""
        ratio = self.lam_max * batch.lam
        return sage(batch.saliency, batch.partner, ratio, batch.size, search_fraction=self.search_fraction)
