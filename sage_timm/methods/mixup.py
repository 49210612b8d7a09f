"""Mixup (Zhang et al., ICLR 2018): both images everywhere, at a constant ratio."""

from dataclasses import dataclass
from typing import ClassVar

from ..plan import Batch, MixPlan


@dataclass(frozen=True)
class Mixup:
    """Blend each image with its partner: lam image + (1 - lam) partner, labels alike.

    Example:
        >>> import torch
        >>> from sage_timm.plan import Batch
        >>> images, partner, lam = torch.rand(2, 3, 32, 32), torch.tensor([1, 0]), torch.tensor([0.75, 0.25])
        >>> Mixup()(Batch(images, None, partner, lam, 1.0)).mask[:, 0, 0, 0]
        tensor([0.7500, 0.2500])

    Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, section 2.
    """

    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> MixPlan:
        mask = batch.lam.view(-1, 1, 1, 1).expand(-1, 1, *batch.size)
        return MixPlan.of_pairs(batch.partner, mask, batch.lam)
