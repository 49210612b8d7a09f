"""`SageMix`: SAGE, or any other method, as a torchvision.transforms.v2 transform of batches."""

from collections.abc import Callable, Mapping
from typing import Any

import PIL.Image
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..checks import check_count, check_images, check_number
from ..methods import create_method
from ..plan import MixPlan
from ..planner import MAX_ALPHA, Planner, eager
from ..saliency import Source

REFUSED = (PIL.Image.Image, *(getattr(tv_tensors, n, ()) for n in ("BoundingBoxes", "Mask", "KeyPoints", "Video")))


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, tv_tensors.TVTensor)


def find_labels(inputs: Any) -> torch.Tensor:
    """Find the labels of a sample as torchvision does.

    They are the second item of a tuple or list, a plain tensor; or, in a dict that is the second item or the sample
    itself, what stands under the key "labels", else under the first key with "label" in it, in any case.
    """
    found: Any = inputs
    if isinstance(inputs, (tuple, list)):
        found = inputs[1] if len(inputs) > 1 else None
        if _is_plain(found):
            return found
    if isinstance(found, Mapping):
        keys = [key for key in found if "label" in str(key).lower()]
        if keys:
            return found[min(keys, key=lambda key: str(key).lower() != "labels")]
    raise ValueError(
        f"the sample must be (images, labels) or hold a dict with a key like 'labels', got {_outline(inputs)}; "
        "make labels a tensor of class numbers, or pass labels_getter=, a function from the sample to them"
    )


