"""Draw what mixing does to images: `python -m sage_timm.visualize IMAGES_OR_FOLDER --mixer sage mixup`."""

import argparse
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from .checks import check_count, check_number
from .methods import METHODS, create_method
from .plan import Batch, MixPlan
from .saliency import create_saliency

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def draw_plans(images: torch.Tensor, saliency: torch.Tensor, plans: Mapping[str, MixPlan], names: Sequence[str]):
    """Draw a row per image: itself, its saliency, and a column per plan with label weights and retained saliency.

    A single plan has its mask drawn too.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3.
        saliency: [B, 1, h, w], any scale.
        plans: each method's plan of these images.
        names: a label per image.

    Returns:
        A matplotlib figure.
    """
    maps = torch.nn.functional.interpolate(saliency, images.shape[-2:], mode="bilinear")
    columns = {"image": images, "saliency": maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)}
    captions = {"image": names}
    for title, plan in plans.items():
        if len(plans) == 1:
            columns["mask of the own image" if plan.source.shape[1] == 2 else "mask of the first"] = plan.mask[:, :1]
        columns[title] = plan.mix_images(images)
        retained = plan.retained(saliency).tolist()
        captions[title] = [
            f"{weights}\nretained {' + '.join(f'{r:.2f}' for r, share in zip(kept, lam, strict=True) if share > 0)}"
            for weights, kept, lam in zip(_label_weights(plan, names), retained, plan.lam.tolist(), strict=True)
        ]
    height = images.shape[-2] / images.shape[-1] * 1.9 + 0.45
    figure, grid = _grid(len(images), len(columns), (1.9 * len(columns), height * len(images) + 0.3))
    for index, (title, pictures) in enumerate(columns.items()):
        grid[0][index].set_title(title, fontsize=9)
        for row, axes in enumerate(grid):
            _show(axes[index], pictures[row], captions.get(title, [""] * len(images))[row], title == "saliency")
    return figure


def draw_mixed(images: torch.Tensor, plan: MixPlan, names: Sequence[str], most: int = 32):
    """Draw the mixed images of a plan as a grid, under each its labels and their weights.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3 (of others the first is drawn).
        plan: the plan of these images.
        names: a label per image.
        most: images drawn, the first ones.

    Returns:
        A matplotlib figure.
    """
    count = min(most, len(images))
    width = math.ceil(math.sqrt(count))
    height = math.ceil(count / width)
    figure, grid = _grid(height, width, (1.6 * width, 1.9 * height))
    mixed, captions = plan.mix_images(images)[:count], _label_weights(plan, names)
    for index, axis in enumerate(axis for row in grid for axis in row):
        if index < count:
            _show(axis, mixed[index], captions[index])
        else:
            axis.set_visible(False)
    return figure


def _grid(rows: int, columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axis, picture: torch.Tensor, caption: str, heat: bool = False) -> None:
    picture = picture if len(picture) == 3 else picture[:1]
    pixels = picture.permute(1, 2, 0).float().clamp(0, 1).cpu().numpy()
    axis.imshow(pixels, cmap="magma" if heat else "gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel("\n".join(textwrap.fill(line, 28) for line in caption.split("\n")), fontsize=8, parse_math=False)


def _label_weights(plan: MixPlan, names: Sequence[str]) -> list[str]:
    """Say which labels each output has, as 'cat 0.62, dog 0.38'; equal ones are added up."""
    texts = []
    for sources, lam in zip(plan.source.tolist(), plan.lam.tolist(), strict=True):
        total: dict[str, float] = {}
        for source, share in zip(sources, lam, strict=True):
            if share > 0:
                total[names[source]] = total.get(names[source], 0) + share
        texts.append(", ".join(f"{name} {share:.2f}" for name, share in total.items()))
    return texts


def load_images(paths: Sequence[str], count: int, size: int) -> tuple[torch.Tensor, list[str]]:
    """Load images of files and folders, spread evenly over what is there: [B, C, size, size] in [0, 1], and names.

    C is 1 where all images are greyscale, else 3. An image's name is its folder's for folders, else its file's.
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
    pictures = [_eight_bit(Image.open(path)) for path, _ in chosen]
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    images = []
    for picture in pictures:
        pixels = transforms.to_dtype(transforms.pil_to_tensor(picture.convert(mode)), torch.float32, scale=True)
        pixels = transforms.resize(pixels, [size], antialias=True) if min(pixels.shape[-2:]) != size else pixels
        images.append(transforms.center_crop(pixels, [size]))
    return torch.stack(images), [name for _, name in chosen]


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Scale a 16-bit greyscale picture, which Pillow would cut off at white."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).clip(0, 255).astype(np.uint8))


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m sage_timm.visualize",
        description="Draw how methods mix images: a row per image, mixed with the one as far from the end of the list.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES_OR_FOLDER", help="at least two images in all")
    parser.add_argument(
        "--mixer", nargs="+", choices=METHODS, default=["sage"], metavar="NAME", help=", ".join(METHODS)
    )
    parser.add_argument("--saliency", choices=("gradient", "activation", "spectral"), default="gradient")
    parser.add_argument("--saliency-model", metavar="NAME", help="timm model, by default mobilenetv3_small_100")
    parser.add_argument("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
    parser.add_argument("--saliency-size", type=int, metavar="N", help="side at which the saliency is computed")
    parser.add_argument("--power", type=float, default=1.0, help="the saliency maps are raised to this power")
    parser.add_argument("--lam", type=float, default=0.5, help="share of the own image (or its saliency), in [0, 1]")
    parser.add_argument("--seed", type=int, default=0, help="of what the methods draw")
    parser.add_argument("--count", type=int, default=6, help="images to draw")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side the images are resized and cropped to")
    parser.add_argument("-o", "--output", default="figure.png", metavar="FILE", help="picture to write")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the plan of the given images into a file."""
    args = build_parser().parse_args(argv)
    try:
        check_number("lam", args.lam, 0, 1)
        check_count("count", args.count, 2)
        check_count("size", args.size, 1)
        images, names = load_images(args.images, args.count, args.size)
        channels = images.shape[1]
        source = create_saliency(
            args.saliency,
            model=args.saliency_model,
            checkpoint=args.saliency_checkpoint,
            size=args.saliency_size,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            in_chans=channels,
            power=args.power,
        )
        saliency = source(images)
        partner = torch.arange(len(images)).flip(0)
        lam = torch.full((len(images),), args.lam)
        plans = {}
        for name in args.mixer:
            torch.manual_seed(args.seed)
            method = create_method(name, **({"lam_max": 1.0} if name == "sage" else {}))
            plans[name] = method(Batch(images, saliency, partner, lam, method.alpha))
        draw_plans(images, saliency, plans, names).savefig(args.output, dpi=110, bbox_inches="tight")
    except (OSError, RuntimeError, TypeError, ValueError, ImportError, Image.DecompressionBombError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {len(images)} images, saliency: {source!r}")


if __name__ == "__main__":
    main()
