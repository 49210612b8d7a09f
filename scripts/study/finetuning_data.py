"""Make the small image folders of the fine-tuning study from the published data sets.

python -m scripts.study.finetuning_data {tiles,debris,weeds} SOURCE OUT

tiles: magnetic tiles with and without a defect (abin24/Magnetic-tile-defect-datasets.), 6 classes, halves at random.
debris: things left on a runway (thenorthwes/fodadataset), which cover 3 % of the frame, 31 classes; trained on 12
frames of the first six tenths of their films, tested on 20 of the last three tenths. weeds: plants on range land
(DeepWeeds, the copy of ai-agriculture-circuits-and-systems/deep_weeds), 9 classes at random. OUT gets train/ and
validation/, photographs of 160 px on their shorter side.
"""

import argparse
import csv
import random
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

SIDE = 160


def split(files: list[Path], train: int, test: int) -> dict[str, list[Path]]:
    """Draw training and test files in that ratio, the same on every machine."""
    files = random.Random(0).sample(sorted(files), min(train + test, len(files)))
    cut = len(files) * train // (train + test)
    return {"train": files[:cut], "validation": files[cut:]}


def tiles(source: Path) -> Iterator[tuple[str, dict]]:
    for folder in sorted(source.glob("MT_*")):
        yield folder.name, split(list(folder.glob("Imgs/*.jpg")), 80, 80)


def debris(source: Path) -> Iterator[tuple[str, dict]]:
    films: dict[str, list[list[Path]]] = {}
    last = None, -2
    for file in sorted(source.glob("Annotations/*.xml")):
        name, number = re.search(r"<name>(.*?)</name>", file.read_text())[1], int(file.stem)
        if last != (name, number - 1):
            films.setdefault(name, []).append([])
        films[name][-1].append(source / "JPEGImages" / f"{file.stem}.jpg")
        last = name, number
    for name, each in films.items():
        early = [file for film in each for file in film[: len(film) * 6 // 10]]
        late = [file for film in each for file in film[len(film) * 7 // 10 :]]
        yield name, {"train": split(early, 12, 0)["train"], "validation": split(late, 0, 20)["validation"]}


def weeds(source: Path) -> Iterator[tuple[str, dict]]:
    files: dict[str, list[Path]] = {}
    for row in csv.DictReader((source / "labels" / "labels.csv").open()):
        files.setdefault(row["Species"], []).append(source / "data" / row["Filename"])
    for name, photographs in files.items():
        yield name, split(photographs, 80, 60)


def main(argv: list[str] | None = None) -> None:
    makers = {maker.__name__: maker for maker in (tiles, debris, weeds)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=makers)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the data set")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to be made")
    args = parser.parse_args(argv)
    if args.out.exists():
        parser.error(f"OUT must be a new folder, got {args.out}, which exists; remove it or name another")
    counts = {"train": 0, "validation": 0}
    for name, parts in makers[args.name](args.source):
        for part, files in parts.items():
            folder = args.out / part / name.replace(" ", "_")
            folder.mkdir(parents=True)
            counts[part] += len(files)
            for file in files:
                image = Image.open(file).convert("RGB")
                scale = SIDE / min(image.size)
                image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS).save(
                    folder / f"{file.stem}.png"
                )
    if not counts["train"]:
        raise SystemExit(f"error: SOURCE must be the folder of {args.name}, got {args.source}, which has none of it")
    print(f"{counts['train']} training and {counts['validation']} test photographs")


if __name__ == "__main__":
    main()
