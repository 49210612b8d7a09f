"""Saliency through a model: the gradient of its loss at the pixels or at a feature map."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import check_count, first_line
from ..device import Lock
from ..tensors import per_channel, resize
from .auxiliary import Auxiliary, unwrap
from .base import Saliency


class _ModelSaliency(Saliency):
    """A source that looks through a model, at `size` pixels, in the model's own channels and normalisation."""

    name: str

    def __init__(
        self, auxiliary: Auxiliary, size: int | None = None, use_labels: bool | None = None, **settings
    ) -> None:
        super().__init__(**settings)
        self.auxiliary, self.use_labels = auxiliary, use_labels
        self.size = auxiliary.size if size is None else (check_count("size", size, 1),) * 2
        self._lock = Lock()  # a model in use has a device, modes and hooks

    @property
    def statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """The mean and std that were set, else the model's own; None where unknown."""
        return super().statistics or self.auxiliary.statistics

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the model, by its `num_classes`, as timm's have it; None where it has none."""
        return getattr(self.auxiliary.model, "num_classes", None)

    @property
    def on_cuda(self) -> bool:
        """Whether the model is on a CUDA device."""
        return any(parameter.is_cuda for parameter in self.auxiliary.model.parameters())

    def model_input(self, images: torch.Tensor) -> torch.Tensor:
        """Resize the images and give them the channels and the normalisation that the model expects.

        Statistics of another number of channels count by their mean, as in timm's loader. Where the model takes 1 or 3
        channels and the images have others, it sees the mean over theirs in each of its own.
        """
        images = _resized(images, self.size)
        given, own = self.statistics, self.auxiliary.statistics
        channels = self.auxiliary.channels(images.shape[1])
        if channels == images.shape[1] and (own is None or given == own):
            return images
        if given and own:
            images = images * per_channel(given[1], images) + per_channel(given[0], images)
        if channels != images.shape[1]:
            images = images.mean(1, keepdim=True).repeat(1, channels, 1, 1)
        return (images - per_channel(own[0], images)) / per_channel(own[1], images) if given and own else images

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
        with self._lock, self.model_on(images.device) as model:
            return self.map(model, self.model_input(images), target)

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute a non-negative map [B, 1, h, w] from the model's own input, with gradients enabled."""
        raise NotImplementedError

    def slope(self, logits: Any, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the slope of the loss at the logits, against the target or the model's own top class."""
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.requires_grad:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"the saliency model must return logits [B, N] that depend on the pixels, got {got}")
        classes = logits.shape[1]
        if self.use_labels is False or (self.use_labels is None and not self.auxiliary.own):
            target = None
        if target is not None and target.ndim == 1:
            target = F.one_hot(target, classes)
        if target is not None and target.shape[1] != classes:
            if self.use_labels:
                raise ValueError(
                    f"`use_labels` must be False where the classes are not the saliency model's, got {target.shape[1]} "
                    f"classes and a model of {classes}"
                )
            target = None
        return loss_slope(logits, target)

    def __repr__(self) -> str:
        size = f"{self.size[0]} x {self.size[1]} px" if self.size else "the images' own size"
        known = f" ({self.num_classes} classes)" if self.num_classes else ""
        by_labels = self.auxiliary.own if self.use_labels is None else self.use_labels
        of = "by the label" if by_labels else "by its own top class"
        of += ", where its classes are as many" if by_labels and self.use_labels is None else ""
        return f"{self.name} of {self.auxiliary.origin}{known}, at {size} ({self._settings()}), {of}"


