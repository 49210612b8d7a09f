"""Make a data set of small objects: photographs of ten objects, cropped at random, small in frames of clutter.

python -m scripts.objects FOLDER

The photographs come with scikit-image and scikit-learn (the extra `dev`); nothing is downloaded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import skimage.data
import sklearn.datasets
import torch
from PIL import Image
from torchvision.transforms import v2
from tqdm import tqdm

from scripts.study.data import place

FOLDERS = Path(skimage.data.__path__[0]), Path(sklearn.datasets.__path__[0], "images")
# An object's photograph, and the left edge, the top edge and the side of the square around it, in pixels.
OBJECTS = {
    "astronaut": ("astronaut.png", 145, 15, 170),
    "cameraman": ("camera.png", 110, 40, 270),
    "cat": ("chelsea.png", 80, 0, 300),
    "cup": ("coffee.png", 130, 10, 380),
    "flower": ("flower.jpg", 160, 60, 310),
    "helmet": ("astronaut.png", 325, 320, 185),
    "motorcycle": ("motorcycle_left.png", 180, 90, 390),
    "pagoda": ("china.jpg", 70, 40, 310),
    "retina": ("retina.jpg", 0, 0, 1411),
    "rocket": ("rocket.jpg", 260, 90, 240),
}
FRAME, SHARE = 96, 0.25  # the frame's side in pixels, the object's share of its area
SPLITS = {"train": 50, "validation": 50}  # frames of each object


def photograph(name: str, left: int, top: int, width: int, height: int) -> torch.Tensor:
    """Load a part of a photograph: [3, height, width] uint8."""
    path = next(folder / name for folder in FOLDERS if (folder / name).exists())
    with Image.open(path) as opened:
        return v2.functional.pil_to_tensor(opened.convert("RGB").crop((left, top, left + width, top + height)))


def main(argv: Sequence[str] | None = None) -> None:
    """Write FOLDER/SPLIT/OBJECT/NUMBER.png."""
    parser = argparse.ArgumentParser(prog="python -m scripts.objects", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args(argv).folder
    vary = v2.Compose(
        [
            v2.RandomResizedCrop(FRAME, (0.4, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        ]
    )
    objects = [photograph(name, *corner, side, side) for name, *corner, side in OBJECTS.values()]
    for seed, (split, count) in enumerate(SPLITS.items()):
        torch.manual_seed(seed)
        crops = torch.stack([vary(each) for each in objects for _ in range(count)])
        frames, _ = place(crops, (SHARE,), FRAME, torch.Generator().manual_seed(seed))
        for i, frame in enumerate(tqdm(frames, f"writing {folder / split}", leave=False, disable=None)):
            path = folder / split / list(OBJECTS)[i // count] / f"{i % count:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            v2.functional.to_pil_image(frame).save(path)


if __name__ == "__main__":
    main()
