"""Augmentation of a whole batch at once, on its device: RandomResizedCrop and flip, RandAugment, random erasing."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2


def draw_crops(
    count: int, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], generator
) -> torch.Tensor:
    """Draw boxes as torchvision's RandomResizedCrop does: of ten tries each takes the first that fits.

    Args:
        count: B.
        size: (H, W) of the images.
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest width over height, drawn uniformly in its logarithm.
        generator: on the device of the result.

    Returns:
        [B, 4] float32, whole numbers: top, left, height, width. Where none of the ten fits, the largest box of an
        aspect ratio within `ratio`; torchvision's lies in the middle, this one anywhere.
    """

    def uniform(low, high, tries=10):
        return low + (high - low) * torch.rand((tries, count), generator=generator, device=generator.device)

    height, width = size
    area, aspect = height * width * uniform(*scale), uniform(*map(math.log, ratio)).exp()
    boxes = torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()])
    whole = boxes.new_tensor([min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))])
    frame = boxes.new_tensor([height, width])
    fits = ((boxes >= 1) & (boxes <= frame[:, None, None])).all(0)
    boxes = boxes.gather(1, fits.int().argmax(0).expand(2, 1, -1))[:, 0]
    boxes = torch.where(fits.any(0), boxes, whole[:, None])
    corner = (uniform(0, 1, 2) * (frame[:, None] - boxes + 1)).floor()
    return torch.cat([corner, boxes]).T


def crop(images: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor, nearest: bool = False) -> torch.Tensor:
    """Cut a box out of each image and resize it to the image's size.

    Args:
        images: [B, C, H, W], any dtype.
        boxes: [B, 4] float32: top, left, height, width in pixels, inside the image.
        flip: [B] bool, which images to mirror afterwards.
        nearest: take the nearest pixel, in the images' dtype, not the bilinear mean (what is shrunk is not smoothed).

    Returns:
        [B, C, H, W], float32 where bilinear.
    """
    size = images.shape[-2:]
    y, x = (
        (start + (torch.arange(side, device=images.device) + 0.5) / side * length - 0.5)
        .maximum(start)
        .minimum(start + length - 1)
        for side, start, length in zip(size, boxes.split(1, 1)[:2], boxes.split(1, 1)[2:], strict=True)
    )
    x = torch.where(flip[:, None], x.flip(1), x)
    if nearest:
        y, x = ((each + 0.5).long() for each in (y, x))
        every = torch.arange(len(images), device=images.device)[:, None, None]
        return images[every, :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)
    y, x = ((2 * each + 1) / side - 1 for side, each in zip(size, (y, x), strict=True))
    grid = torch.stack([x[:, None].expand(-1, size[0], -1), y[:, :, None].expand(-1, -1, size[1])], -1)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


@contextmanager
def own_randomness(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from Python's and torch's generators depend on `generator` alone, and leave those as found."""
    state, seed = random.getstate(), torch.randint(2**31, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


class Augmentation:
    """RandomResizedCrop and flip, then RandAugment and random erasing where asked for, as timm orders them.

    Args:
        scale, ratio: see `draw_crops`.
        randaugment: whether to apply torchvision's RandAugment, with its defaults, to each image.
        random_erasing: the share of images of which timm's RandomErasing fills a part with noise, after normalisation.
    """

    def __init__(self, scale, ratio, randaugment: bool, random_erasing: float, device) -> None:
        self.scale, self.ratio = scale, ratio
        self.randaugment = v2.RandAugment() if randaugment else None
        self.erasing = RandomErasing(random_erasing, mode="pixel", device=device) if random_erasing else None

    def __call__(
        self,
        images: torch.Tensor,
        mask: torch.Tensor | None,
        normalized: Callable[[torch.Tensor], torch.Tensor],
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Augment a batch.

        Args:
            images: [B, C, H, W] uint8.
            mask: [B, 1, H, W], cropped and mirrored along; None where there is none.
            normalized: normalises images in [0, 255].
            generator: all that is drawn depends on it alone.

        Returns:
            The images [B, C, H, W] float32, normalised, and their masks.
        """
        boxes = draw_crops(len(images), images.shape[-2:], self.scale, self.ratio, generator)
        flip = torch.rand(len(images), generator=generator, device=images.device) < 0.5
        cropped = crop(images, boxes, flip)
        mask = None if mask is None else crop(mask, boxes, flip, nearest=True)
        if not (self.randaugment or self.erasing):
            return normalized(cropped), mask
        with own_randomness(generator):
            if self.randaugment:
                cropped = torch.stack([self.randaugment(image) for image in cropped.round().byte()])
            images = normalized(cropped)
            return self.erasing(images) if self.erasing else images, mask
