"""Saliency through a model: the gradient of its loss at the pixels or at a feature map."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import check_count, first_line
from ..tensors import per_channel, resize
from .auxiliary import Auxiliary, unwrap
from .base import Saliency


class _ModelSaliency(Saliency):
    """A source that looks through a model, at `size` pixels, re-normalised from the run's statistics to the model's."""

    name: str

    def __init__(self, auxiliary: Auxiliary, size: int | None = None, **settings) -> None:
        super().__init__(**settings)
        self.auxiliary = auxiliary
        self.size = auxiliary.size if size is None else (check_count("size", size, 1),) * 2

    @property
    def statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """The mean and std that were set, else the model's own; None where unknown."""
        mean, std = self.auxiliary.mean, self.auxiliary.std
        return super().statistics or (None if mean is None or std is None else (mean, std))

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the model, by its `num_classes`, as timm's have it; None where it has none."""
        return getattr(self.auxiliary.model, "num_classes", None)

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on a CUDA device."""
        return any(parameter.is_cuda for parameter in self.auxiliary.model.parameters())

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images and normalise them as the model expects."""
        images = _resized(images, self.size)
        if self.mean is None or self.auxiliary.mean is None:
            return images
        channels = images.shape[1]
        if len(self.mean) not in (1, channels):
            raise ValueError(
                f"`mean` must hold one number for each of {channels} channels, got {self.mean!r}; give as many "
                "in `mean` and `std`"
            )
        mean, std, own_mean, own_std = (
            list(values) if len(values) == channels else [sum(values) / len(values)] * channels
            for values in (self.mean, self.std, self.auxiliary.mean, self.auxiliary.std)
            if values
        )
        scale = [a / b for a, b in zip(std, own_std, strict=True)]
        shift = [(a - b) / c for a, b, c in zip(mean, own_mean, own_std, strict=True)]
        if set(scale) == {1.0} and set(shift) == {0.0}:
            return images
        return torch.addcmul(per_channel(shift, images), images, per_channel(scale, images))

    @contextlib.contextmanager
    def model_on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model on `device`, in eval mode."""
        model = self.auxiliary.model
        parameter = next(model.parameters(), None)
        if parameter is not None and parameter.device != device:
            model.to(device)
        yield model

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map of images, through the model on their device."""
        with self.model_on(images.device) as model, torch.enable_grad():
            return self.map(model, self.model_input(images), target)

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute a non-negative map [B, 1, h, w] from the model's own input, with gradients enabled."""
        raise NotImplementedError

    def __repr__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} px" if self.size else "the images' own size"
        known = f" ({self.num_classes} classes)" if self.num_classes else ""
        return f"{self.name} of {self.auxiliary.origin}{known}, at {size} ({self._settings()})"


class Gradient(_ModelSaliency):
    """Magnitude of the loss gradient at the pixels, averaged over channels (the paper's saliency, section 3.1).

    s(y, x) = mean over channels c of |dL / dx(c, y, x)|, with x the image as the model sees it.

    The loss L is the cross-entropy against the true label where the model has as many classes as the target, else
    against the model's own top class.
    Differs: the paper takes the gradient of the model in training; this one is of a frozen model.
    """

    name = "gradient"

    def __init__(self, auxiliary: Auxiliary, size: int | None = None, blur: float = 1 / 32, **settings) -> None:
        super().__init__(auxiliary, size, blur=blur, **settings)

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute |dL/dx|, averaged over channels."""
        loss = _loss(_run(model, pixels.requires_grad_()), target)
        (gradient,) = torch.autograd.grad(loss, pixels)
        return gradient.abs().mean(1, keepdim=True)


class Feature(Gradient):
    """What a feature has over its usual value, times the loss gradient there.

    s(y, x) = sum over channels c of |dL/da(c, y, x) * (a(c, y, x) - median of a(c) over the frame)|, with a the output
    of the model's deepest stage of at least 10 x 10 cells, by timm's `feature_info`, and L as for 'gradient'. Where
    there is no such stage (vision transformers, modules that are not timm's, small images), the map is that of
    'gradient', with this source's blur and floor. Cheaper than 'gradient': the backward pass ends at that stage, and
    nothing before it is kept.
    """

    name = "feature"
    cells = 10

    def __init__(
        self,
        auxiliary: Auxiliary,
        size: int | None = None,
        blur: float = 1 / 8,
        floor: float = 1.0,
        **settings,
    ) -> None:
        super().__init__(auxiliary, size, blur=blur, floor=floor, **settings)
        self._stages: dict[tuple[int, ...], str | None] = {}

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map at the stage's resolution."""
        size = tuple(pixels.shape[-2:])
        if size not in self._stages:
            self._stages[size] = self._deepest_stage(model, pixels[:1])
        stage = self._stages[size]
        if stage is None:
            return super().map(model, pixels, target)
        logits, feature = _run_from(stage, model, pixels)
        (gradient,) = torch.autograd.grad(_loss(logits, target), feature)
        feature = feature.detach()
        usual = feature.flatten(2).median(2).values[..., None, None]
        return (gradient * (feature - usual)).abs().sum(1, keepdim=True)

    def _deepest_stage(self, model: nn.Module, pixels: torch.Tensor) -> str | None:
        """Run the model on `pixels` to find the deepest stage that is fine enough and that the logits depend on."""
        info = getattr(model, "feature_info", None)
        modules = dict(model.named_modules())
        for stage in reversed(info if isinstance(info, list) else []):
            if stage["module"] in modules:
                logits, feature = _run_from(stage["module"], model, pixels.clone())
                fine = feature is not None and feature.ndim == 4 and min(feature.shape[-2:]) >= self.cells
                if fine and feature.shape[1] == stage["num_chs"] and logits.requires_grad:
                    return stage["module"]
        return None


class TrainingGradient(Gradient):
    """The paper's own saliency: the gradient of the model in training, in eval mode and with its weights of the moment.

    Costs a second forward and backward pass. The model is no copy: it must live on the images' device; modes, buffers
    and gradients are left as found. Differs: the authors compute it in train mode.
    """

    name = "gradient of the model in training"

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images; they come as the model in training expects them."""
        return _resized(images, self.size).to(next(self.auxiliary.model.parameters()).dtype)

    @contextlib.contextmanager
    def model_on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the training model in eval mode; every module's own mode is put back, also after an error."""
        model = unwrap(self.auxiliary.model)
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield model.eval()
        finally:
            for module, training in modes:
                module.training = training


def _loss(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Compute the summed cross-entropy against the target, or the top class where the model's classes are others."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.requires_grad:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the saliency model must return logits [B, N] that depend on the pixels, got {got}")
    if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):
        target = logits.argmax(1)
    return F.cross_entropy(logits.float(), target, reduction="sum")


def _run_from(stage: str, model: nn.Module, pixels: torch.Tensor) -> tuple[Any, Any]:
    """Run the model, differentiable from the output of a stage on.

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
        return _run(model, pixels), leaf
    finally:
        hook.remove()


def _resized(images: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """Resize images to `size`; a copy in any case, since a model may write into its input."""
    resized = resize(images, size or tuple(images.shape[-2:]))
    return images.clone() if resized is images else resized


def _run(model: Callable, pixels: torch.Tensor):
    try:
        return model(pixels)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(
            f"the saliency model failed on images of shape {tuple(pixels.shape[1:])} ({first_line(error)}); check "
            f"`size` and `in_chans` of create_saliency"
        ) from error
