"""Measure how well maps find the objects of photographs, by boxes around them or with --object-share by construction.

python -m scripts.study.photos IMAGES --boxes ANNOTATIONS --sizes 112 224

IMAGES is a folder of photographs, ANNOTATIONS one of PASCAL VOC's XML files, each of which names its photograph.
Photographs are scaled to 224 px and cropped to the middle; those whose boxes cover less than 1 or more than 60 % of it
are left out. With --object-share in place of --boxes each photograph stands small on a texture, as in the study.
Maps are those of the model's own top class; milliseconds are of one CPU thread.
"""

import argparse
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from sage_timm import create_saliency
from sage_timm.saliency import DEFAULT_MODEL

from .arms import map_quality
from .data import place

SIDE = 224
SUFFIXES = (".jpg", ".jpeg", ".png")


def crop(image: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """Scale [C, H, W] so that the shorter side is `side`, and cut out the middle."""
    return transforms.center_crop(transforms.resize(image, [side], antialias=True), [side, side])


def load(path: Path) -> torch.Tensor:
    """Read a photograph: [3, H, W] uint8."""
    with Image.open(path) as picture:
        return transforms.pil_to_tensor(picture.convert("RGB"))


def boxed(images: Path, annotations: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Load the photographs that have boxes: [N, 3, 224, 224] uint8 and the masks [N, 1, 224, 224] of their boxes."""
    found, masks = [], []
    for file in sorted(annotations.glob("*.xml")):
        tree = ElementTree.parse(file)
        path = images / tree.findtext("filename", "")
        if not path.is_file():
            continue
        image = load(path)
        mask = torch.zeros_like(image[:1], dtype=torch.float32)
        for box in tree.iter("bndbox"):
            edges = {edge.tag: round(float(edge.text or 0)) for edge in box}
            mask[:, edges["ymin"] : edges["ymax"], edges["xmin"] : edges["xmax"]] = 1
        mask = crop(mask).round()
        if 0.01 <= mask.mean() <= 0.6:
            found.append(crop(image))
            masks.append(mask)
    if not found:
        raise SystemExit(f"error: --boxes must hold VOC's XML files that name photographs of {images}, got none")
    return torch.stack(found), torch.stack(masks)


def framed(images: Path, share: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Load photographs evenly spread over the folder, each small on a texture (see `place`)."""
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise SystemExit(f"error: {images} must hold at least 2 photographs ({', '.join(SUFFIXES)}), got {len(files)}")
    step = max(1, len(files) // count)
    squares = torch.stack([crop(load(path), 160) for path in files[::step][:count]])
    return place(squares, (share,), SIDE, torch.Generator().manual_seed(0))


def measure(name: str, size: int | None, model: str, images: torch.Tensor, mask: torch.Tensor) -> str:
    """Return a line of the table for one source."""
    asked = {} if name == "spectral" else {"model": model, "size": size}
    source = create_saliency(name, mean=(0.0,) * 3, std=(1.0,) * 3, **asked)
    source(images[:2].float() / 255)
    start = time.process_time()
    maps = torch.cat([source(part.float() / 255) for part in images.split(25)])
    each = 1000 * (time.process_time() - start) / len(images)
    quality = " | ".join(f"{value:.2f}" for value in map_quality(maps, mask).values())
    return f"| {name}{f', {size} px' if size else ''} | {quality} | {each:.1f} |"


def main(argv: list[str] | None = None) -> None:
    """Print a table with a line per source and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("--boxes", type=Path, metavar="ANNOTATIONS")
    parser.add_argument("--object-share", type=float, metavar="SHARE")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="photographs with --object-share")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224], metavar="N", help="what the model sees")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME")
    args = parser.parse_args(argv)
    if (args.boxes is None) == (args.object_share is None):
        parser.error("one of --boxes and --object-share must be given")
    torch.set_num_threads(1)
    images, mask = boxed(args.images, args.boxes) if args.boxes else framed(args.images, args.object_share, args.count)
    print(f"{len(images)} photographs, objects cover {100 * mask.float().mean():.0f} % of the frame")
    print("| source | mass on the object | highest point on it | ms per image |")
    print("| --- | --- | --- | --- |")
    for name in ("feature", "gradient", "spectral"):
        for size in args.sizes if name != "spectral" else [None]:
            print(measure(name, size, args.model, images, mask), flush=True)


if __name__ == "__main__":
    main()
