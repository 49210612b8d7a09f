"""What SAGE has to work with in the saliency of a set of images, in a few numbers."""

from dataclasses import dataclass

import torch

from ..methods.sage import sage
from ..tensors import unit_mass


@dataclass(frozen=True)
class Report:
    """Figures of N images mixed by SAGE, image i with image N - 1 - i.

    Attributes:
        images: how many there are.
        half: smallest share of the frame that holds half of an image's saliency, median; 0.5 for a flat map.
        moved: share of partners that move.
        distance: how far those go, in pixels, median; 0 where none moves.
        side: shorter side of the images in pixels.
        unmoved: share of its saliency that the own image retains plus that of the partner, mean, if none moved.
        retained: the same with SAGE's translations; 1 for Mixup at any ratio.
    """

    images: int
    half: float
    moved: float
    distance: float
    side: int
    unmoved: float
    retained: float

    def lines(self) -> list[str]:
        """Say it in words."""
        mask, moves = self.unmoved - 1, self.retained - self.unmoved
        distance = f", by {self.distance:.0f} of {self.side} px (median)" if self.moved else ""
        return [
            f"half of an image's saliency lies in {self.half:.0%} of the frame (median; 50% is a flat map; "
            "not the object's size)",
            f"{self.moved:.0%} of the partners move{distance}",
            f"of their saliency the two images retain {self.retained:.2f} together, where Mixup retains 1.00: "
            f"{mask:+.2f} by the mask, {moves:+.2f} by the moves",
        ]


def measure(saliency: torch.Tensor, size: tuple[int, int], ratio: float) -> Report:
    """Mix image i of N with image N - 1 - i by SAGE, and measure what that retains.

    Args:
        saliency: [B, 1, h, w], non-negative, any scale; at least 2 images.
        size: (H, W) of the images.
        ratio: SAGE's mixing ratio, the own image's share of the saliency, in (0, 1).
    """
    maps = unit_mass(saliency.float())
    # How many of the largest cells it takes to hold half of the mass.
    sums = maps.flatten(1).sort(1, descending=True).values.cumsum(1)
    half = ((sums < 0.5).sum(1) + 1) / sums.shape[1]

    partner = torch.arange(len(maps), device=maps.device).flip(0)
    ratios = torch.full((len(maps),), ratio, device=maps.device)
    plan = sage(maps, partner, ratios, size)
    assert plan.translation is not None
    translation = plan.translation[:, 1, :, 0, 0]
    distance = translation.float().norm(dim=1)
    moved = distance > 0

    still = sage(maps, partner, ratios, size, torch.zeros_like(translation))
    return Report(
        images=len(maps),
        half=half.median().item(),
        moved=moved.float().mean().item(),
        distance=distance[moved].median().item() if moved.any() else 0.0,
        side=min(size),
        unmoved=still.retained(maps).sum(1).mean().item(),
        retained=plan.retained(maps).sum(1).mean().item(),
    )
