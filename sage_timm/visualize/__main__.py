"""The command: `python -m sage_timm.visualize IMAGES_OR_FOLDER --mixer sage mixup`."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..checks import check_count, check_library, check_number
from ..methods import SAGE, create_method
from ..options import METHOD_FLAGS, SALIENCY_FLAGS, in_flags, saliency_settings
from ..plan import Batch, MixPlan
from ..saliency import create_saliency
from .figures import draw_plans
from .images import load_images

FORMATS = (".png", ".jpg", ".jpeg", ".pdf")


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m sage_timm.visualize",
        description="Draw how methods mix images. Of N images, number i is mixed with number N - 1 - i.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES_OR_FOLDER", help="at least two images in all")
    parser.add_argument("-o", "--output", default="figure.png", metavar="FILE", help="FILE.png, .jpg or .pdf")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="images to draw (default: 6)")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images in px (default: 224)")
    parser.add_argument("--lam", type=float, default=0.5, help="the Beta draw of every image, in [0, 1] (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what the methods draw themselves (default: 0)")
    for flag, settings in METHOD_FLAGS.items():
        parser.add_argument(flag, **settings | ({"nargs": "+"} if flag == "--mixer" else {}))
    for flag, settings in SALIENCY_FLAGS.items():
        parser.add_argument(flag, **settings)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the plans of the given images into a file and say what is in it."""
    args = build_parser().parse_args(argv)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        lines = draw(args)
    except (OSError, RuntimeError, TypeError, ValueError, ImportError, Image.DecompressionBombError) as error:
        sys.exit(f"error: {in_flags(str(error))}")
    print("\n".join(lines))


def draw(args: argparse.Namespace) -> list[str]:
    """Write the picture that the arguments ask for; return what to tell the user."""
    check_library("matplotlib", "visualize", "Matplotlib", "viz")
    output = Path(args.output)
    if output.suffix.lower() not in FORMATS or output.is_dir():
        raise ValueError(f"--output must be a file that ends in {', '.join(FORMATS)}, got {args.output!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    check_number("--lam", args.lam, 0, 1)
    check_count("--count", args.count, 2)
    check_count("--size", args.size, 1)
    images, names = load_images(args.images, args.count, args.size)
    source = create_saliency(**saliency_settings(vars(args)), mean=(0.0,) * 3, std=(1.0,) * 3)
    saliency = torch.cat([source(chunk) for chunk in images.split(16)])
    plans = make_plans(args, images, saliency)
    lines = [f"{args.output}: {len(images)} images, saliency: {source!r}"]
    ratio = args.lam * (args.mixer_kwargs or {}).get("lam_max", SAGE.lam_max)
    of_sage = f", SAGE at {ratio:g} (times its lam_max)" if "sage" in plans else ""
    lines.append(f"drawn at mixing ratio {args.lam:g} (--lam){of_sage}")
    draw_plans(images, saliency, plans, names).savefig(args.output, dpi=110, bbox_inches="tight")
    return lines


def make_plans(args: argparse.Namespace, images: torch.Tensor, saliency: torch.Tensor) -> dict[str, MixPlan]:
    """Make the plan of each method asked for, every one from the same seed."""
    mixers, kwargs = args.mixer or ["sage"], args.mixer_kwargs or {}
    if kwargs and len(mixers) > 1:
        raise ValueError(f"--mixer-kwargs must be of one method, got --mixer {' '.join(mixers)}; draw them one by one")
    partner = torch.arange(len(images)).flip(0)
    lam = torch.full((len(images),), args.lam)
    plans = {}
    for name in mixers:
        torch.manual_seed(args.seed)
        method = create_method(name, **kwargs)
        plan = method(Batch(images, saliency, partner, lam, method.alpha, (1.0,) * images.shape[1]))
        plans[name] = plan.weighted_by(saliency) if args.mixer_label_weight == "saliency" else plan
    return plans


if __name__ == "__main__":
    main()
