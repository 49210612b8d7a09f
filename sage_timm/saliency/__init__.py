"""Saliency sources: (images, target) -> maps [B, 1, h, w]; the registry is `SOURCES`."""

import inspect
import os
from collections.abc import Sequence
from typing import Any

from torch import nn

from .base import Custom, Saliency, Source
from .gradient import Feature, Gradient, ModelSaliency
from .loading import in_training, load_auxiliary
from .network import Network, is_network
from .spectral import Spectral

__all__ = ["SOURCES", "Saliency", "Source", "create_saliency", "resolve"]

SOURCES: dict[str, type[Saliency]] = {
    "network": Network,
    "feature": Feature,
    "gradient": Gradient,
    "spectral": Spectral,
    "self": Gradient,
}
DEFAULT_SOURCE = "network"


def create_saliency(
    name: str | None = None,
    *,
    model: str | nn.Module | None = None,
    checkpoint: str | os.PathLike | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    use_labels: bool | None = None,
    **settings,
) -> Saliency:
    """Create a saliency source.

    Args:
        name: 'network', a small network that comes with the package; 'feature' or 'gradient' of a frozen classifier;
            'spectral', which needs no model; or 'self', the gradient of `model` itself, the model in training.
            Default: 'network', and 'feature' where a classifier is given.
        model: a classifier: a timm model name with pretrained weights, `local-dir:PATH`, `hf-hub:ID`, or a module
            (copied and frozen, but for 'self'). Default: the architecture that the checkpoint names.
        checkpoint: a local file with the weights of `model`: .safetensors, .pth, or a .pth.tar of timm's train.py (the
            averaged ones where it has them; nothing but weights is ever unpickled); or with those of a network that
            `python -m scripts.saliency` trained.
        size: side in pixels that images are resized to for the model. Default: 96 for 'network', half the input size of
            pretrained weights (112 for 224), the images' own size for a checkpoint or a module, 64 for 'spectral'.
            'feature' enlarges them where no stage of the model has 10 x 10 cells.
        mean: per-channel mean the training images are normalised with, for images in [0, 1]; another number of them
            counts by its mean, as in timm's loader. Default: assumed to be that of the model. 'network' needs none.
        std: per-channel standard deviation, likewise.
        use_labels: the labels are the model's own classes, in its order: maps are those of the loss against them, not
            against the model's own top class. Default: where a checkpoint or a module has as many classes; never for
            pretrained weights by name.
        **settings: `blur`, `grid` and `floor`, see `Saliency`. Default blur: 0 for 'network', 1/8 of the side for
            'feature', 1/32 for gradients (the authors' 1 px at 32 px), 1/16 for 'spectral'. Default floor: 1 for
            'network' and 'feature', 0 for the others.

    Raises:
        ValueError: unknown name, or a model or checkpoint that does not fit.
        RuntimeError: the pretrained weights cannot be loaded.

    Example:
        >>> import torch
        >>> create_saliency()(torch.rand(2, 3, 224, 224)).shape
        torch.Size([2, 1, 24, 24])
        >>> create_saliency("spectral")(torch.rand(2, 3, 96, 128)).shape
        torch.Size([2, 1, 64, 64])
    """
    if name is None:
        of_network = model is None and (checkpoint is None or is_network(checkpoint))
        name = DEFAULT_SOURCE if of_network else "feature"
    if name not in SOURCES:
        raise ValueError(f"`saliency` must be one of {', '.join(SOURCES)} or a callable, got {name!r}")
    if unknown := set(settings) - {"blur", "grid", "floor"}:
        raise TypeError(f"saliency settings are blur, grid and floor, got {', '.join(sorted(unknown))}")
    settings |= {"mean": mean, "std": std}
    source = SOURCES[name]
    if issubclass(source, ModelSaliency):
        load = in_training if name == "self" else load_auxiliary
        return source(load(model, checkpoint), size, use_labels, **settings)
    through = {"model": model, "checkpoint": checkpoint, "size": size, "use_labels": use_labels}
    given: dict[str, Any] = {argument: value for argument, value in through.items() if value is not None}
    if unfit := given.keys() - inspect.signature(source).parameters.keys():
        raise ValueError(
            f"`{min(unfit)}` must not be given for {name!r} saliency, which has none; drop it or use 'feature'"
        )
    return source(**given, **settings)


def resolve(saliency: str | Source | None) -> Saliency:
    """Return the source for a name, a callable, or None for the default one.

    Raises:
        TypeError, ValueError: `saliency` is none of these, or an unknown name.
    """
    if saliency is None or isinstance(saliency, str):
        return create_saliency(saliency)
    if not callable(saliency):
        raise TypeError(f"`saliency` must be a source's name or a callable, got {type(saliency).__name__}")
    try:
        inspect.signature(getattr(saliency, "forward", saliency)).bind("images", "target")
    except TypeError:
        raise TypeError(
            f"`saliency` must take (images, target), got a {type(saliency).__name__} that does not; to look through a "
            "classifier use create_saliency('gradient', model=...)"
        ) from None
    except ValueError:  # builtins may show no signature
        pass
    return saliency if isinstance(saliency, Saliency) else Custom(saliency)
