"""Compare the methods on one set of images and one saliency source: saliency retained, time, memory.

    python -m scripts.bench.compare [--data-dir FOLDER] [--saliency NAME] [--json FILE]

The saliency is the default one; where its weights cannot be loaded and no other is asked for, 'spectral', which needs
none. Saliency retained is a mean over `--batches` batches, mixed per element (mode 'elem'),
with the same seeds for every method; each has its default settings. An output is left whole where one image has 99 % of
its label. Time is of a call in timm's default mode 'batch', saliency included, after `WARM_UP` calls, measured in turn
with timm's Mixup; memory is the peak of one more call beyond what stood before it.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import timm
import torch
from torchvision.transforms import v2

from sage_timm import create_mixup, create_saliency
from sage_timm.methods import METHODS
from sage_timm.saliency import DEFAULT_SOURCE
from sage_timm.visualize import load_images

from .measure import machine, peak_memory, timed

WARM_UP = 3
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def sample_images(count, size):
    """Crop scikit-image's sample photographs at random: [count, 3, size, size] in [0, 1]."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    photos = [load_images([str(folder / name)] * 2, 1, 400)[0][0] for name in PHOTOS]
    crop = v2.RandomResizedCrop(size, scale=(0.4, 1.0), antialias=True)
    torch.manual_seed(0)
    return torch.stack([crop(photos[i % len(photos)]) for i in range(count)])


def retained(name, saliency, images, batches):
    """Measure, for one method, what is retained of the first and the second source, lam, and the share left whole."""
    mixup = create_mixup(name, mode="elem", num_classes=10, saliency=saliency)
    target, maps = torch.arange(len(images), device=images.device) % 10, saliency(images)
    np.random.seed(0)
    torch.manual_seed(0)
    rows = []
    for _ in range(batches):
        plan = mixup.plan(images, target)
        kept, lam = plan.retained(maps), plan.lam
        if kept.shape[1] == 1:
            kept, lam = (torch.nn.functional.pad(value, (0, 1)) for value in (kept, lam))
        whole = plan.mix_target(torch.eye(len(images), device=lam.device)).amax(1) >= 0.99
        rows.append(torch.stack([kept[:, 0], kept[:, 1], lam[:, 0], whole.float()], 1))
    return torch.cat(rows).mean(0).tolist()


def load_saliency(args, channels):
    """Create the source that the flags ask for; without flags, 'spectral' where the default cannot be loaded."""
    settings = dict(mean=(0.0,) * channels, std=(1.0,) * channels)
    asked = dict(model=args.saliency_model, checkpoint=args.saliency_checkpoint, size=args.saliency_size)
    try:
        return create_saliency(args.saliency or DEFAULT_SOURCE, **asked, **settings)
    except RuntimeError as error:
        if args.saliency or any(asked.values()):
            raise
        print(f"spectral saliency in place of the default: {error}", file=sys.stderr)
        return create_saliency("spectral", **settings)


def compare(args):
    device = torch.device(args.device)
    if args.data_dir:
        images, _ = load_images([args.data_dir], args.batch_size, args.size)
    else:
        images = sample_images(args.batch_size, args.size)
    images = images.to(device)
    saliency = load_saliency(args, images.shape[1])
    target = torch.arange(len(images), device=device) % 10
    theirs = timm.data.Mixup(num_classes=10)
    results = []
    for name in METHODS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        mixup = create_mixup(name, num_classes=10, saliency=saliency)
        own, partner, lam, whole = retained(name, saliency, images, args.batches)
        calls = {
            "timm": lambda: theirs(images[: len(images) // 2 * 2].clone(), target[: len(images) // 2 * 2]),
            "ours": lambda mixup=mixup: mixup(images, target),
        }
        for call in calls.values():
            for _ in range(WARM_UP):
                call()
        times = timed(calls, device, args.repeats)
        row = {"method": name, "own": own, "partner": partner, "lam": lam, "whole": whole, "ms": times["ours"]}
        row |= {"timm_ms": times["timm"], "ratio": times["ours"][0] / times["timm"][0]}
        row["MiB"] = peak_memory(calls["ours"], device)
        results.append(row)
    return images, saliency, results


def table(results):
    """Write the results as a Markdown table."""
    lines = [
        "| method | retained of the own object | of the partner's | sum | own label | outputs left whole "
        "| ms per batch (10 to 90 %) | timm's Mixup beside it | ratio | peak MiB |",
        "|" + "---|" * 10,
    ]
    for r in results:
        ours, theirs = (f"{middle:.1f} ({low:.1f} to {high:.1f})" for middle, low, high in (r["ms"], r["timm_ms"]))
        lines.append(
            f"| {r['method']} | {r['own']:.3f} | {r['partner']:.3f} | {r['own'] + r['partner']:.3f} | {r['lam']:.2f} | "
            f"{r['whole']:.1%} | {ours} | {theirs} | {r['ratio']:.1f} | {r['MiB']:.0f} |"
        )
    return "\n".join(lines)


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="images (default: crops of scikit-image's photographs)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--saliency", choices=("feature", "gradient", "spectral"), help="feature; spectral if it cannot be loaded"
    )
    parser.add_argument("--saliency-model", metavar="NAME", help="timm model")
    parser.add_argument("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
    parser.add_argument("--saliency-size", type=int, metavar="N", help="side at which the saliency is computed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images in pixels")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    try:
        images, saliency, results = compare(args)
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    size = " x ".join(map(str, images.shape))
    head = f"{machine(torch.device(args.device))}, {date.today()}; images {size}; saliency: {saliency!r}"
    print(f"{head}\n\n{table(results)}")
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