class Gradient(_ModelSaliency):
    """Magnitude of the loss gradient at the pixels, averaged over channels (the paper's saliency, section 3.1).

    s(y, x) = mean over channels c of |dL / dx(c, y, x)|, with x the image as the model sees it.

    The loss L is the cross-entropy against the label where the labels are the model's own classes (`use_labels`, see
    `create_saliency`), else against the model's own top class; its scale is the same for every image (`loss_slope`).
    Differs: the paper takes the gradient of the model in training; this one is of a frozen model.
    """

    name = "gradient"

    def __init__(
        self,
        auxiliary: Auxiliary,
        size: int | None = None,
        use_labels: bool | None = None,
        blur: float = 1 / 32,
        **settings,
    ) -> None:
        super().__init__(auxiliary, size, use_labels, blur=blur, **settings)

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute |dL/dx|, averaged over channels."""
        logits = _run(model, pixels.requires_grad_())
        (gradient,) = torch.autograd.grad(logits, pixels, self.slope(logits, target))
        return gradient.abs().mean(1, keepdim=True)


class Feature(_ModelSaliency):
    """What a feature has over its usual value, times the loss gradient there.

    s(y, x) = sum over channels c of |dL/da(c, y, x) * (a(c, y, x) - median of a(c) over the frame)|, with a the output
    of the model's deepest stage of at least 10 x 10 cells, by timm's `feature_info`, the stem apart, and L as for
    'gradient'. Where no stage has as many, the model sees the images enlarged until one has. Cheaper than 'gradient':
    the backward pass ends at that stage, and nothing before it is kept.

    Raises:
        ValueError: the model has no stages that are maps [B, C, h, w] (vision transformers, modules that are not
            timm's); some are only found to be none by the first batch.
    """

    name = "feature"
    cells = 10

    def __init__(
        self,
        auxiliary: Auxiliary,
        size: int | None = None,
        use_labels: bool | None = None,
        blur: float = 1 / 8,
        floor: float = 1.0,
        **settings,
    ) -> None:
        super().__init__(auxiliary, size, use_labels, blur=blur, floor=floor, **settings)
        # By the size of the model's input: a stage, and the size at which it has the cells.
        self._stages: dict[tuple[int, ...], tuple[str, tuple[int, ...]]] = {}
        model, parameter = auxiliary.model, next(auxiliary.model.parameters(), None)
        if not isinstance(getattr(model, "feature_info", None), list):
            raise self._without_stages()
        if self.size:
            device = None if parameter is None else parameter.device
            # A model of other channels than 3 says its stage by the first batch.
            with torch.inference_mode(False), torch.enable_grad(), contextlib.suppress(RuntimeError):
                blank = torch.zeros(1, auxiliary.channels(3), *self.size, device=device, dtype=torch.float32)
                self._stages[self.size] = self._find_stage(model, blank)

    def map(self, model: nn.Module, pixels: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute the map at the stage's resolution."""
        given = tuple(pixels.shape[-2:])
        if given not in self._stages:
            self._stages[given] = self._find_stage(model, pixels[:1])
        stage, size = self._stages[given]
        logits, feature = _run_from(stage, model, resize(pixels, size))
        (gradient,) = torch.autograd.grad(logits, feature, self.slope(logits, target))
        feature = feature.detach()
        values = feature.flatten(2).sort(2).values  # torch.median is not deterministic on CUDA
        usual = values[..., (values.shape[2] - 1) // 2, None, None]
        return (gradient * (feature - usual)).abs().sum(1, keepdim=True)

    def _find_stage(self, model: nn.Module, pixels: torch.Tensor) -> tuple[str, tuple[int, ...]]:
        """Find the deepest stage with the cells, and the size of the model's input at which it has them."""
        factor = 1.0
        for _ in range(8):
            size, finest = tuple(math.ceil(factor * side) for side in pixels.shape[-2:]), 0
            for stage, cells in self._stage_cells(model, resize(pixels, size)):
                if cells >= self.cells:
                    return stage, size
                finest = max(finest, cells)
            if not finest:
                break
            factor *= self.cells / finest
        raise self._without_stages()

    def _stage_cells(self, model: nn.Module, pixels: torch.Tensor) -> Iterator[tuple[str, int]]:
        """Yield the stages that are maps which the logits depend on, the deepest first, with the cells per side."""
        modules, stages = dict(model.named_modules()), list(model.feature_info)  # type: ignore[arg-type]
        for stage in reversed(stages[1:] or stages):
            if stage["module"] in modules:
                logits, feature = _run_from(stage["module"], model, pixels.clone())
                is_map = feature is not None and feature.ndim == 4 and feature.shape[1] == stage["num_chs"]
                if is_map and isinstance(logits, torch.Tensor) and logits.requires_grad:
                    yield stage["module"], min(feature.shape[-2:])

    def _without_stages(self) -> ValueError:
        kind = type(self.auxiliary.model).__name__
        return ValueError(
            "`model` must have stages that are maps [B, C, h, w], by timm's feature_info, for 'feature', got a "
            f"{kind}; take 'gradient' as the source"
        )

    def __repr__(self) -> str:
        found = [
            f"{stage}{'' if size == given else f', enlarged to {size[0]} x {size[1]} px'}"
            for given, (stage, size) in self._stages.items()
        ]
        stage = found[-1] if found else f"its deepest of {self.cells} x {self.cells} cells"
        return f"{super().__repr__()}, stage {stage}"


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


def loss_slope(logits: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Compute the slope of the loss at the logits, of equal size for every image however sure the model is.

    The gradient of the cross-entropy against class y is (1 - p(y)) * (q - onehot(y)), with q the softmax over the other
    classes. Its first factor vanishes where the model is sure; a map has any scale, and it is left out. With several
    classes of weight w, others count for 1 - w / max(w), and w / sum(w) stands in for the one-hot row. A single logit
    has the logistic loss, whose slope is +- 1.

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
            "`size`, and that its channels are the images'"
        ) from error
