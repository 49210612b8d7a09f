"""Choose photographs of Tiny-ImageNet to learn from: large objects, and none that the study trains or tests on.

python -m scripts.saliency.tiny_imagenet tiny-imagenet-200 OUT --without STUDY

OUT gets 8,175 photographs whose boxes cover more than 25 % of the frame, 75 of a class, and their boxes.json. STUDY is
searched for photographs to leave out, by their names.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from scripts.study.photographs import read_boxes, share

TOTAL, OF_A_CLASS, LEAST = 8175, 75, 0.25


def main(argv: list[str] | None = None) -> None:
    """Copy the photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="TINY_IMAGENET")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--without", type=Path, metavar="STUDY")
    args = parser.parse_args(argv)
    left_out = {path.name for path in args.without.rglob("*.JPEG")} if args.without else set()
    chosen: dict[Path, list[int]] = {}
    for file in sorted(args.source.glob("train/*/*_boxes.txt")):
        boxes = {n: box for n, box in read_boxes(file).items() if n not in left_out and share(box) > LEAST}
        names = list(boxes)
        random.Random(file.parent.name).shuffle(names)
        chosen |= {file.parent / "images" / name: boxes[name] for name in sorted(names[:OF_A_CLASS])}
    chosen = dict(list(chosen.items())[:TOTAL])
    if not chosen:
        raise SystemExit(f"error: {args.source} must hold train/CLASS/CLASS_boxes.txt, got none")
    for path in chosen:
        folder = args.out / path.parent.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    (args.out / "boxes.json").write_text(json.dumps({path.name: box for path, box in chosen.items()}))
    print(f"{len(chosen)} photographs: {args.out}")


if __name__ == "__main__":
    main()
