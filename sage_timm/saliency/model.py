"""Saliency through a model: the gradient of its loss at the pixels, or its activations."""

import contextlib
from collections.abc import Callable, Iterator
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

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise images in [0, 1] with the statistics set, else with the model's own."""
        mean, std = (self.mean, self.std) if self.mean is not None else (self.auxiliary.mean, self.auxiliary.std)
        if mean is None or std is None:
            return pixels
        return (pixels - per_channel(mean, pixels)) / per_channel(std, pixels)

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on a CUDA device."""
        return any(parameter.is_cuda for parameter in self.auxiliary.model.parameters())

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images and normalise them as the model expects."""
        images = _resized(images, self.size)
        if self.mean is None or self.auxiliary.mean is None:
            return images
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"`mean` must hold one number for each of {images.shape[1]} channels, got {self.mean!r}")
        mean, std, own_mean, own_std = (
            per_channel(s, images) for s in (self.mean, self.std, self.auxiliary.mean, self.auxiliary.std) if s
        )
        return (images * std + (mean - own_mean)) / own_std

    @contextlib.contextmanager
    def model_on(self, device: torch.device) -> Iterator[nn.Module]:
        """Yield the model on `device`, in eval mode."""
        model = self.auxiliary.model
        parameter = next(model.parameters(), None)
        if parameter is not None and parameter.device != device:
            model.to(device)
        yield model

    def __repr__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} px" if self.size else "the images' own size"
        classes = getattr(self.auxiliary.model, "num_classes", None)
        known = f" ({classes} classes)" if classes else ""
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

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute |dL/dx|, averaged over channels."""
        pixels = self.model_input(images)
        with self.model_on(images.device) as model, torch.enable_grad():
            loss = _loss(_run(model, pixels.requires_grad_()), target)
            (gradient,) = torch.autograd.grad(loss, pixels)
        return gradient.abs().mean(1, keepdim=True)


class Feature(_ModelSaliency):
    """What a feature has over its usual value, times the loss gradient there.

    sum over channels of |dL/da * (a - median of a over the frame)|, with a the deepest feature map of at least 10 x 10
    cells, and L as for 'gradient'. Where the model has none on the path from pixels to loss (vision transformers,
    modules without forward_intermediates), the map is that of 'gradient', with this source's blur and floor. Costs no
    more than 'gradient': the backward pass ends at the feature map.
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

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map at the feature's resolution."""
        pixels = self.model_input(images)
        with self.model_on(images.device) as model, torch.enable_grad():
            logits, features = _run(_with_features(model), pixels.requires_grad_())
            loss = _loss(logits, target)
            features = [f for f in features if f.ndim == 4 and min(f.shape[-2:]) >= self.cells]
            if features:
                # Some models hand out copies that the loss does not depend on: their gradient is None.
                (gradient,) = torch.autograd.grad(loss, features[-1], retain_graph=True, allow_unused=True)
                if gradient is not None:
                    feature = features[-1].detach()
                    usual = feature.flatten(2).median(2).values[..., None, None]
                    return (gradient * (feature - usual)).abs().sum(1, keepdim=True)
            (gradient,) = torch.autograd.grad(loss, pixels)
        return gradient.abs().mean(1, keepdim=True)


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


class Activation(_ModelSaliency):
    """Norm over channels of a feature map of the model: its last one of at least 7 x 7 cells (else its largest).

    s(y, x) = sqrt(sum over channels c of f(c, y, x)^2), with f the feature map.
    """

    name = "activation"

    def __init__(self, auxiliary: Auxiliary, size: int | None = None, **settings) -> None:
        super().__init__(auxiliary, size, **settings)
        if not hasattr(auxiliary.model, "forward_intermediates"):
            raise TypeError(
                f"`model` must be a timm model with forward_intermediates for activation saliency, got "
                f"{auxiliary.origin}; take saliency='gradient' for any other module"
            )

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        with self.model_on(images.device) as model:
            forward: Any = model.forward_intermediates
            features = _run(lambda x: forward(x, intermediates_only=True), self.model_input(images))
        fine = [feature for feature in features if min(feature.shape[-2:]) >= 7]
        feature = fine[-1] if fine else max(features, key=lambda f: f.shape[-1] * f.shape[-2])
        return feature.float().norm(dim=1, keepdim=True)


def _with_features(model: nn.Module) -> Callable:
    """Return a function from pixels to (logits, feature maps), the latter empty for models that do not give them."""
    if hasattr(model, "forward_intermediates") and hasattr(model, "forward_head"):
        body: Any = model.forward_intermediates
        head: Any = model.forward_head

        def forward(pixels: torch.Tensor):
            final, features = body(pixels)
            return head(final), features

        return forward
    return lambda pixels: (model(pixels), [])


def _loss(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Compute the summed cross-entropy against the target, or the top class where the model's classes are others."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.requires_grad:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the saliency model must return logits [B, N] that depend on the pixels, got {got}")
    if target is None or (target.ndim == 2 and target.shape[1] != logits.shape[1]):
        target = logits.argmax(1)
    return F.cross_entropy(logits.float(), target, reduction="sum")


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
