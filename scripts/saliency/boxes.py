"""Write boxes.json for a folder of photographs, out of the annotations that a data set has.

python -m scripts.saliency.boxes FOLDER --masks DIR | --voc DIR | --yolo DIR | --tiny DIR

Files are matched by their names without endings: masks are pictures, white on the objects (each part of more than 0.1 %
of the frame gets a box); VOC's are XML files; YOLO's are text files, a line `class x y width height` per object.
Tiny-ImageNet's have a line per photograph: its name, perhaps its class, left, top, right and bottom.
"""

import argparse
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .lessons import SUFFIXES

Box = list[float]  # left, top, right, bottom in pixels, inclusive


def of_mask(file: Path, photograph: Path) -> list[Box]:
    """Return the boxes around the white parts of a mask."""
    from skimage.measure import label, regionprops

    with Image.open(photograph) as picture, Image.open(file) as mask:
        white = np.asarray(mask.convert("L").resize(picture.size)) > 127
    parts = [part.bbox for part in regionprops(label(white)) if part.area > white.size / 1000]
    return [[left, top, right - 1, bottom - 1] for top, left, bottom, right in parts]


def of_voc(file: Path, photograph: Path) -> list[Box]:
    """Return the boxes of a PASCAL VOC file."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    return [[float(box.findtext(edge, "0")) for edge in edges] for box in ElementTree.parse(file).iter("bndbox")]


def of_yolo(file: Path, photograph: Path) -> list[Box]:
    """Return the boxes of a YOLO file, which are given by their middle and size as shares of the photograph."""
    with Image.open(photograph) as picture:
        width, height = picture.size
    boxes = []
    for line in file.read_text().splitlines():
        x, y, w, h = map(float, line.split()[1:5])
        boxes.append([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width - 1, (y + h / 2) * height - 1])
    return boxes


def of_tiny_imagenet(where: Path) -> dict[str, list[Box]]:
    """Return the boxes of Tiny-ImageNet's text files, file name -> boxes."""
    lines = (line.split() for file in where.rglob("*.txt") for line in file.read_text().splitlines())
    return {line[0]: [[float(edge) for edge in line[-4:]]] for line in lines if len(line) > 4}


def checked(read: Callable[[Path, Path], list[Box]], file: Path, photograph: Path) -> list[Box]:
    """Read a file's boxes; SystemExit where it holds none that fit the photograph."""
    with Image.open(photograph) as picture:
        width, height = picture.size
    try:
        boxes = read(file, photograph)
        middles = (((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in boxes)
        if not all(0 <= x <= width and 0 <= y <= height for x, y in middles):
            raise ValueError("a box has its middle outside")
    except (OSError, SyntaxError, TypeError, ValueError) as error:
        raise SystemExit(
            f"error: {file} must hold the boxes of {photograph.name} ({error}); correct or remove it"
        ) from None
    return boxes


READERS = {"masks": (of_mask, SUFFIXES), "voc": (of_voc, (".xml",)), "yolo": (of_yolo, (".txt",))}


def main(argv: list[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    kinds = parser.add_mutually_exclusive_group(required=True)
    for kind in (*READERS, "tiny"):
        kinds.add_argument(f"--{kind}", type=Path, metavar="DIR")
    args = parser.parse_args(argv)
    kind, where = next((kind, where) for kind in (*READERS, "tiny") if (where := getattr(args, kind)))
    photographs = [path for path in args.folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    if kind == "tiny":
        known = of_tiny_imagenet(where)
        boxes = {path.name: known[path.name] for path in photographs if path.name in known}
    else:
        read, endings = READERS[kind]
        files = {file.stem: file for file in where.rglob("*") if file.suffix.lower() in endings}
        boxes = {path.name: checked(read, files[path.stem], path) for path in photographs if path.stem in files}
    if not any(boxes.values()):
        raise SystemExit(f"error: --{kind} must hold files named as the photographs of {args.folder}, got {where}")
    (args.folder / "boxes.json").write_text(json.dumps(boxes))
    print(f"boxes of {len(boxes)} of {len(photographs)} photographs: {args.folder / 'boxes.json'}")


if __name__ == "__main__":
    main()
