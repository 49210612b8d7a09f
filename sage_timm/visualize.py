"""Draw what SAGE does to images: `python -m sage_timm.visualize IMAGES_OR_FOLDER --saliency spectral -o figure.png`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from .checks import check_count, check_number
from .methods.sage import sage
from .plan import MixPlan
from .rearrange import translate
from .saliency import create_saliency

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def draw_plan(images: torch.Tensor, saliency: torch.Tensor, plan: MixPlan, names: Sequence[str]):
    """Draw a row per image: itself, its saliency, the moved partner, the partner's moved saliency, the mask, the mix.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3.
        saliency: [B, 1, h, w], any scale.
        plan: the plan of these images.
        names: a label per image, shown with its weight.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    maps = torch.nn.functional.interpolate(saliency, images.shape[-2:], mode="bilinear")
    maps = maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    moved = translate(images[plan.partner], plan.translation)
    moved_maps = translate(maps[plan.partner], plan.translation)
    columns = {
        "image": images,
        "its saliency": maps,
        "partner, moved (down, right)": moved,
        "its saliency, moved": moved_maps,
        "mask (white: image)": plan.mask,
        "mixed": plan.mix_images(images),
    }
    height = images.shape[-2] / images.shape[-1] * 1.8 + 0.2
    figure = Figure(figsize=(1.8 * len(columns), height * len(images) + 0.3), layout="constrained")
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, axes in enumerate(grid):
        for axis, (title, pictures) in zip(axes, columns.items(), strict=True):
            picture = pictures[row].permute(1, 2, 0).float().clamp(0, 1).numpy()
            axis.imshow(picture, cmap="magma" if "saliency" in title else "gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=9)
        partner, (dy, dx), lam = int(plan.partner[row]), plan.translation[row].tolist(), float(plan.lam[row])
        axes[0].set_xlabel(names[row], fontsize=8)
        axes[2].set_xlabel(f"{names[partner]}, by ({dy:+d}, {dx:+d}) px", fontsize=8)
        axes[4].set_xlabel(f"mean {lam:.2f}", fontsize=8)
        axes[5].set_xlabel(f"{names[row]}: {lam:.2f}, {names[partner]}: {1 - lam:.2f}", fontsize=8)
    return figure


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
    pictures = [Image.open(path) for path, _ in chosen]
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    images = []
    for picture in pictures:
        pixels = transforms.to_dtype(transforms.pil_to_tensor(picture.convert(mode)), torch.float32, scale=True)
        pixels = transforms.resize(pixels, [size], antialias=True) if min(pixels.shape[-2:]) != size else pixels
        images.append(transforms.center_crop(pixels, [size]))
    return torch.stack(images), [name for _, name in chosen]


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m sage_timm.visualize",
        description="Draw how SAGE mixes images: a row per image, mixed with the one as far from the end of the list.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES_OR_FOLDER", help="at least two images in all")
    parser.add_argument("--saliency", choices=("gradient", "activation", "spectral"), default="gradient")
    parser.add_argument("--saliency-model", metavar="NAME", help="timm model, by default mobilenetv3_small_100")
    parser.add_argument("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
    parser.add_argument("--saliency-size", type=int, metavar="N", help="side at which the saliency is computed")
    parser.add_argument("--power", type=float, default=1.0, help="the saliency maps are raised to this power")
    parser.add_argument("--lam", type=float, default=0.5, help="share of the own image's saliency, in [0, 1]")
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
        plan = sage(saliency, partner, torch.full((len(images),), args.lam), tuple(images.shape[-2:]))
        draw_plan(images, saliency, plan, names).savefig(args.output, dpi=110)
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"{args.output}: {len(images)} images, saliency: {source!r}")


if __name__ == "__main__":
    main()
