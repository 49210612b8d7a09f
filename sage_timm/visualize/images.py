"""Images of files and folders as a batch."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_images(
    paths: Sequence[str],
    count: int,
    size: int,
    progress: Callable[[Iterable], Iterable] = iter,
    channels: int | None = None,
) -> tuple[torch.Tensor, list[str]]:
    """Load images of files and folders, spread evenly over what is there.

    Args:
        paths: image files and folders; folders are searched with their subfolders.
        count: number of images to load, fewer where there are fewer.
        size: side in pixels of the square that the middle of each image is resized to.
        progress: wraps the images as they are read, such as tqdm.
        channels: 1 or 3; default: 1 where all are greyscale, else 3.

    Returns:
        The images [B, channels, size, size] in [0, 1]; and a name for each, its folder's in folders with subfolders,
        else its file's.

    Raises:
        ValueError: a path does not exist, or there are fewer than 2 images.
    """
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise ValueError(f"IMAGES_OR_FOLDER must exist, got {str(path)!r}")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        found += [(p, p.parent.name if p.parent != path and path.is_dir() else p.stem) for p in inside]
    if len(found) < 2:
        raise ValueError(f"at least 2 images are needed to mix, got {len(found)} in {', '.join(map(str, paths))}")
    chosen = [found[i] for i in spread(len(found), count)]
    grey = channels == 1 if channels else all(_is_grey(path) for path, _ in chosen)
    images = []
    for path, _ in progress(chosen):
        picture = _read(path, lambda opened: _eight_bit(opened).convert("L" if grey else "RGB"))
        pixels = transforms.to_dtype(transforms.pil_to_tensor(picture), torch.float32, scale=True)
        pixels = transforms.resize(pixels, [size], antialias=True) if min(pixels.shape[-2:]) != size else pixels
        images.append(transforms.center_crop(pixels, [size]))
    return torch.stack(images).clamp(0, 1), [name for _, name in chosen]


def spread(total: int, count: int) -> list[int]:
    """Choose `count` of the indices below `total`, at equal distances; all where there are no more."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def _read(path: Path, use: Callable):
    """Return what `use` makes of an image file."""
    try:
        with Image.open(path) as opened:
            return use(opened)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(path)!r} must be a whole image file ({error}); replace or remove it") from error


def _is_grey(path: Path) -> bool:
    return _read(path, lambda opened: opened.mode == "L" or opened.mode.startswith("I"))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Scale a 16-bit greyscale picture, which Pillow would cut off at white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))
