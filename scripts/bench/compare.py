"""Compare the methods on one set of images and one saliency source: saliency retained, time, memory.

    OMP_NUM_THREADS=1 python -m scripts.bench.compare [--data-dir FOLDER] [--saliency NAME]

Saliency retained is a mean over `--batches` batches, mixed per element (mode 'elem'), with the same seeds for every
method; each has its default settings. An output is left whole where one image has 99 % of its label. Time, that of the
process on a CPU, is of a call in timm's default mode 'batch', saliency included, in turn with timm's Mixup; memory is
the peak of one more call beyond what stood before it.
"""

import argparse
import sys
from datetime import date

import numpy as np
import torch
from timm.data import Mixup
from torchvision.transforms import v2

from sage_timm import create_mixup, create_saliency
from sage_timm.methods import METHODS
from sage_timm.options import SALIENCY_FLAGS, saliency_settings
from sage_timm.visualize import load_images
from scripts.objects import FOLDERS

from .measure import machine, peak_memory, spread, timed

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def sample_images(count, size):
    """Crop scikit-image's sample photographs at random: [count, 3, size, size] in [0, 1]."""
    photos = [load_images([str(FOLDERS[0] / name)] * 2, 1, 400)[0][0] for name in PHOTOS]
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


def compare(args, images, saliency):
    """Measure every method: a row for each."""
    target = torch.arange(len(images), device=images.device) % 10
    even, theirs = len(images) // 2 * 2, Mixup(num_classes=10)
    for name in METHODS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        mixup = create_mixup(name, num_classes=10, saliency=saliency)
        own, partner, lam, whole = retained(name, saliency, images, args.batches)
        calls = {"timm": lambda: theirs(images[:even].clone(), target[:even])}
        calls["ours"] = lambda mixup=mixup: mixup(images, target)
        times = {which: spread(each) for which, each in timed(calls, images.device, args.repeats).items()}
        memory = peak_memory(calls["ours"], images.device)
        row = {"method": name, "own": own, "partner": partner, "lam": lam, "whole": whole}
        yield row | {"ms": times["ours"], "timm_ms": times["timm"], "MiB": memory}


def table(results):
    """Write the results as a Markdown table."""
    lines = [
        "| method | retained of the own object | of the partner's | sum | own label | outputs left whole "
        "| ms per batch (10 to 90 %) | timm's Mixup beside it | peak MiB |",
        "|" + "---|" * 9,
    ]
    for r in results:
        ours, theirs = (f"{middle:.1f} ({low:.1f} to {high:.1f})" for middle, low, high in (r["ms"], r["timm_ms"]))
        lines.append(
            f"| {r['method']} | {r['own']:.3f} | {r['partner']:.3f} | {r['own'] + r['partner']:.3f} | {r['lam']:.2f} | "
            f"{r['whole']:.1%} | {ours} | {theirs} | {r['MiB']:.0f} |"
        )
    return "\n".join(lines)


def main(argv=None):
    """Print the table; return its rows."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.compare",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="images; None: crops of scikit-image's photographs")
    for flag, settings in SALIENCY_FLAGS.items():
        parser.add_argument(flag, **settings)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images in a batch")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images in pixels")
    parser.add_argument("--batches", type=int, default=20, metavar="N", help="that saliency retained is a mean over")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="timed calls")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    try:
        if args.data_dir:
            images, _ = load_images([args.data_dir], args.batch_size, args.size)
        else:
            images = sample_images(args.batch_size, args.size)
        saliency = create_saliency(**saliency_settings(vars(args)), mean=(0.0,) * 3, std=(1.0,) * 3)
        results = list(compare(args, images.to(args.device), saliency))
    except (OSError, RuntimeError, TypeError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    size = " x ".join(map(str, images.shape))
    print(f"{machine(torch.device(args.device))}, {date.today()}; images {size}; saliency: {saliency!r}\n")
    print(table(results))
    return results


if __name__ == "__main__":
    main()
