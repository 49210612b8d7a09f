"""Measure how well maps find the objects of photographs: inside boxes, or small on a texture by construction.

python -m scripts.saliency.measure FOLDER [FOLDER:COUNT ...] --sources network network:64 teacher:112 spectral

FOLDER is one of photographs, as for `python -m scripts.saliency`, with a boxes.json; or any with --object-share, where
each photograph stands small on a texture, as in the study. Photographs are cropped to their middle square and shown at
224 px; those whose boxes cover less than 0.3 or more than 60 % of it are left out (--share). A source is 'network'
(or a file that `scripts.saliency` wrote), 'teacher' (or a classifier's checkpoint, .pth), 'gradient' (of the teacher)
or 'spectral', with the side in pixels at which it looks. Given are the share of the maps' mass on the objects, the
share of maps whose highest cell lies on one, and milliseconds per image on one CPU thread.
"""

import argparse
import time
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as transforms

from sage_timm import create_saliency
from sage_timm.saliency import Saliency
from sage_timm.tensors import resize
from scripts.study.__main__ import number
from scripts.study.arms import map_quality
from scripts.study.data import place

from .lessons import find_images, folder_and_count, read, read_boxes
from .teacher import SIZE, packaged_model


def boxed(folder: Path, count: int | None, low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Load photographs that have boxes: [N, 3, 224, 224] and masks [N, 1, 56, 56], uint8."""
    boxes = read_boxes(folder)
    each = [read(path, boxes[path.name]) for path in find_images(folder, count) if boxes.get(path.name)]
    if not each:
        raise SystemExit(f"error: {folder} must hold photographs and a boxes.json that names them, got none")
    each = [(image, mask[None]) for image, mask in each if low <= mask.float().mean() <= high]
    if not each:
        raise SystemExit(f"error: --share must leave photographs of {folder}, got {low} to {high} and none; widen it")
    images, masks = (torch.stack(values) for values in zip(*each, strict=True))
    return images, masks


def framed(folder: Path, count: int | None, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Load every fifth photograph, each small on a texture (see `place`)."""
    images = [
        transforms.resize(read(path, [])[0], [160, 160], antialias=True) for path in find_images(folder)[::5][:count]
    ]
    return place(torch.stack(images), (share,), SIZE, torch.Generator().manual_seed(0))


def create_source(text: str) -> Saliency:
    """Create the source that NAME[:SIZE] stands for, for images in [0, 1]."""
    name, _, side = text.partition(":")
    if side and not side.isdecimal():
        raise ValueError(f"--sources must be NAME or NAME:SIZE, got {text}")
    size = int(side) if side else None
    statistics = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    if name in ("teacher", "gradient"):
        name = "feature" if name == "teacher" else name
        return create_saliency(name, model=packaged_model(), size=size or SIZE, **statistics)
    if name.endswith(".safetensors"):
        return create_saliency("network", checkpoint=name, size=size)
    if name.endswith(".pth"):
        return create_saliency("feature", checkpoint=name, size=size or SIZE, **statistics)
    return create_saliency(name, size=size, **statistics)


def measure(name: str, images: torch.Tensor, masks: torch.Tensor) -> str:
    """Return the cells of a row of the table."""
    source = create_source(name)
    source(images[:2].float() / 255)
    start = time.process_time()
    maps = torch.cat([source(part.float() / 255) for part in images.split(25)])
    each = 1000 * (time.process_time() - start) / len(images)
    quality = map_quality(maps, resize(masks.float(), (SIZE, SIZE)).round())
    return f"{quality['on_object']:.2f}, {quality['pointing']:.2f} | {each:.1f}"


def main(argv: list[str] | None = None) -> None:
    """Print a table with a row for each folder and source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=folder_and_count, metavar="FOLDER[:COUNT]")
    parser.add_argument("--object-share", type=number(float, 1e-3, 1), metavar="SHARE")
    parser.add_argument("--share", nargs=2, type=number(float, 0, 1), default=[0.003, 0.6], metavar=("LOW", "HIGH"))
    parser.add_argument("--sources", nargs="+", default=["network", "teacher:112", "spectral"], metavar="SOURCE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        for text in args.sources:
            create_source(text)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"error: --sources: {error}") from None
    loaded = [
        framed(*asked, args.object_share) if args.object_share else boxed(*asked, *args.share) for asked in args.folders
    ]
    print(
        "| photographs | objects | source | mass on them, highest point there | ms |\n| --- | --- | --- | --- | --- |"
    )
    for (folder, _), (images, masks) in zip(args.folders, loaded, strict=True):
        about = f"| {folder.name}, {len(images)} | {100 * masks.float().mean():.0f} % |"
        for name in args.sources:
            print(about, name, "|", measure(name, images, masks), "|", flush=True)


if __name__ == "__main__":
    main()
