"""Mixup (Zhang et al., ICLR 2018): both images everywhere, at a constant ratio."""

from dataclasses import dataclass
from typing import ClassVar

from ..plan import Batch, MixPlan


@dataclass(frozen=True)
class Mixup:
    """Blend each image with its partner: lam image + (1 - lam) partner, labels alike.

    Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, section 2.
    """

    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> MixPlan:
        mask = batch.lam.view(-1, 1, 1, 1).expand(-1, 1, *batch.size)
        return MixPlan.of_pairs(batch.partner, mask, batch.lam)