def _outline(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        items = [*map(_outline, value)]
        same = len(items) > 2 and len(set(items)) == 1
        return f"{type(value).__name__} of {f'{len(items)} {items[0]}' if same else ', '.join(items)}"
    return type(value).__name__


class SageMix(v2.Transform):
    """Mix a batch of images and its labels by SAGE or another method; stands wherever v2.MixUp and v2.CutMix stand.

    It takes batches: after the DataLoader, on the training device, or in a collate_fn, where it runs in the workers, on
    the CPU. Inputs may be tuples, lists, dicts or nestings of them; images (every tv_tensors.Image, else the first
    plain tensor that is not the labels) and labels are replaced, all else is passed on. Image i is mixed with image
    i - 1, as in torchvision; nothing is changed in place. All draws come from torch's generator.

    Args:
        alpha: parameter of Beta(alpha, alpha), > 0; one draw per batch (Co-Mixup: of its Dirichlet; its authors' is 2).
        num_classes: number of classes; needed for labels [B], may be None for [B, num_classes].
        labels_getter: 'default' (see `find_labels`), or a function from the sample to its labels, the tensor itself.
        saliency: as in `SageMixup`; ignored by methods that use none. uint8 images are normalised for a saliency
            model; floating-point ones must be normalised as it expects, or say how they are: `create_saliency(mean=)`.
        method: a name in `sage_timm.methods.METHODS`, such as 'sage', 'mixup' or 'puzzlemix'.
        label_weight: as in `MethodMixup`.
        **settings: the method's own, by its paper's names (see its class in `sage_timm.methods`).

    Returns, when called on a sample:
        The sample with mixed images, in their dtype (uint8 rounded) and tv_tensor type, and labels [B, num_classes]
        float32 (or the dtype of floating-point labels) whose rows sum to 1 where the class weights do.

    Raises:
        TypeError, ValueError: an argument or sample of the wrong kind, shape or range.
        RuntimeError: a saliency model's weights cannot be loaded.

    Example:
        >>> mix = SageMix(num_classes=10, saliency="spectral")
        >>> images, labels = mix(torch.rand(4, 3, 32, 32), torch.tensor([3, 1, 4, 1]))
        >>> images.shape, labels.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: Callable[[Any], torch.Tensor] | str = "default",
        saliency: str | Source | None = None,
        method: str = "sage",
        label_weight: str = "mask",
        **settings,
    ) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, 0, MAX_ALPHA, open_low=True)
        self.num_classes = None if num_classes is None else check_count("num_classes", num_classes, 1)
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f"`labels_getter` must be 'default' or a function, got {labels_getter!r}")
        self.labels_getter = find_labels if isinstance(labels_getter, str) else labels_getter
        try:
            self.method = create_method(method, **settings)
        except TypeError as error:
            own = "alpha, num_classes, labels_getter, saliency, method and label_weight"
            raise TypeError(f"{error}; SageMix has {own}") from error
        self.planner = Planner(self.method, saliency, self.num_classes, name="labels", label_weight=label_weight)
        self.saliency = self.planner.source

    def extra_repr(self) -> str:
        """Say what mixes."""
        saliency = f", saliency={self.saliency!r}" if self.saliency else ""
        labels = ", label_weight='saliency'" if self.planner.weighs_by_saliency else ""
        return f"{self.method!r}, alpha={self.alpha}, num_classes={self.num_classes}{labels}{saliency}"

    @eager
    def forward(self, *inputs: Any) -> Any:
        """Mix a sample."""
        inputs = inputs if len(inputs) > 1 else inputs[0]
        flat, spec = tree_flatten(inputs)
        if refused := [item for item in flat if isinstance(item, REFUSED)]:
            raise ValueError(f"SageMix mixes batches of images and does not support {type(refused[0]).__name__}")
        labels = self.labels_getter(inputs)
        if not any(item is labels for item in flat):
            raise ValueError(f"`labels_getter` must return a tensor of the sample itself, got {_outline(labels)}")
        images = [item for item in flat if isinstance(item, tv_tensors.Image)]
        images = images or [item for item in flat if _is_plain(item) and item is not labels][:1]
        if not images:
            raise ValueError(f"the sample must hold a batch of images [B, C, H, W], got {_outline(inputs)}")
        for batch in images:
            check_images(batch, uint8=True)
            if len(batch) != len(images[0]) or batch.shape[-2:] != images[0].shape[-2:]:
                raise ValueError(
                    f"images mixed together must have one size, got {_outline(images[0])} and {_outline(batch)}"
                )
        params = self.make_params([images[0], labels])
        changed = [labels, *images]
        flat = [self.transform(v, params) if any(v is c for c in changed) else v for v in flat]
        return tree_unflatten(flat, spec)

    @eager
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the plan of a batch [images, labels], None for a single image, its labels and their class weights."""
        images, labels = flat_inputs
        weights = self.planner.class_weights(labels, len(images))
        self.planner.warn_if_alone(images)
        plan = self._plan(images.as_subclass(torch.Tensor), weights) if len(images) > 1 else None
        return {"plan": plan, "labels": labels, "weights": weights}

    def _plan(self, pixels: torch.Tensor, weights: torch.Tensor) -> MixPlan:
        normalized = pixels.is_floating_point()
        pixels = pixels if normalized else pixels.float() / 255
        lam = torch.distributions.Beta(*torch.full((2,), float(self.alpha), dtype=torch.float32)).sample()
        lam = lam.to(pixels.device).expand(len(pixels))
        partner = torch.arange(len(pixels), device=pixels.device).roll(1)
        return self.planner.plan(pixels, weights.to(pixels.device), partner, lam, self.alpha, normalized)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the plan to the labels or to images."""
        plan: MixPlan | None = params["plan"]
        if inpt is params["labels"]:
            weights = params["weights"]
            mixed = weights if plan is None else plan.mix_target(weights.to(plan.lam.device)).to(weights.device)
            return mixed.to(inpt.dtype) if inpt.is_floating_point() else mixed
        if plan is None:
            return inpt
        pixels = inpt.as_subclass(torch.Tensor)
        mixed = plan.mix_images(pixels if pixels.is_floating_point() else pixels.float())
        mixed = mixed if pixels.is_floating_point() else mixed.round().to(torch.uint8)
        return tv_tensors.wrap(mixed, like=inpt) if isinstance(inpt, tv_tensors.Image) else mixed
