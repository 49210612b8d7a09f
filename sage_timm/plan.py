"""A mix plan: what is mixed with what, where, and how much each label weighs."""

from dataclasses import dataclass

import torch

from .checks import check_images, check_target
from .rearrange import translate


@dataclass(frozen=True)
class MixPlan:
    """The decisions of one mixed batch; applying them to images and to targets is deterministic.

    Attributes:
        partner: [B] int64, the image that each image is mixed with.
        translation: [B, 2] int64, (dy, dx) in pixels of the image; positive moves the partner's content down / right.
        mask: [B, 1, H, W] float32 in [0, 1], the weight of the own image.
        lam: [B] float32 in [0, 1], the weight of the own label.
    """

    partner: torch.Tensor
    translation: torch.Tensor
    mask: torch.Tensor
    lam: torch.Tensor

    def mix_images(self, images: torch.Tensor) -> torch.Tensor:
        """Blend each image with its moved partner: mask * own + (1 - mask) * partner, 0 where the partner has left.

        Args:
            images: [B, C, H, W], floating point.

        Returns:
            A new tensor of the shape, dtype and memory format of `images`, computed in float32 or better.
        """
        check_images(images)
        channels_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
        partner = translate(images[self.partner], self.translation)
        mixed = (self.mask * images + (1 - self.mask) * partner).to(images.dtype)
        return mixed.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def mix_target(self, target: torch.Tensor) -> torch.Tensor:
        """Blend the class weights [B, N] of each image and its partner: lam * own + (1 - lam) * partner, float32."""
        check_target(target, len(self.lam), target.shape[-1], multi_label=True)
        lam, target = self.lam[:, None], target.float()
        return target * lam + target[self.partner] * (1 - lam)

    def where(self, condition: torch.Tensor, other: "MixPlan") -> "MixPlan":
        """Return this plan for the images where `condition` [B] holds and `other` for the rest."""
        return MixPlan(
            torch.where(condition, self.partner, other.partner),
            torch.where(condition[:, None], self.translation, other.translation),
            torch.where(condition[:, None, None, None], self.mask, other.mask),
            torch.where(condition, self.lam, other.lam),
        )
