"""Train a small network to predict the saliency of a large classifier, from the image alone.

python -m scripts.saliency OUT.safetensors --images FOLDER [FOLDER:COUNT ...] --teacher-checkpoint MODEL.pth

FOLDER holds photographs, in any subfolders; COUNT of them are drawn at random. A file boxes.json in it may tell where
the objects are: file name -> [left, top, right, bottom], or a list of such boxes, in pixels, inclusive. The network
starts from the weights that come with the package, or with --from-scratch from none. OUT is what --saliency-checkpoint
takes; a picture of the teacher's and the network's maps is drawn beside it. What is done is kept in --cache: after an
interruption the same command goes on.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from sage_timm.saliency.network import WEIGHTS, Network, SaliencyNetwork, load_network
from sage_timm.tensors import resize, unit_mass
from scripts.study.__main__ import number
from scripts.study.arms import map_quality

from .lessons import Lesson, folder_and_count, prepare
from .teacher import create_teacher
from .training import Trainer, folded

KEEP_EVERY = 250  # steps


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.saliency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.safetensors", help="the weights to write")
    add(
        "--images",
        nargs="+",
        required=True,
        type=folder_and_count,
        metavar="FOLDER[:COUNT]",
        help="folders of photographs",
    )
    add("--teacher", metavar="NAME", help="timm model (default: tf_efficientnet_lite0 of a package, see docs)")
    add("--teacher-checkpoint", metavar="PATH", help="the teacher's weights, such as your own model's")
    add("--from-scratch", action="store_true", help="don't start from the package's weights")
    add("--steps", type=number(int, 1), help="of 64 images each (default: 400; from scratch 10,000)")
    add("--lr", type=number(float, 1e-9), help="highest learning rate (default: 0.001; from scratch 0.003)")
    add("--small", type=number(float, 0, 1), default=0.5, metavar="SHARE", help="of images that are shown small")
    add("--precision", choices=("bf16", "fp32"), default="fp32", help="bf16 pays on avx512_bf16")
    add("--held-out", type=number(float, 0, 0.5), default=0.05, metavar="SHARE", help="of photographs, for the figures")
    add("--cache", type=Path, default=Path("saliency-cache"), metavar="DIR", help="for what is done")
    add("--seed", type=number(int, 0), default=0)
    add("--picture", type=number(int, 0), default=8, metavar="N", help="photographs in the picture")
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors" or args.out.is_dir():
        parser.error(f"OUT must be a file that ends in .safetensors, got {args.out}")
    args.steps = args.steps or (10_000 if args.from_scratch else 400)
    args.lr = args.lr or (3e-3 if args.from_scratch else 1e-3)
    return args


def load_lessons(args: argparse.Namespace) -> tuple[Lesson, Lesson]:
    """Prepare the photographs of all folders; return those to train on and those held out."""
    teacher = create_teacher(args.teacher, args.teacher_checkpoint)
    given, kept = [], []
    for folder, count in args.images:
        lesson = prepare(folder, teacher, args.cache, count)
        out = max(1, round(args.held_out * len(lesson)))
        given.append(lesson.part(slice(out, None)))
        kept.append(lesson.part(slice(None, out)))
    return Lesson.joined(given), Lesson.joined(kept)


def train(args: argparse.Namespace, lesson: Lesson) -> SaliencyNetwork:
    """Train the network, from what is kept in the cache where there is something."""
    torch.manual_seed(args.seed)
    network = SaliencyNetwork() if args.from_scratch else load_network(WEIGHTS).requires_grad_()
    trainer = Trainer(network, lesson, args.steps, args.lr, args.small, args.precision == "bf16", args.seed)
    recipe = {key: value for key, value in vars(args).items() if key not in ("out", "cache", "picture")}
    recipe["images"] = [f"{folder}:{count}" if count else str(folder) for folder, count in args.images]
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]
    kept = args.cache / f"training-{name}.pt"
    if kept.is_file():
        trainer.load_state_dict(torch.load(kept, weights_only=True))
    with tqdm(total=args.steps, initial=trainer.done, desc="training", unit="step") as bar:
        while trainer.done < args.steps:
            loss = trainer.step()
            bar.update()
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
            if trainer.done % KEEP_EVERY == 0 or trainer.done == args.steps:
                partial = kept.with_suffix(".tmp")
                torch.save(trainer.state_dict(), partial)
                partial.replace(kept)
    return folded(trainer.network)


@torch.no_grad()
def compare(source: Network, lesson: Lesson) -> list[str]:
    """Say how well the network's maps agree with the teacher's, and how well both find the boxes."""
    maps = torch.cat([source(images.float() / 255) for images in lesson.images.split(100)])
    taught = lesson.maps.float()[:, None]
    overlap = torch.minimum(unit_mass(resize(maps, taught.shape[-2:])), unit_mass(taught)).sum((1, 2, 3)).mean()
    lines = [f"{len(maps)} photographs held out: the maps overlap with the teacher's by {overlap:.2f}"]
    boxed = lesson.masks.flatten(1).amax(1) > 0
    for name, each in (("teacher", taught), ("network", maps)) if boxed.any() else ():
        found = map_quality(each[boxed], lesson.masks[boxed][:, None])
        lines.append(f"{name}: {found['on_object']:.2f} of the mass in the boxes, {found['pointing']:.2f} point there")
    return lines


def draw(source: Network, lesson: Lesson, file: Path, count: int) -> None:
    """Draw photographs, the teacher's maps and the network's."""
    from matplotlib.figure import Figure

    step = max(1, len(lesson) // count)
    images, maps = lesson.images[::step][:count], lesson.maps[::step][:count].float()
    columns = images.permute(0, 2, 3, 1), maps, source(images.float() / 255)[:, 0]
    figure = Figure(figsize=(6, 2 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 3, squeeze=False)
    for row, each in zip(grid, zip(*columns, strict=True), strict=True):
        for axes, picture in zip(row, each, strict=True):
            axes.imshow(picture, cmap="gray")
            axes.set_axis_off()
    for axes, title in zip(grid[0], ("photograph", "teacher", "network"), strict=True):
        axes.set_title(title)
    figure.savefig(file, dpi=100)


def main(argv: list[str] | None = None) -> None:
    """Train a network, write its weights and say how good its maps are."""
    args = parse(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        lesson, held_out = load_lessons(args)
        network = train(args, lesson)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on") from None
    folders = ", ".join(folder.name if count is None else f"{folder.name}:{count}" for folder, count in args.images)
    about = f"sage_timm saliency network; {args.steps} steps on {len(lesson)} photographs of {folders}"
    weights = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
    save_file(weights, args.out, {"format": about})
    source = Network(args.out)
    print("\n".join(compare(source, held_out)))
    print(f"{args.out}: sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()[:16]}, {len(lesson)} photographs")
    if args.picture:
        draw(source, held_out, args.out.with_suffix(".png"), args.picture)
        print(f"photographs, the teacher's maps and the network's: {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
