"""CutMix (Yun et al., ICCV 2019): a box of the partner, pasted at the same place."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..plan import Batch, MixPlan
from .boxes import centred_box_plan


@dataclass(frozen=True)
class CutMix:
    """Paste a box of the partner, its centre drawn uniformly for each image from torch's generator.

    The sides of the box are sqrt(1 - lam) of the image's, clipped to the frame; the partner's label weight is the share
    of the area that is left.

    Reference: Yun et al., "CutMix", ICCV 2019, section 3.1.
    """

    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> MixPlan:
        y, x = torch.rand(2, len(batch.lam), device=batch.lam.device, dtype=batch.lam.dtype)
        centre = torch.stack([y * batch.size[0], x * batch.size[1]], 1).long()
        return centred_box_plan(centre, batch.partner, batch.lam, batch.size)
