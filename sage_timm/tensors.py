"""Primitives on images and maps that know no method."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import TypeVar

import torch
import torch.nn.functional as F

Function = TypeVar("Function", bound=Callable)


def unit_mass(saliency: torch.Tensor) -> torch.Tensor:
    """Scale each map [B, 1, h, w], of values up to 1e30, to sum 1; one without any saliency counts as uniform."""
    return (saliency / saliency.sum((-2, -1), keepdim=True)).nan_to_num_(1 / saliency[0, 0].numel())


def made_once(function: Function) -> Function:
    """Keep the tensors that a function makes of shapes and a device, which nobody may change, for the next call.

    They are made on the CPU and copied, so that every stream finds them whole. `torch.compile` traces the function.
    """
    kept = lru_cache(maxsize=32)(torch.inference_mode(False)(function))

    @wraps(function)
    def made(*arguments):
        return (function if torch.compiler.is_compiling() else kept)(*arguments)

    made.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return made  # type: ignore[return-value]


@made_once
def numbers(count: int, device: torch.device) -> torch.Tensor:
    """Count from 0 to `count` - 1: [count] int64."""
    return torch.arange(count).to(device)


def expand_tiles(tiles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Give each pixel its tile's value: [..., h, w] to [..., H, W]; pixel (y, x) lies in tile (y h // H, x w // W).

    A single tile is returned as it is, to be broadcast.
    """
    for dim, (count, side) in enumerate(zip(tiles.shape[-2:], size, strict=True), tiles.ndim - 2):
        if count > 1:
            tiles = tiles.index_select(dim, torch.arange(side, device=tiles.device) * count // side)
    return tiles


def translate(images: torch.Tensor, translation: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
    """Move each image, or tiles of it, by whole pixels; what lies outside repeats the image's border.

    Args:
        images: [B, C, H, W], any dtype.
        translation: [B or 1, 2] int64, (dy, dx) in pixels, positive moves the content down / right; or
            [B or 1, 2, h, w], one for each of h x w equal tiles of the result: pixel (y, x) of the result shows pixel
            (y - dy, x - dx) of the image.
        source: [B] int64, the image that each result shows; default: each its own.

    Returns:
        [B, C, H, W] in the dtype of `images`.
    """
    batch, channels, height, width = images.shape
    tiles = translation.view(*translation.shape, *[1] * (4 - translation.ndim))
    dy, dx = expand_tiles(tiles, (height, width)).split(1, 1)
    row = (numbers(height, images.device)[:, None] - dy).clamp_(0, height - 1)
    column = (numbers(width, images.device) - dx).clamp_(0, width - 1)
    source = numbers(batch, images.device) if source is None else source
    return images[source.view(-1, 1, 1, 1), numbers(channels, images.device)[:, None, None], row, column]


def gaussian_blur(maps: torch.Tensor, sigma: float, radius: int | None = None) -> torch.Tensor:
    """Blur [B, 1, h, w] by a Gaussian of `sigma` cells, cut off after `radius` (2 sigma), reflected at the border."""
    reach = math.ceil(2 * sigma) if radius is None else radius
    for dim, shape in ((2, (1, 1, -1, 1)), (3, (1, 1, 1, -1))):
        radius = min(reach, maps.shape[dim] - 1)
        if radius > 0:
            place = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
            weights = (place / sigma).square().mul(-0.5).exp()
            sides = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
            maps = F.conv2d(F.pad(maps, sides, mode="reflect"), (weights / weights.sum()).view(shape))
    return maps


def resize(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize [B, C, H, W] with antialiasing; returned as it is where it has `size`."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def shrink(images: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Show each image whole in a box of its own, resized with antialiasing; outside the box it is 0.

    A pixel of the box averages the image under a triangle of twice its width, as `resize` does. An image whose box is
    the frame stays as it is, if it is finite; one whose box is empty is 0.

    Args:
        images: [B, C, H, W], floating point.
        box: [B, 4] int64, (top, bottom, left, right) in pixels within the frame, bottom and right exclusive.

    Returns:
        [B, C, H, W] in float32 or better.
    """
    images = images if images.dtype == torch.float64 else images.float()
    for dim in (2, 3):
        side = images.shape[dim]
        first, last = (edge.view(-1, 1, 1) for edge in box[:, 2 * dim - 4 : 2 * dim - 2].unbind(1))
        place = torch.arange(side, device=images.device, dtype=images.dtype)
        scale = side / (last - first).clamp_min(1).to(images.dtype)
        middle = (place[:, None] - first + 0.5) * scale
        weight = (1 - (place + 0.5 - middle).abs() / scale).clamp_min(0)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        inside = (place[:, None] >= first) & (place[:, None] < last)
        weight = torch.where(inside, weight, 0)[:, None]
        with torch.autocast(images.device.type, enabled=False):
            images = weight @ images if dim == 2 else images @ weight.mT
    return images


def per_channel(values: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Shape statistics for images [B, C, H, W]: [1, C, 1, 1]; their mean where their number differs."""
    statistics = torch.as_tensor(values, dtype=images.dtype)
    if statistics.numel() != images.shape[1]:
        statistics = statistics.mean().expand(images.shape[1])
    return statistics.view(1, -1, 1, 1).to(images.device, non_blocking=True)
