"""The model that saliency looks through, and how it is fed and run."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..tensors import per_channel, resize
from .base import Statistics


@dataclass(frozen=True)
class Auxiliary:
    """A model with what is needed to feed and run it: a frozen copy, or the one in training.

    Attributes:
        model: images [B, C, h, w] -> logits [B, N]; if frozen, in eval mode, no parameter with a gradient.
        statistics: per-channel mean and std it was trained with, on images in [0, 1]; None where unknown.
        size: (h, w) in pixels that its saliency is computed at; None for the images' own size.
        origin: what it is and where its weights come from, in a few words.
        own: the weights are the user's own, so that the labels are read as the model's classes where it has as many.
        frozen: it moves to the images' device and gets the channels it was built for. The model in training must live
            on that device and takes the images as they come; its modes, buffers and gradients are left as found.
    """

    model: nn.Module
    statistics: Statistics | None
    size: tuple[int, int] | None
    origin: str
    own: bool = False
    frozen: bool = True

    def channels(self, given: int) -> int:
        """Return the number of channels that the model is to see of images with `given`.

        That is 1 or 3 where its first convolution says that it was built for these, also where a stem folds k x k
        pixels into 3 k^2 channels; any other model sees the images as they are.
        """
        first = next((module for module in self.model.modules() if isinstance(module, nn.Conv2d)), None)
        seen = first.in_channels if first and self.frozen else given
        if seen in (given, 1):
            return seen
        return 3 if seen % 3 == 0 and math.isqrt(seen // 3) ** 2 == seen // 3 else given

    def input(self, images: torch.Tensor, size: tuple[int, int] | None, given: Statistics | None) -> torch.Tensor:
        """Resize images [B, C, H, W] and give them the channels and the normalisation that the model expects; a copy.

        Where the model takes 1 or 3 channels and the images have others, each of its own is the mean over theirs.
        `given` is the mean and std that the images are normalised with, where known.
        """
        resized = resize(images, size or images.shape[-2:])
        images = images.clone() if resized is images else resized
        own, channels = self.statistics, self.channels(images.shape[1])
        restate = (own, channels) != (given, images.shape[1])
        if own and given and restate:
            images = images * per_channel(given[1], images) + per_channel(given[0], images)
        if channels != images.shape[1]:
            images = images.mean(1, keepdim=True).repeat(1, channels, 1, 1)
        if own and given and restate:
            images = (images - per_channel(own[0], images)) / per_channel(own[1], images)
        return images.to(next(self.model.parameters(), images).dtype)

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model in eval mode, a frozen one on `device`; modes are put back, also after an error."""
        model = unwrap(self.model)
        if self.frozen and any(parameter.device != device for parameter in model.parameters()):
            model.to(device)
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training


def unwrap(model: Any) -> nn.Module:
    """Return the module inside DistributedDataParallel and torch.compile wrappers."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrap(model.module)
    return unwrap(model._orig_mod) if hasattr(model, "_orig_mod") else model
