"""Mixing in the main process, on the device, after timm's PrefetchLoader."""

from collections.abc import Iterator

import torch

from .mixup import MethodMixup


class MixLoader:
    """A loader whose batches are mixed as they leave it.

    Batches are mixed after timm's PrefetchLoader has moved and normalised them, so the saliency model runs on the
    device and `mixup_enabled` acts at once; timm's own FastCollateMixup mixes in the workers, where persistent ones
    never hear of the switch. Everything else is the wrapped loader's.

    Args:
        loader: yields (images [B, C, H, W], target).
        mixup: what mixes them.
    """

    def __init__(self, loader, mixup: MethodMixup) -> None:
        self.loader = loader
        self.mixup = mixup

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, target in self.loader:
            yield self.mixup(images, target)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; targets are smoothed class weights either way."""
        return self.mixup.mixup_enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self.mixup.mixup_enabled = enabled

    def __getattr__(self, name: str):
        if name in ("loader", "mixup"):
            raise AttributeError(name)
        return getattr(self.loader, name)
