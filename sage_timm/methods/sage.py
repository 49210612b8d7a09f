"""SAGE (Ma et al., BMVC 2022): saliency mask after the rearrangement that retains most saliency."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..checks import check_number
from ..plan import Batch, MixPlan
from ..tensors import numbers, translate, unit_mass
from .sage_search import rearrange

TRACE = 1e-15  # least share of an image's saliency that a cell has
LEAST = 1e-22  # ratio, even where 0 is drawn


def saliency_masks(own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    """Compute SAGE's masks M = own / (own + m) and 1 - M, m being the other map moved by `translation`.

    M is 1 where the partner is absent: where it has left the frame, or its map is 0.

    Args:
        own: [B, 1, H, W] float32, positive, with the mixing ratio in its mass.
        other: [B, 1, H, W] float32, the partner's map, likewise, non-negative.
        translation: [B, 2] int64, (dy, dx) in cells of the maps.

    Returns:
        [B, 2, H, W] float32 in [0, 1].

    Reference: section 3.1.
    """
    moved = translate(F.pad(other, (1, 1, 1, 1)), translation)[..., 1:-1, 1:-1]  # 0 outside the frame
    masks = torch.cat([own, moved], 1)
    return masks.div_(masks.sum(1, keepdim=True))


def sage(
    saliency: torch.Tensor,
    partner: torch.Tensor,
    ratio: torch.Tensor,
    size: tuple[int, int],
    translation: torch.Tensor | None = None,
) -> MixPlan:
    """Plan a SAGE mix: find each partner's best translation, then mask and label weight.

    The search runs on the grid of the saliency maps; its translation is rounded to whole pixels of the image, and the
    mask is computed at the image's resolution from the enlarged maps. Maps finer than the image are averaged down.

    Args:
        saliency: [B, 1, h, w] float32, non-negative, any scale up to 1e30.
        partner: [B] int64.
        ratio: [B] float32 in [0, 1], the share of the own map's mass; 1 leaves the image unmixed.
        size: (H, W) of the images.
        translation: [B, 2] int64, (dy, dx) in pixels, to take in place of the best.

    Returns:
        The plan; its lam is the mean of the mask.

    Reference: section 3. Differs: the authors' code leaves a black pixel where both maps are 0; here every map has a
    trace of saliency everywhere, so that the mask is the ratio there, and 1 where the partner has left the frame.
    """
    height, width = size
    if saliency.shape[-2] > height or saliency.shape[-1] > width:
        grid = (min(saliency.shape[-2], height), min(saliency.shape[-1], width))
        saliency = F.adaptive_avg_pool2d(saliency, grid)
    share = ratio.clamp(min=LEAST)
    source = torch.stack([numbers(len(partner), partner.device), partner], 1)
    maps = unit_mass(saliency).clamp_min_(TRACE)[:, 0][source]
    maps = maps * torch.stack([share, 1 - share], 1)[..., None, None]
    own, other = maps.split(1, 1)
    if translation is None:
        translation = rearrange(own, other, size)
    if maps.shape[-2:] != size:
        own, other = F.interpolate(maps, size, mode="bilinear").split(1, 1)
    masks = saliency_masks(own, other, translation)
    moves = F.pad(translation[:, None], (0, 0, 1, 0))[..., None, None]
    return MixPlan(source, masks, masks.mean((2, 3)), moves, own=True)


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

    Reference: Ma et al., "SAGE: Saliency-Guided Mixup with Optimal Rearrangements", BMVC 2022.
    """

    lam_max: float = 0.6
    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("lam_max", self.lam_max, 0, 1, open_low=True)

    def __call__(self, batch: Batch) -> MixPlan:
        return sage(batch.saliency, batch.partner, self.lam_max * batch.lam, batch.size)
