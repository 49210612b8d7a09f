"""GuidedMixup (Kang & Kim, AAAI 2023): images whose salient parts lie apart, blended by their saliency."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..checks import check_count, check_library, check_number
from ..plan import Batch, MixPlan
from ..tensors import gaussian_blur, resize, unit_mass

PART = 128  # images that are paired among themselves: the time of an assignment grows with the third power


def least_overlap(maps: torch.Tensor) -> torch.Tensor:
    """Pair each map with another, so that the sum of the distances (L2) between them is large.

    Of three or more, no two choose each other, since their mixes would be the same image twice: map i chooses among the
    next n / 2, cyclically. The best of all such permutations is found (linear assignment).

    Returns:
        [n] int64, a permutation of the maps [n, ...]; a single map is its own.
    """
    from scipy.optimize import linear_sum_assignment

    count = len(maps)
    flat = (maps - maps.mean(0)).flatten(1)
    distance = torch.cdist(flat, flat).double().cpu().numpy()
    place = np.arange(count)
    step = (place - place[:, None]) % count
    ahead = (2 * step < count) | ((2 * step == count) & (place[:, None] < step))
    allowed = ahead & (step > 0) if count > 2 else step == count - 1
    never = count * distance.max(initial=0) + 1
    return torch.from_numpy(linear_sum_assignment(np.where(allowed, -distance, never))[1]).to(maps.device)


@dataclass(frozen=True)
class GuidedMixup:
    """Pair images by least overlap of their saliency, then blend both by their share of it at each pixel.

    With s0 and s1 the blurred maps of a pair, of mass 1: mixed = M image + (1 - M) partner, M = s0 / (s0 + s1).

    Args:
        blur: side in pixels of the Gaussian kernel that the maps are blurred with, odd; 1 for no blur.
        blur_sigma: its standard deviation in pixels, > 0.

    The label weight is the mean of the mask, which is 0.5 where both maps are 0. `partner`, the drawn lam and alpha are
    not used, and nothing is drawn.

    Reference: Kang & Kim, "GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps", AAAI 2023. They take the
    spectral residual and mix half of the batches (`prob` 0.5), or the gradient and mix 80 %.
    Differs: the authors pair along a cycle, each image with the farthest that is left, by a module that they do not
    provide (without it, at random); here the sum of all distances is made large at once, among parts of at most 128
    images.
    """

    blur: int = 7
    blur_sigma: float = 3.0
    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_library("scipy", "GuidedMixup", "SciPy", "methods")
        check_count("blur", self.blur, 1)
        if self.blur % 2 == 0:
            raise ValueError(f"`blur` must be odd, got {self.blur}; use {self.blur + 1}")
        check_number("blur_sigma", self.blur_sigma, 0, 1e6, open_low=True)

    def __call__(self, batch: Batch) -> MixPlan:
        maps = resize(unit_mass(batch.saliency), batch.size)
        with torch.autocast(maps.device.type, enabled=False):
            maps = unit_mass(gaussian_blur(maps, self.blur_sigma, self.blur // 2))
        parts = torch.arange(len(maps), device=maps.device).tensor_split(-(-len(maps) // PART))
        partner = torch.cat([part[least_overlap(maps[part])] for part in parts])
        mask = (maps / (maps + maps[partner])).nan_to_num(0.5)
        return MixPlan.of_pairs(partner, mask, mask.mean((1, 2, 3)))
