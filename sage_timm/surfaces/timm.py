"""`SageMixup` and `create_mixup`: SAGE, or any other method, behind the surface of timm's Mixup."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from timm.data.mixup import cutmix_bbox_and_lam

from ..checks import check_count, check_images, check_number
from ..methods import Method, create_method
from ..methods.boxes import box_plan
from ..methods.cutmix import CutMix
from ..methods.sage import SAGE
from ..plan import Batch, MixPlan
from ..planner import MAX_ALPHA, Planner, eager, on_device
from ..saliency import Source

MODES = ("batch", "pair", "elem")


@dataclass(frozen=True)
class Draw:
    """What was drawn for each of B images; one that neither the method nor CutMix mixes stays as it is."""

    lam: np.ndarray  # [B] float32, the share of the own image; 1 where it stays as it is
    box: np.ndarray  # [B, 4] int64, CutMix's (top, bottom, left, right); empty elsewhere
    by_method: np.ndarray  # [B] bool
    by_cutmix: np.ndarray  # [B] bool


@dataclass(frozen=True)
class _Boxes(CutMix):
    """CutMix by boxes that were drawn, see `Draw`; an empty one, at a ratio of 1, leaves the image as it is."""

    box: np.ndarray

    def __call__(self, batch: Batch) -> MixPlan:
        return box_plan(on_device(self.box, batch.lam.device), batch.partner, batch.lam, batch.size)


class MethodMixup(Mixup):
    """Mix images and targets by a method, or by CutMix for its share, with the arguments and the call of timm's Mixup.

    Image i is mixed with image B - 1 - i, as in timm (Co-Mixup chooses for itself). Draws are from NumPy's global
    generator in timm's order, so that the same seed gives timm's own sequence; a method's extra randomness uses
    torch's. In a distributed run and mode 'batch' all ranks pick the same of method, CutMix and no mixing, by a
    generator of one fixed seed, so that they need saliency at the same steps.

    Args:
        method: makes the plan of a batch (see `sage_timm.methods`).
        mixup_alpha: parameter of Beta(alpha, alpha) (Co-Mixup: Dirichlet), which the method's ratio is drawn from; > 0.
        cutmix_alpha: Beta parameter of CutMix; > 0 gives CutMix the share `switch_prob`. Where CutMix is the method
            itself, it mixes every batch, by this alpha, or by mixup_alpha where this is 0.
        cutmix_minmax: smallest and largest side of the CutMix box as a share of the image's; overrides cutmix_alpha.
        prob: probability of mixing a batch, a pair or an element.
        switch_prob: share of CutMix where both are active.
        mode: one draw per 'batch', 'pair' or 'elem'. Saliency, mask and translation are per image in each.
        correct_lam: correct CutMix's label weight by the clipped area of the box.
        label_smoothing: smoothing of the targets, in [0, 1].
        num_classes: number of classes.
        multi_label: targets are [B, num_classes], each label of its own, smoothed towards 0.5.
        saliency: a source's name (see `create_saliency`), or any callable
            (images [B, C, H, W], target [B, num_classes]) -> [B, 1, h, w], non-negative, which must not change its
            arguments and gets labels as one-hot rows; None for 'network'. Ignored by methods that use none.
        label_weight: 'mask', the method's own label weights (CutMix: areas), or 'saliency', each image's share of the
            saliency that is seen, see `MixPlan.weighted_by`; CutMix's share then needs a saliency, too.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
        RuntimeError: the saliency model's weights cannot be loaded.

    Differs: timm mixes in place and refuses odd batches; here the input is not changed, and the middle image of an odd
    batch, its own partner, stays unmixed.

    Example:
        >>> from sage_timm.methods import SaliencyMix
        >>> mixup_fn = MethodMixup(SaliencyMix(), num_classes=10, saliency="spectral")
        >>> images, target = mixup_fn(torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> images.shape, target.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        method: Method,
        mixup_alpha: float = 1.0,
        cutmix_alpha: float = 0.0,
        cutmix_minmax: Sequence[float] | None = None,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        mode: str = "batch",
        correct_lam: bool = True,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        multi_label: bool = False,
        *,
        saliency: str | Source | None = None,
        label_weight: str = "mask",
    ) -> None:
        check_number("mixup_alpha", mixup_alpha, 0, MAX_ALPHA)
        check_number("cutmix_alpha", cutmix_alpha, 0, MAX_ALPHA)
        if isinstance(method, CutMix) and (cutmix_alpha > 0 or mixup_alpha > 0 or cutmix_minmax is not None):
            mixup_alpha, cutmix_alpha = 0, cutmix_alpha or mixup_alpha
        elif mixup_alpha == 0:
            name = type(method).__name__
            raise ValueError(f"`mixup_alpha` must be > 0 for {name} to mix, got 0; set it to 1.0, or use CutMix alone")
        if cutmix_minmax is not None:
            pair = isinstance(cutmix_minmax, Sequence) and all(isinstance(side, Real) for side in cutmix_minmax)
            if not (pair and len(cutmix_minmax) == 2 and 0 <= cutmix_minmax[0] < cutmix_minmax[1] <= 1):
                raise ValueError(f"`cutmix_minmax` must be a pair 0 <= min < max <= 1, got {cutmix_minmax!r}")
        check_number("prob", prob, 0, 1)
        check_number("switch_prob", switch_prob, 0, 1)
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}")
        check_number("label_smoothing", label_smoothing, 0, 1)
        check_count("num_classes", num_classes, 1)
        super().__init__(
            mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, mode, correct_lam, label_smoothing, num_classes
        )
        self.multi_label = multi_label
        self._common: np.random.RandomState | None = None
        self.planner = Planner(
            method, saliency, num_classes, multi_label, label_weight=label_weight, with_cutmix=self.cutmix_alpha > 0
        )
        self.method, self.saliency = method, self.planner.source

    def __repr__(self) -> str:
        cutmix = f"min-max {self.cutmix_minmax}" if self.cutmix_minmax else f"alpha {self.cutmix_alpha:g}"
        alpha = f"alpha {self.mixup_alpha:g}" if self.mixup_alpha else cutmix
        shared = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        share = f", CutMix ({cutmix}) for {self.switch_prob:.0%} of it" if shared else ""
        labels = ", labels by saliency" if self.planner.weighs_by_saliency else ""
        saliency = f"; saliency: {self.saliency!r}" if self.saliency else ""
        return (
            f"{self.method!r}, {alpha}, with probability {self.mix_prob:g} per {self.mode}{share}; "
            f"{self.num_classes} classes, smoothing {self.label_smoothing:g}{labels}{saliency}"
        )

    @eager
    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch. Within `torch.compile` it runs as it is, a break in the graph.

        Args:
            x: images [B, C, H, W], floating point, normalised. Not changed.
            target: [B] integer labels, or [B, num_classes] class weights (soft or multi-label).

        Returns:
            The mixed images in the dtype and memory format of `x` (`x` itself where nothing is mixed), and the mixed,
            smoothed targets [B, num_classes] float32, whose rows sum to 1 where the class weights do. Differentiable
            in images and class weights; what is mixed, how and where is not.

        Raises:
            TypeError, ValueError: a wrong shape or kind, or a label or weight out of range (on an accelerator this is
                found one batch late, so that the host need not wait).
        """
        weights = self._checked(x, target)
        plan = self._plan(x, weights)
        weights = self._smoothed(weights)
        if plan is None:
            return x, weights
        return plan.mix_images(x), plan.mix_target(weights)

    @eager
    def plan(self, x: torch.Tensor, target: torch.Tensor) -> MixPlan | None:
        """Draw and search for a batch without applying it; None where nothing is to be mixed. Arguments: the call's."""
        return self._plan(x, self._checked(x, target))

    def _checked(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Check a batch and return its class weights on the device of the images."""
        check_images(x)
        weights = self.planner.class_weights(target, len(x), x.device)
        if self.mixup_enabled:
            self.planner.warn_if_alone(x)
        return weights

    def _plan(self, x: torch.Tensor, weights: torch.Tensor) -> MixPlan | None:
        draw = self._draw(x.shape)
        if not (draw.by_method | draw.by_cutmix).any():
            return None
        partner = torch.arange(len(x) - 1, -1, -1, device=x.device)
        arms = (self.method, draw.by_method), (_Boxes(draw.box), ~draw.by_method)
        return self.planner.plan(x, weights, partner, on_device(draw.lam, x.device), self.mixup_alpha, arms=arms)

    def _draw(self, shape: torch.Size) -> Draw:
        """Draw who mixes each image of a batch [B, C, H, W], and how."""
        batch = shape[0]
        count = {"batch": 1, "pair": batch // 2, "elem": batch}[self.mode]
        mixed, lam, use_cutmix = self._draw_ratios(count)
        use_cutmix = mixed & use_cutmix

        # Between bounds without a whole pixel timm's draw fails obscurely.
        if self.cutmix_minmax is not None and use_cutmix.any():
            low, high = self.cutmix_minmax
            if any(int(low * side) >= int(high * side) for side in shape[-2:]):
                raise ValueError(
                    f"`cutmix_minmax` must span at least a pixel, got {self.cutmix_minmax} for images of "
                    f"{shape[-2]} x {shape[-1]}; widen it"
                )

        # Boxes come after all ratios, one by one, as timm draws them; the clipped area may change the label weight.
        box = np.zeros((count + 1, 4), np.int64)
        for i in np.flatnonzero(use_cutmix & (lam != 1)):
            box[i], lam[i] = cutmix_bbox_and_lam(shape, lam[i], self.cutmix_minmax, self.correct_lam)

        # Give each image its draw. The middle one of an odd batch, its own partner, gets one more and stays as it is.
        lam = np.append(np.where(mixed, lam, 1), 1).astype(np.float32)
        by_method, by_cutmix = np.append(mixed & ~use_cutmix, False), np.append(use_cutmix, False)
        image = np.arange(batch)
        draw = {"batch": np.zeros_like(image), "pair": np.minimum(image, image[::-1]), "elem": image}[self.mode]
        if batch % 2:
            draw[batch // 2] = count
        return Draw(lam[draw], box[draw], by_method[draw], by_cutmix[draw])

    def _draw_ratios(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw, in timm's order, whether each is mixed, its Beta draw, and whether it is CutMix's: [count] each."""
        # Of a whole batch timm asks first whether to mix, and draws nothing else where not.
        whole_batch = self.mode == "batch"
        if not self.mixup_enabled or (whole_batch and not self._chooser().rand() < self.mix_prob):
            return np.zeros(count, bool), np.ones(count), np.zeros(count, bool)
        use_cutmix = np.full(count, self.mixup_alpha == 0)
        if self.cutmix_alpha > 0 and self.mixup_alpha > 0:
            use_cutmix = self._chooser().rand(count) < self.switch_prob
        if whole_batch:
            alpha = self.cutmix_alpha if use_cutmix[0] else self.mixup_alpha
            return np.ones(1, bool), np.random.beta(alpha, alpha, 1), use_cutmix

        # For pairs and elements it draws all ratios of each active distribution, used or not, then which are mixed.
        lam = np.ones(count)
        for alpha, used in ((self.cutmix_alpha, use_cutmix), (self.mixup_alpha, ~use_cutmix)):
            if alpha > 0:
                lam[used] = np.random.beta(alpha, alpha, count)[used]
        return np.random.rand(count) < self.mix_prob, lam.astype(np.float32), use_cutmix

    def _chooser(self) -> Any:
        """Return the generator that says who mixes: NumPy's, or for whole batches one that is alike on all ranks."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.mode != "batch" or not distributed or torch.distributed.get_world_size() == 1:
            return np.random
        if self._common is None:
            worker = torch.utils.data.get_worker_info()
            self._common = np.random.RandomState(0 if worker is None else worker.id)
        return self._common

    def _smoothed(self, weights: torch.Tensor) -> torch.Tensor:
        """Smooth class weights as timm does: towards uniform, or each towards 0.5 (multi-label targets, one class)."""
        uniform = 0.5 if self.multi_label or self.num_classes == 1 else 1 / self.num_classes
        off_value = self.label_smoothing * uniform
        on_value = 1 - self.label_smoothing + off_value
        return torch.lerp(torch.full_like(weights, off_value), torch.full_like(weights, on_value), weights)


def _signature_of_sage() -> inspect.Signature:
    """Return the arguments of `MethodMixup`, with those of SAGE in place of the method."""
    own, *timms = inspect.signature(MethodMixup.__init__).parameters.values()
    settings = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(SAGE).parameters.values()]
    return inspect.Signature([own, *timms[1:], *settings])


class SageMixup(MethodMixup):
    """Mix images and targets by SAGE, or by CutMix for its share, with the arguments and the call of timm's Mixup.

    The partner is moved to where most saliency of both is retained, then both are blended by their share of the
    saliency at each pixel; the formula is in `sage_timm.methods.SAGE`.

    Args:
        mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, mode, correct_lam, label_smoothing, num_classes,
            multi_label, saliency, label_weight: see `MethodMixup`, and so for errors; the first ten are timm's.
        lam_max: SAGE's ratio, the own image's share of saliency mass, is lam_max * Beta(alpha, alpha); in (0, 1].

    Reference: Ma et al., "SAGE: Saliency-Guided Mixup with Optimal Rearrangements", BMVC 2022.

    Example:
        >>> mixup_fn = SageMixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10, saliency="spectral")
        >>> images, target = mixup_fn(torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> images.shape, target.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    def __init__(self, *args, lam_max: float = 0.6, **settings) -> None:
        super().__init__(SAGE(lam_max), *args, **settings)

    __init__.__signature__ = _signature_of_sage()  # type: ignore[attr-defined]


def create_mixup(method: str = "sage", /, **settings) -> MethodMixup:
    """Create the mixing function of a method, to be called as timm's Mixup is.

    Args:
        method: a name in `sage_timm.methods.METHODS`, such as 'sage', 'mixup' or 'puzzlemix'.
        **settings: those of `MethodMixup`, and the method's own, by its paper's names (see its class in
            `sage_timm.methods`). Default mixup_alpha: that of the method's authors, 1.0 (comixup: 2.0).

    Raises:
        TypeError, ValueError, RuntimeError: see `MethodMixup`; or an unknown method or setting.
        ImportError: a library of the extra `methods` is missing.

    Example:
        >>> mixup_fn = create_mixup("comixup", num_classes=10, saliency="spectral", part=4)
        >>> images, target = mixup_fn(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> target.shape
        torch.Size([8, 10])
    """
    common = inspect.signature(MethodMixup).parameters.keys() - {"method"}
    own = {name: settings.pop(name) for name in settings.keys() - common}
    made = create_method(method, **own)
    settings = {"mixup_alpha": made.alpha, **settings}
    if isinstance(made, SAGE):
        return SageMixup(**settings, **own)
    return MethodMixup(made, **settings)
