"""What the network sees in training: parts of photographs, and photographs small on other backgrounds."""

import torch
import torch.nn.functional as F

from sage_timm.tensors import resize
from scripts.study.data import _texture as texture

from .lessons import Lesson

SHARPNESS = (32, 48, 64, 96, 128)  # px that photographs are reduced to before a part is enlarged
MAP_CELLS = 56  # per side, that maps are enlarged to before they are cut


def draw(low: float, high: float, shape, generator: torch.Generator) -> torch.Tensor:
    """Draw uniform numbers in [low, high]."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def pick(choices, generator: torch.Generator):
    """Pick one of a sequence."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def parts(
    lesson: Lesson, index: torch.Tensor, side: int, generator: torch.Generator, least: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a part out of photographs and of what is to be learnt of them, mirrored or not.

    Args:
        lesson: the photographs.
        index: [B] int64, which of them.
        side: of the parts in pixels, a multiple of 4.
        generator: on the CPU.
        least: share of the photograph's area that a part has at least; the sides' ratio is 3/4 to 4/3.

    Returns:
        Images [B, 3, side, side] in [0, 1] and targets [B, 1, side / 4, side / 4], each of sum 1.
    """
    sharp = min(lesson.images.shape[-1], pick(SHARPNESS, generator))
    images = resize(lesson.images[index].float() / 255, (sharp, sharp))
    target, count, cells = lesson.target(index, MAP_CELLS), len(index), side // 4
    area, ratio = draw(least, 1, count, generator), draw(-0.29, 0.29, count, generator).exp()
    height, width = ((area / ratio) ** 0.5).clamp_max(1), ((area * ratio) ** 0.5).clamp_max(1)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    y, x = ((1 - size) * draw(-1, 1, count, generator) for size in (height, width))
    # Where a part holds next to none of the object, the photograph is shown whole.
    kept = _cut(target, cells, y, x, height, width, flip).mean((1, 2, 3)) * height * width
    enough = kept >= 0.3 * target.mean((1, 2, 3))
    y, x = y * enough, x * enough
    height, width = (torch.where(enough, size, 1) for size in (height, width))
    images, target = (_cut(each, n, y, x, height, width, flip) for each, n in ((images, side), (target, cells)))
    return images, unit_sum(target)


def unit_sum(target: torch.Tensor) -> torch.Tensor:
    """Scale each [1, h, w] of a batch to sum 1; 0 stays 0."""
    return target / target.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _cut(images, side, y, x, height, width, flip):
    """Cut a part out of each image and enlarge it; its middle and half its size are given on a frame of [-1, 1]."""
    none = torch.zeros_like(y)
    rows = torch.stack([torch.stack([width * flip, none, x], 1), torch.stack([none, height, y], 1)], 1)
    grid = F.affine_grid(rows, [len(y), images.shape[1], side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def background(images: torch.Tensor, target: torch.Tensor, grain: int, generator: torch.Generator) -> torch.Tensor:
    """Make backgrounds out of images [B, 3, side, side] in [0, 1].

    All by one of: the quarter with the least of the target, mirrored to the whole frame or enlarged; a texture of the
    image's spectrum; its mean colour with noise.

    Args:
        images: what `parts` returned.
        target: likewise.
        grain: side in pixels that images are reduced to for a texture.
        generator: on the CPU.
    """
    side, kind = images.shape[-1], pick(("mirrored", "mirrored", "enlarged", "texture", "plain"), generator)
    if kind == "texture":
        return texture(255 * resize(images, (grain, grain)), side, generator).float() / 255
    if kind == "plain":
        noise = torch.randn(images.shape, generator=generator)
        return images.mean((-2, -1), keepdim=True) + draw(0, 0.1, (len(images), 1, 1, 1), generator) * noise
    half = side // 2
    least = F.adaptive_avg_pool2d(target, 2).flatten(1).argmin(1)
    y, x = (corner[:, None] * half + torch.arange(half) for corner in (least // 2, least % 2))
    quarter = images[torch.arange(len(images))[:, None, None], :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)
    if kind == "enlarged":
        return resize(quarter, (side, side))
    halves = torch.cat([quarter, quarter.flip(3)], 3)
    return torch.cat([halves, halves.flip(2)], 2)


def small(
    images: torch.Tensor, target: torch.Tensor, others: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Show images small, at random places of backgrounds that other images make; their edges fade.

    Args:
        images: what `parts` returned.
        target: likewise.
        others: both of other photographs.
        generator: on the CPU.

    Returns:
        As `images` and `target`.
    """
    side, cells = images.shape[-1], target.shape[-1]
    length = max(12, round(float(draw(0.2, 0.85, (), generator)) * side))
    frames = background(*others, length, generator)
    edge = torch.linspace(-1, 1, length).abs()
    distance = pick((torch.maximum(edge[:, None], edge), (edge[:, None] ** 2 + edge**2).sqrt()), generator)
    opacity = ((1 - distance) / draw(0.01, 0.5, (), generator)).clamp(0, 1)
    shrunk = resize(images, (length, length)), F.interpolate(target, (length, length), mode="bilinear") * opacity
    found = torch.zeros_like(frames[:, :1])
    corners = (torch.rand((len(images), 2), generator=generator) * (side - length + 1)).long().tolist()
    for frame, image, part, mass, (y, x) in zip(frames, shrunk[0], found, shrunk[1], corners, strict=True):
        frame[:, y : y + length, x : x + length].lerp_(image, opacity)
        part[:, y : y + length, x : x + length] = mass
    return frames, unit_sum(F.adaptive_avg_pool2d(found, cells))


def coloured(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change the contrast, the colours, the sharpness and the noise of images [B, 3, h, w] at random."""
    shape = len(images), 1, 1, 1
    grey = images.mean(1, keepdim=True)
    colour = draw(0, 1.6, shape, generator) * (torch.rand(shape, generator=generator) > 0.1)
    images = (grey + colour * (images - grey)) * draw(-0.2, 0.2, (len(images), 3, 1, 1), generator).exp()
    if torch.rand((), generator=generator) < 0.3:
        images = resize(resize(images, [pick((24, 32, 48, 64), generator)] * 2), images.shape[-2:])
    noise = draw(0, 0.08, shape, generator) * (torch.rand(shape, generator=generator) < 0.3)
    return images + noise * torch.randn(images.shape, generator=generator)
