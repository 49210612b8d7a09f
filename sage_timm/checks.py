"""Rules for arguments, shapes and dtypes; each error states the rule, the value and what to do."""

import importlib.util
from numbers import Integral, Real

import torch


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"


def check_number(name: str, value: float, low: float, high: float, open_low: bool = False) -> float:
    """Return `value` where it is a number in [low, high], or in (low, high] with `open_low`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {_describe(value)}")
    if not (low < value if open_low else low <= value) or not value <= high:
        span = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if high == float('inf') else ']'}"
        raise ValueError(f"`{name}` must lie in {span}, got {value!r}")
    return value


def check_count(name: str, value: int, low: int) -> int:
    """Return `value` where it is a whole number >= `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be a whole number, got {_describe(value)}")
    if value < low:
        raise ValueError(f"`{name}` must be at least {low}, got {value}")
    return value


def check_library(module: str, user: str, package: str, extra: str) -> None:
    """Raise ImportError where a module of an extra is missing."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f'{user} needs {package}, which is not installed; pip install ".[{extra}]" in a checkout')


def check_images(images: torch.Tensor, uint8: bool = False) -> None:
    """Raise unless `images` is a non-empty batch [B, C, H, W], floating point, or `uint8` where that is accepted."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"`images` must be a tensor [B, C, H, W], got {type(images).__name__}; stack them")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"`images` must be a non-empty batch [B, C, H, W], got {_describe(images)}")
    if not images.is_floating_point() and not (uint8 and images.dtype == torch.uint8):
        kinds = "uint8 or floating point" if uint8 else "floating point"
        raise TypeError(f"`images` must be {kinds}, got {_describe(images)}; mix after scaling and normalising them")


def check_target(
    target: object, batch_size: int, num_classes: int | None, multi_label: bool = False, name: str = "target"
) -> None:
    """Raise unless `target` holds integer labels [B] (not for `multi_label`) or class weights [B, num_classes].

    `name` is what the error calls it; where `num_classes` is None, class weights may have any width.
    """
    labels = "" if multi_label else f"integer labels [{batch_size}] or "
    rule = f"`{name}` must hold {labels}class weights [{batch_size}, {num_classes or 'num_classes'}]"
    if not isinstance(target, torch.Tensor):
        raise TypeError(f"{rule}, got {type(target).__name__}; make it a tensor")
    if target.ndim == 1 and not multi_label and len(target) == batch_size:
        if target.is_floating_point() or target.is_complex():
            raise TypeError(f"{rule}, got {_describe(target)}; convert labels by .long()")
        if num_classes is None:
            raise ValueError(f"`num_classes` must be given for {name} [{batch_size}], got None; set it")
    elif target.ndim != 2 or len(target) != batch_size or num_classes not in (None, target.shape[1]):
        hint = "squeeze(1) them" if tuple(target.shape) == (batch_size, 1) else "check num_classes and multi_label"
        raise ValueError(f"{rule}, got {_describe(target)}; {hint}")


def check_saliency(saliency: torch.Tensor, images: torch.Tensor) -> None:
    """Raise unless `saliency` is a floating-point map [B, 1, h, w] on the device of the images [B, C, H, W]."""
    rule = f"a saliency source must return floating-point maps [{len(images)}, 1, h, w] on {images.device}"
    if not isinstance(saliency, torch.Tensor):
        raise TypeError(f"{rule}, got {type(saliency).__name__}")
    shape = tuple(saliency.shape)
    if len(shape) != 4 or shape[:2] != (len(images), 1) or 0 in shape or not saliency.is_floating_point():
        raise ValueError(f"{rule}, got {_describe(saliency)}; use mean(1, keepdim=True), unsqueeze(1) or float()")
    if saliency.device != images.device:
        raise ValueError(f"{rule}, got one on {saliency.device}; move it by .to(images.device)")


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
