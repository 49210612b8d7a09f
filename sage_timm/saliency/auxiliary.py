"""The model that saliency looks through, and how it is run: frozen, or the one in training."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checks import first_line
from ..tensors import per_channel, resize

Statistics = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Auxiliary:
    """A frozen model with what is needed to feed it.

    Attributes:
        model: in eval mode, no parameter with a gradient, images [B, C, h, w] -> logits [B, N].
        mean, std: per-channel normalisation it was trained with, on images in [0, 1]; None where unknown.
        size: side in pixels that its saliency is computed at, (h, w); None for the images' own size.
        origin: what it is and where its weights come from, in a few words.
        own: the weights are the user's own, so that the labels are read as the model's classes where it has as many.
    """

    model: nn.Module
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: tuple[int, int] | None
    origin: str
    own: bool = False

    @property
    def statistics(self) -> Statistics | None:
        """The mean and std; None where unknown."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the model; None if unknown."""
        return getattr(self.model, "num_classes", None)

    def channels(self, given: int) -> int:
        """Return the number of channels that the model is to see of images with `given`.

        That is 1 or 3 where its first convolution says that it was built for these, also where a stem folds k x k
        pixels into 3 k^2 channels; any other model sees the images as they are.
        """
        first = next((module for module in self.model.modules() if isinstance(module, nn.Conv2d)), None)
        seen = given if first is None else first.in_channels
        if seen in (given, 1):
            return seen
        return 3 if seen % 3 == 0 and math.isqrt(seen // 3) ** 2 == seen // 3 else given

    def input(self, images: torch.Tensor, size: tuple[int, int] | None, given: Statistics | None) -> torch.Tensor:
        """Resize images and give them the channels and the normalisation that the model expects; a copy.

        Statistics of another number of channels count by their mean, as in timm's loader. Where the model takes 1 or 3
        channels and the images have others, it sees the mean over theirs in each of its own.

        Args:
            images: [B, C, H, W].
            size: (h, w) in pixels; None for the images' own.
            given: mean and std that the images are normalised with, if known.
        """
        images = _resized(images, size)
        own, channels = self.statistics, self.channels(images.shape[1])
        if channels == images.shape[1] and (own is None or given == own):
            return images
        if given and own:
            images = images * per_channel(given[1], images) + per_channel(given[0], images)
        if channels != images.shape[1]:
            images = images.mean(1, keepdim=True).repeat(1, channels, 1, 1)
        return (images - per_channel(own[0], images)) / per_channel(own[1], images) if given and own else images

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model on `device`, in eval mode."""
        parameter = next(self.model.parameters(), None)
        yield self.model if parameter is None or parameter.device == device else self.model.to(device)


class ModelInTraining(Auxiliary):
    """The model that is trained, in eval mode and with its weights of the moment, for the paper's own saliency.

    It is no copy and must live on the images' device; modes, buffers and gradients are left as found.
    """

    def input(self, images: torch.Tensor, size: tuple[int, int] | None, given: Statistics | None) -> torch.Tensor:
        """Resize the images; they come as the model expects them."""
        return _resized(images, size).to(next(self.model.parameters()).dtype)

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model in eval mode; every module's own mode is put back, also after an error."""
        model = unwrap(self.model)
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel and torch.compile wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def run(model: nn.Module, pixels: torch.Tensor) -> Any:
    """Run a model; what fails says what to check."""
    try:
        return model(pixels)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(
            f"the saliency model failed on images of shape {tuple(pixels.shape[1:])} ({first_line(error)}); check "
            "`size`, and that its channels are the images'"
        ) from error


def run_from(stage: str, model: nn.Module, pixels: torch.Tensor) -> tuple[Any, Any]:
    """Run a model, differentiable from the output of a stage on.

    Returns:
        What the model returns, and that output, a leaf with a gradient; None where it is no tensor.
    """
    leaf: Any = None

    def cut(module, inputs, output):
        nonlocal leaf
        if isinstance(output, torch.Tensor):
            leaf = output.detach().requires_grad_()
            return leaf.clone()  # the next layer may write into it
        return output

    hook = model.get_submodule(stage).register_forward_hook(cut)
    try:
        return run(model, pixels), leaf
    finally:
        hook.remove()


def _resized(images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Resize images to `size`; a copy in any case, since a model may write into its input."""
    resized = resize(images, size or tuple(images.shape[-2:]))
    return images.clone() if resized is images else resized
