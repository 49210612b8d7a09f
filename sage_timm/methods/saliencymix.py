"""SaliencyMix (Uddin et al., ICLR 2021): a box around the partner's most salient point, pasted at the same place."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..plan import Batch, MixPlan
from ..tensors import numbers
from .boxes import centred_box_plan


def peak(saliency: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Find the pixel, of `size`, in the middle of each map's highest cell: [B, 1, h, w] to [B, 2] int64, (y, x).

    Of equal ones the nearest to the centre.
    """
    rows, columns = saliency.shape[-2:]
    y, x = (2 * numbers(count, saliency.device) + 1 for count in (rows, columns))  # middles, in halves of a cell
    distance = (y / rows - 1)[:, None] ** 2 + (x / columns - 1) ** 2
    highest = saliency >= saliency.amax((-2, -1), keepdim=True)
    index = distance.where(highest, torch.inf).flatten(1).argmin(1)
    y, x = y[index // columns] * size[0], x[index % columns] * size[1]
    return torch.stack([y // (2 * rows), x // (2 * columns)], 1)


@dataclass(frozen=True)
class SaliencyMix:
    """Paste a box of the partner around its most salient pixel.

    The sides of the box are sqrt(1 - lam) of the image's, clipped to the frame; the partner's label weight is the share
    of the area that is left.

    Reference: Uddin et al., "SaliencyMix", ICLR 2021, section 3.
    Differs: the authors' code uses the box of one image for the whole batch; here each image has its own. Sides of an
    odd number of pixels keep it (theirs lose one). Their saliency is OpenCV's StaticSaliencyFineGrained.
    """

    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> MixPlan:
        centre = peak(batch.saliency, batch.size)[batch.partner]
        return centred_box_plan(centre, batch.partner, batch.lam, batch.size)
