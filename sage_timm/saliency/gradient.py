"""Maps of a classifier: the gradient of its loss at the pixels or at a feature map."""

import math
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import check_count, first_line
from ..tensors import resize
from .auxiliary import Auxiliary
from .base import Saliency, Statistics

_IN_USE = threading.RLock()  # a model in use has a device, modes and hooks


class ModelSaliency(Saliency):
    """A source that looks through a model, at `size` pixels."""

    name: str
    defaults: ClassVar[dict[str, float]] = {}  # of the settings of `Saliency`

    def __init__(
        self, auxiliary: Auxiliary, size: int | None = None, use_labels: bool | None = None, **settings
    ) -> None:
        super().__init__(**self.defaults | settings)
        self.auxiliary, self.use_labels = auxiliary, use_labels
        self.by_labels = auxiliary.own if use_labels is None else use_labels
        self.size = auxiliary.size if size is None else (check_count("size", size, 1),) * 2

    @property
    def statistics(self) -> Statistics | None:
        """The mean and std that were set, else the model's own; None where unknown."""
        return super().statistics or self.auxiliary.statistics

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map on the device of the images; an error of the model names what to check."""
        with _IN_USE, self.auxiliary.on(images.device) as model:
            pixels = self.auxiliary.input(images, self.size, self.statistics)
            try:
                return self.map(model, pixels, target)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AssertionError) as error:
                raise RuntimeError(
                    f"the saliency model failed on images of shape {tuple(pixels.shape[1:])} ({first_line(error)}); "
                    "check `size`, and that its channels are the images'"
                ) from error

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute a non-negative map [B, 1, h, w] from the model's own input, with gradients enabled."""
        raise NotImplementedError

    def slope(self, logits: Any, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the loss's gradient at the logits, for the target or the model's own top class."""
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.requires_grad:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"the saliency model must return logits [B, N] that depend on the pixels, got {got}")
        if target is None or not self.by_labels:
            return loss_slope(logits, None)
        classes = logits.shape[1]
        weights = F.one_hot(target, classes) if target.ndim == 1 else target
        if weights.shape[1] == classes:
            return loss_slope(logits, weights)
        if self.use_labels:
            raise ValueError(
                f"`use_labels` must be False where the classes are not the saliency model's, got {weights.shape[1]} "
                f"classes and a model of {classes}"
            )
        return loss_slope(logits, None)

    def __repr__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} px" if self.size else "the images' own size"
        classes = getattr(self.auxiliary.model, "num_classes", None)
        known = f" ({classes} classes)" if classes else ""
        by = "the label" if self.by_labels else "its own top class"
        by += ", where its classes are as many" if self.by_labels and self.use_labels is None else ""
        return f"{self.name} of {self.auxiliary.origin}{known}, at {size} ({self._settings()}), by {by}"


class Gradient(ModelSaliency):
    """Magnitude of the loss gradient at the pixels, averaged over channels (the paper's saliency, section 3.1).

    s(y, x) = mean over channels c of |dL / dx(c, y, x)|, with x the image as the model sees it.

    The loss L is the cross-entropy against the label where the labels are the model's own classes (`use_labels`, see
    `create_saliency`), else against the model's own top class; its scale is the same for every image (`loss_slope`).
    Differs: the authors take that of the model in training, in train mode; 'self' takes it in eval mode, in a second
    pass, and 'gradient' that of a frozen model.
    """

    name = "gradient"
    defaults: ClassVar = {"blur": 1 / 32}

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map at the resolution of the pixels."""
        logits = model(pixels.requires_grad_())
        (gradient,) = torch.autograd.grad(logits, pixels, self.slope(logits, target))
        return gradient.abs().mean(1, keepdim=True)


class Feature(ModelSaliency):
    """Gradient times activation (minus its median), summed over channels, at the last stage of at least 10 x 10 cells.

    s(y, x) = sum over channels c of |dL/da(c, y, x) * (a(c, y, x) - median of a(c) over the frame)|, with a the output
    of that stage, by timm's `feature_info` without the stem, and L as for 'gradient'. Images too small for any stage
    are enlarged. Cheaper than 'gradient': the backward pass ends at that stage.

    Raises:
        ValueError: the model has no stages, or, at the first batch, none that are maps [B, C, h, w] (transformers).
    """

    name = "feature"
    defaults: ClassVar = {"blur": 1 / 8, "floor": 1.0}
    cells = 10

    def __init__(self, auxiliary: Auxiliary, *args, **settings) -> None:
        super().__init__(auxiliary, *args, **settings)
        modules = dict(auxiliary.model.named_modules())
        stages: Any = getattr(auxiliary.model, "feature_info", None)
        found = stages[1:] or stages if isinstance(stages, list) else []
        self.stages = [stage for stage in found if stage["module"] in modules]
        if not self.stages:
            raise self._without_stages()

    def stage(self, size: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        """Choose the stage for inputs of (h, w) pixels, and the size to enlarge them to."""
        deep_enough = [stage for stage in self.stages if math.ceil(min(size) / stage["reduction"]) >= self.cells]
        if deep_enough:
            return deep_enough[-1], list(size)
        factor = self.cells * self.stages[0]["reduction"] / min(size)
        return self.stages[0], [round(factor * side) for side in size]

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map at the stage's resolution."""
        stage, size = self.stage(pixels.shape[-2:])
        feature: Any = None

        def cut(module: nn.Module, inputs: Any, output: Any) -> Any:
            """Make the stage's output a leaf, from which on the model is differentiable."""
            nonlocal feature
            if not isinstance(output, torch.Tensor):
                return output
            feature = output.detach().requires_grad_()
            return feature.clone()  # the next layer may write into it

        hook = model.get_submodule(stage["module"]).register_forward_hook(cut)
        try:
            logits = model(resize(pixels, size))
        finally:
            hook.remove()
        is_map = feature is not None and feature.ndim == 4 and feature.shape[1] == stage["num_chs"]
        if not is_map or (isinstance(logits, torch.Tensor) and not logits.requires_grad):
            raise self._without_stages()
        (gradient,) = torch.autograd.grad(logits, feature, self.slope(logits, target))
        feature = feature.detach()
        values = feature.flatten(2).sort(2).values  # torch.median is not deterministic on CUDA
        usual = values[..., (values.shape[2] - 1) // 2, None, None]
        return (gradient * (feature - usual)).abs().sum(1, keepdim=True)

    def _without_stages(self) -> ValueError:
        kind = type(self.auxiliary.model).__name__
        return ValueError(
            "`model` must have stages that are maps [B, C, h, w], by timm's feature_info, for 'feature', got a "
            f"{kind}; take 'gradient' as the source"
        )

    def __repr__(self) -> str:
        if self.size is None:
            return f"{super().__repr__()}, stage its deepest of {self.cells} x {self.cells} cells"
        stage, size = self.stage(self.size)
        enlarged = f", enlarged to {size[0]} x {size[1]} px" if tuple(size) != self.size else ""
        return f"{super().__repr__()}, stage {stage['module']}{enlarged}"


def loss_slope(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Compute the gradient of the loss with respect to the logits, scaled to equal size for every image.

    The gradient of the cross-entropy against class y is (1 - p(y)) * (q - onehot(y)), with q the softmax over the other
    classes. Its first factor, which vanishes where the model is sure, is left out. With several classes of weight w,
    others count for 1 - w / max(w), and w / sum(w) stands in for the one-hot row. A single logit has slope 1.

    Args:
        logits: [B, N].
        target: [B, N] class weights, >= 0; None, and rows whose weights are all equal, take the model's top class.

    Returns:
        [B, N] in the dtype of the logits.
    """
    if logits.shape[1] == 1:
        return torch.ones_like(logits)
    scores = logits.detach().float()
    weights = (scores.argmax(1, keepdim=True) == torch.arange(scores.shape[1], device=scores.device)).float()
    if target is not None:
        given = target.float().clamp_min(0)
        weights = torch.where(given.amax(1, keepdim=True) > given.amin(1, keepdim=True), given, weights)
    others = (1 - weights / weights.amax(1, keepdim=True)).log()
    return ((scores + others).softmax(1) - weights / weights.sum(1, keepdim=True)).to(logits.dtype)
