"""Compare mixing methods at an equal recipe: small images, a small ResNet, many arms, several seeds, one table.

python -m scripts.study --data-dir CIFAR10 --object-share 0.25 --arms none mixup feature feature+cutmix --json FILE

With --object-share each image stands small in a larger frame with a cluttered background; where, only the study knows.
With --boxes the objects of photographs are known.
An arm is NAME[,SETTING=VALUE...]. Every arm can set prob, alpha and epochs; those that look at maps also blur, grid
and floor, and aux, a timm model with pretrained weights in place of the one that the study trains; SAGE's also lam_max,
label (mask or saliency) and move (no: partners stay in their place; only: moved by the maps, blended evenly). Names:
{names}.
Runs that stand in --json are not repeated: after an interruption the same command goes on. Seconds on a CPU are those
of the process, over all threads; they still depend by some 10 % on what else the machine does.
"""

import argparse
import time
from pathlib import Path

import torch

from sage_timm.checks import check_library

from .arms import NAMES, TIMM, Arm
from .report import append, plot, read, summary, table
from .training import Study


def number(kind, low, high=float("inf")):
    """Return an argparse type: a number of a kind in [low, high]."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"must lie in [{low}, {high}], got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description and shows defaults."""


PRECISION_HELP = "of the training and of the test; None: bf16 on cuda, else fp32 (bf16 pays on avx512_bf16)"
SCALE_HELP = "share of the area that RandomResizedCrop takes of a training image"
RATIO_HELP = "width over height of what it takes"
BOXES_HELP = "JSON: file name -> [left, top, right, bottom] in pixels, inclusive, of the object in each training image"
SHARE_HELP = "share of the frame that the object covers, or the smallest and the largest; None: plain images"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.study", description=__doc__.format(names=", ".join(NAMES)), formatter_class=Help
    )
    count, add = number(int, 1), parser.add_argument
    add("--data-dir", required=True, metavar="DIR", help="folder with an image folder for each split")
    add("--train-split", default="train", metavar="NAME", help="folder of the training images in DIR")
    add("--test-split", default="test", metavar="NAME", help="folder of the test images in DIR, such as validation")
    add("--train-images", type=count, metavar="N", help="N in all, as many of each class; None: all")
    add("--part", type=number(int, 0), default=0, metavar="K", help="the K-th such N images, from 0")
    add("--held-out", type=count, metavar="N", help="test on the last N training images, not the test split")
    add("--size", type=number(int, 8), metavar="N", help="resize the middle square of the images to N px; None: as is")
    add("--object-share", nargs="+", type=number(float, 1e-3, 1), metavar="SHARE", help=SHARE_HELP)
    add("--boxes", type=Path, metavar="FILE", help=BOXES_HELP)
    add("--frame", type=number(int, 8), default=48, help="the side in pixels of the images that --object-share makes")
    add("--arms", nargs="+", default=["none", *TIMM, "feature", "feature+cutmix"], metavar="ARM", help="see above")
    add("--seeds", nargs="+", type=number(int, 0, 2**31), default=[0, 1, 2], metavar="SEED", help="a run each")
    add("--model", choices=("resnet18", "narrow", "pooled", "wide"), default="resnet18", help="the one that is trained")
    add("--epochs", type=count, default=100, help="of every run")
    add("--auxiliary-epochs", type=count, default=30, metavar="N", help="of the small model that saliency comes from")
    add("--batch-size", type=number(int, 2), default=128, help="even, as timm's Mixup wants it")
    add("--lr", type=number(float, 1e-9), default=0.1, help="highest learning rate")
    add("--prob", type=number(float, 0, 1), default=1.0, help="share of mixed batches in every arm that mixes")
    add("--scale", nargs=2, type=number(float, 1e-3, 1), metavar=("LOW", "HIGH"), default=[0.35, 1.0], help=SCALE_HELP)
    add(
        "--ratio",
        nargs=2,
        type=number(float, 0.1, 10),
        metavar=("LOW", "HIGH"),
        default=[3 / 4, 4 / 3],
        help=RATIO_HELP,
    )
    add("--randaugment", action="store_true", help="apply torchvision's RandAugment to the training images")
    add("--random-erasing", type=number(float, 0, 1), default=0.0, metavar="PROB", help="timm's, of training images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--precision", choices=("bf16", "fp32"), help=PRECISION_HELP)
    add("--json", type=Path, metavar="FILE", help="read the runs that are done, add a line per run")
    add(
        "--minutes", type=number(float, 0), metavar="N", help="begin no run that would end later, by the longest so far"
    )
    add("--cache", type=Path, metavar="DIR", help="keep auxiliary models there")
    add("--summary", action="store_true", help="print one small table and what it shows, in place of the full tables")
    add("--plot", type=Path, metavar="FILE", help="draw the accuracies")
    args = parser.parse_args(argv)
    args.precision = args.precision or ("bf16" if args.device.startswith("cuda") else "fp32")
    args.arms, args.seeds = list(dict.fromkeys(args.arms)), list(dict.fromkeys(args.seeds))
    if args.batch_size % 2:
        parser.error(f"--batch-size must be even, got {args.batch_size}")
    if args.part and not args.train_images:
        parser.error(f"--part {args.part} needs --train-images")
    if args.object_share and (len(args.object_share) > 2 or sorted(args.object_share) != args.object_share):
        parser.error(f"--object-share must be one share or a lower and an upper one, got {args.object_share}")
    for name, (low, high) in {"--scale": args.scale, "--ratio": args.ratio}.items():
        if low > high:
            parser.error(f"{name} must be a lower and an upper bound, got {low} {high}")
    if args.object_share and args.boxes:
        parser.error("--boxes must stand without --object-share, which knows where it puts the objects")
    return args


def main(argv: list[str] | None = None) -> None:
    args, start = parse(argv), time.monotonic()
    try:
        if args.plot:
            check_library("matplotlib", "--plot", "Matplotlib", "viz")
        for file in filter(None, (args.json, args.plot)):
            file.open("a").close()
        study = Study(args)
        narrow = study.create_model("narrow")
        for text in args.arms:
            arm = Arm.parse(text)
            study.show(arm)
            study.look(arm.create(study.num_classes, args.prob, lambda: narrow, study.truth, study.statistics))
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    asked = [(text, seed) for seed in args.seeds for text in args.arms]
    runs = [run for run in read(args.json) if run["recipe"] == study.recipe and (run["arm"], run["seed"]) in asked]
    done = {(run["arm"], run["seed"]) for run in runs}
    left = [each for each in asked if each not in done]
    print(
        f"{len(left)} of {len(asked)} runs are left"
        + ("" if args.json else "; with --json FILE an interrupted study could go on"),
        flush=True,
    )
    longest = 0.0
    try:
        for text, seed in left:
            began = time.monotonic()
            if args.minutes and began - start + longest > 60 * args.minutes:
                print(f"{text}, seed {seed} and what follows would end after {args.minutes:g} minutes", flush=True)
                break
            runs.append(study.run(text, seed))
            longest = max(longest, time.monotonic() - began)
            if args.json:
                append(args.json, runs[-1])
    except KeyboardInterrupt:
        way = "the same command goes on" if args.json else "with --json FILE it could go on"
        raise SystemExit(f"interrupted; {way}") from None
    finally:
        if runs:
            print(summary(runs) if args.summary else table(runs))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
