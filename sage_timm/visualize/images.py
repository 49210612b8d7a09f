"""Images of files and folders as a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_images(paths: Sequence[str], count: int, size: int) -> tuple[torch.Tensor, list[str]]:
    """Load images of files and folders, spread evenly over what is there.

    Args:
        paths: image files and folders; folders are searched with their subfolders.
        count: number of images to load, fewer where there are fewer.
        size: side in pixels of the square that the middle of each image is resized to.

    Returns:
        The images [B, 3, size, size] in [0, 1]; and a name for each, its folder's in folders with subfolders, else its
        file's.

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
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)]
    images = []
    for path, _ in chosen:
        pixels = transforms.to_dtype(transforms.pil_to_tensor(_read(path)), torch.float32, scale=True)
        pixels = transforms.resize(pixels, [size], antialias=True) if min(pixels.shape[-2:]) != size else pixels
        images.append(transforms.center_crop(pixels, [size]))
    return torch.stack(images).clamp(0, 1), [name for _, name in chosen]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at white
                return Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
            return picture.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(path)!r} must be a whole image file ({error}); replace or remove it") from error
