"""What every surface shares: check a batch, turn its targets into class weights, and make its plan."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .checks import check_saliency, check_target
from .device import ValueChecks
from .methods import Method, Mixup
from .plan import Batch, MixPlan
from .saliency import Saliency, Source, resolve
from .tensors import Function, numbers

LABEL_WEIGHTS = ("mask", "saliency")
LARGEST = 1e30  # saliency value, whose sum over any map is finite
MAX_ALPHA = 1e6  # Beta(alpha, alpha) is 0.5 to three digits there


def eager(function: Function) -> Function:
    """Run a function outside `torch.compile`, which would draw from other generators than NumPy's and torch's."""
    return torch.compiler.disable(function)


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device, which the host does not wait for."""
    return torch.from_numpy(values).to(device, non_blocking=True)


class Planner:
    """A method with its saliency source, between a surface and its batches.

    A surface (timm's, torchvision's, your own) draws who is mixed with whom and how strongly; the rest is here.

    Args:
        method: makes the plan of a batch.
        saliency: see `sage_timm.saliency.resolve`; ignored where neither the method nor the label weights use it.
        num_classes: number of classes; None accepts class weights of any width.
        multi_label: targets are dense multi-label, never labels [B].
        name: what errors call the targets.
        label_weight: 'mask', the method's own label weights, or 'saliency', see `MixPlan.weighted_by`.
        with_cutmix: whether the surface also mixes by CutMix.
    """

    def __init__(
        self,
        method: Method,
        saliency: str | Source | None = None,
        num_classes: int | None = None,
        multi_label: bool = False,
        name: str = "target",
        label_weight: str = "mask",
        with_cutmix: bool = False,
    ) -> None:
        if label_weight not in LABEL_WEIGHTS:
            raise ValueError(f"`label_weight` must be one of {', '.join(LABEL_WEIGHTS)}, got {label_weight!r}")
        if label_weight == "saliency" and isinstance(method, Mixup) and not with_cutmix:
            raise ValueError(
                "`label_weight` must be 'mask' for Mixup, whose weights by saliency are the same, got 'saliency'"
            )
        self.method, self.label_weight = method, label_weight
        self.weighs_by_saliency = label_weight == "saliency"
        self.source = resolve(saliency) if method.uses_saliency or self.weighs_by_saliency else None
        self.num_classes, self.multi_label, self.name = num_classes, multi_label, name
        self.checks = ValueChecks()
        self._scale_checked = False

    @eager
    def class_weights(self, target: Any, count: int, device: torch.device | None = None) -> torch.Tensor:
        """Check the targets of `count` images, [B] labels or [B, N] class weights, and return class weights.

        Returns:
            [B, N] float32, one-hot rows for labels, on `device` (default: the targets').

        Raises:
            TypeError, ValueError: a wrong shape or kind, or a label or weight out of range (see `ValueChecks`).
        """
        check_target(target, count, self.num_classes, self.multi_label, self.name)
        device = device or target.device
        if target.ndim == 2 or self.num_classes is None:
            self.checks.weights(target, self.name)
            return target.to(device).float()
        self.checks.labels(target, self.num_classes, self.name)
        return (target.to(device).long()[:, None] == numbers(self.num_classes, device)).float()

    @eager
    @torch.no_grad()
    def plan(
        self,
        images: torch.Tensor,
        weights: torch.Tensor,
        partner: torch.Tensor,
        lam: torch.Tensor,
        alpha: float,
        normalized: bool = True,
        arms: Sequence[tuple[Method, np.ndarray]] = (),
    ) -> MixPlan:
        """Make the plan of a batch, with its saliency where it is looked at.

        Args:
            images: [B, C, H, W], floating point.
            weights: [B, N] float32 class weights, on the device of the images.
            partner: [B] int64, the image that each image is mixed with.
            lam: [B] float32 in [0, 1], the share of the own image, for the method drawn from Beta(alpha, alpha).
            alpha: parameter of that distribution.
            normalized: whether the images are normalised; if not, they are in [0, 1].
            arms: pairs of a method and the images that it mixes, [B] bool; in plans of all but the first nothing moves
                or shrinks. Default: the planner's method mixes all.
        """
        arms = [arm for arm in arms if arm[1].any()] or [(self.method, np.ones(len(images), bool))]
        images, saliency = images.detach(), None
        if self.source and any(method.uses_saliency or self._weighs(method) for method, _ in arms):
            saliency = self._saliency(self.source, images, weights.detach(), normalized)
        std = (self.source and self.source.std) if normalized else (1.0,)
        batch = Batch(images, saliency, partner, lam, alpha, std)  # type: ignore[arg-type]
        plan: MixPlan | None = None
        for method, theirs in arms:
            made = method(batch)
            if saliency is not None and self._weighs(method):
                made = made.weighted_by(saliency)
            plan = made if plan is None else plan.where(on_device(~theirs, images.device), made)
        return plan  # type: ignore[return-value]

    def _weighs(self, method: Method) -> bool:
        """Whether labels of a method's plan are weighted by saliency; those of plain Mixup would be the same."""
        return self.weighs_by_saliency and not isinstance(method, Mixup)

    def _saliency(
        self, source: Saliency, images: torch.Tensor, weights: torch.Tensor, normalized: bool
    ) -> torch.Tensor:
        """Compute the saliency of a batch, finite and non-negative: [B, 1, h, w] float32."""
        if normalized and source.statistics and not self._scale_checked:
            self._scale_checked = True
            self.checks.scale(images.float(), *source.statistics, assumed=source.mean is None)
        saliency = source(images if normalized else source.normalized(images), weights)
        check_saliency(saliency, images)
        saliency = saliency.detach().float()
        self.checks.saliency(images, saliency)
        return saliency.nan_to_num(0, 0, 0).clamp_(0, LARGEST)

    def warn_if_alone(self, images: torch.Tensor) -> None:
        """Warn where a batch of one image has no partner and stays as it is."""
        if len(images) == 1:
            warnings.warn("a batch of 1 image has no partner to mix with and stays as it is", stacklevel=3)
