"""Make an image folder of real photographs whose object covers a given share of the frame, with a file of boxes.

python -m scripts.study.photographs tiny-imagenet-200 OUT --low 0.03 --high 0.25 --classes 24 --train 150

The source is Tiny-ImageNet, whose training photographs (64 px) come with the box of their object. OUT gets train/,
validation/ and boxes.json, as `python -m scripts.study --data-dir OUT --test-split validation --boxes OUT/boxes.json`
reads them. Its photographs are ImageNet's, for research only, and known to models that were pretrained on ImageNet.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from .__main__ import number

SIDE = 64
FEWEST = 10  # photographs of a class beside --train, else it is left out


def read_boxes(file: Path) -> dict[str, list[int]]:
    """Read the boxes of a class of Tiny-ImageNet: file name -> [left, top, right, bottom] in pixels, inclusive."""
    return {name: [int(edge) for edge in edges] for name, *edges in map(str.split, file.read_text().splitlines())}


def share(box: list[int]) -> float:
    """Return the share of the frame that a box covers."""
    left, top, right, bottom = box
    return (right - left + 1) * (bottom - top + 1) / SIDE**2


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count, add = number(int, 1), parser.add_argument
    add("source", type=Path, metavar="TINY_IMAGENET", help="folder that holds train/CLASS/CLASS_boxes.txt")
    add("out", type=Path, metavar="OUT", help="folder to be made")
    add(
        "--low",
        type=number(float, 0, 1),
        default=0.03,
        metavar="SHARE",
        help="smallest share of the frame (default: 0.03)",
    )
    add("--high", type=number(float, 0, 1), default=0.25, metavar="SHARE", help="largest one, included (default: 0.25)")
    add("--classes", type=count, metavar="N", help="the classes with most such photographs (default: all)")
    add("--train", type=count, metavar="N", help="of each class at most (default: all that are not for the test)")
    add("--test", type=count, default=80, metavar="N", help="of each class at most, and a fifth without --train")
    args = parser.parse_args(argv)
    if args.low > args.high:
        parser.error(f"--low must be at most --high, got {args.low} and {args.high}")
    if args.out.exists():
        parser.error(f"OUT must be a new folder, got {args.out}, which exists; remove it or name another")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    classes = {}
    for file in args.source.glob("train/*/*_boxes.txt"):
        boxes = {name: box for name, box in read_boxes(file).items() if args.low <= share(box) <= args.high}
        if len(boxes) >= FEWEST + (args.train or 0):
            classes[file.parent] = boxes
    if not classes:
        raise SystemExit(
            f"error: {args.source} must hold train/CLASS/CLASS_boxes.txt with boxes of that share, got none"
        )
    largest = sorted(classes, key=lambda folder: (-len(classes[folder]), folder.name))[: args.classes]
    chosen, made = {}, {"train": 0, "validation": 0}
    for folder in largest:
        names = sorted(classes[folder])
        random.Random(folder.name).shuffle(names)
        train = args.train or len(names) - min(args.test, len(names) // 5)
        for split, part in {"train": names[:train], "validation": names[train : train + args.test]}.items():
            (args.out / split / folder.name).mkdir(parents=True)
            made[split] += len(part)
            for name in part:
                shutil.copy(folder / "images" / name, args.out / split / folder.name)
                chosen[name] = classes[folder][name]
    (args.out / "boxes.json").write_text(json.dumps(chosen))
    print(f"{made['train']} training and {made['validation']} test photographs of {len(largest)} classes")


if __name__ == "__main__":
    main()
