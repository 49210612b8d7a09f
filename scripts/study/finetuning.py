"""Fine-tune a pretrained timm model by timm's own train.py, mixed by timm or by SAGE through the launcher.

python -m scripts.study.finetuning TRAIN_PY DATA --weights lite0.pth --json FILE [--layers head] [-- FLAG ...]

TRAIN_PY is train.py of timm's repository, untouched; DATA has train/ and validation/ (see `finetuning_data`). What
follows `--` goes to train.py. The accuracy is that of the last epoch, the seconds are those of the processor, start-up
and test included. Runs that stand in --json are not repeated. Tables: python -m scripts.study.report FILE
"""

import argparse
import csv
import platform
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import timm
import torch

from . import report
from .__main__ import number

BOTH = ["--mixup", "1.0", "--cutmix", "1.0"]
ARMS = {
    "none": [],
    "mixup": BOTH[:2],
    "cutmix": BOTH[2:],
    "mixup+cutmix": BOTH,
    "network": ["--sage"],
    "network+cutmix": ["--sage", *BOTH[2:]],
}
# The head alone learns where layers below have a rate under half of its own; norms still adapt their statistics.
HEAD = ["--layer-decay", "0.01", "--layer-decay-no-opt-scale", "0.5"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=__doc__.splitlines()[2]
    )
    add, count = parser.add_argument, number(int, 1)
    add("train", type=Path, metavar="TRAIN_PY")
    add("data", type=Path, metavar="DATA")
    add("--json", type=Path, required=True, metavar="FILE", help="runs, one per line")
    add("--model", default="tf_efficientnet_lite0", help="of timm (default: %(default)s)")
    add("--weights", metavar="FILE", help="its pretrained weights (default: the hub's)")
    add("--layers", choices=("all", "head"), default="all", help="that learn (default: all)")
    add("--arms", nargs="+", choices=ARMS, default=["none", "mixup+cutmix", "network"])
    add("--seeds", nargs="+", type=number(int, 0), default=[0, 1, 2])
    add("--size", type=count, default=128, help="side of the images in pixels (default: 128)")
    add("--epochs", type=count, default=12, help="(default: 12)")
    add("--batch-size", type=count, default=32, help="(default: 32)")
    add("--lr", type=float, default=5e-4, help="of AdamW (default: 5e-4)")
    add("--prob", type=number(float, 0, 1), default=0.5, help="share of mixed batches (default: 0.5)")
    add("--device", default="cpu", help="(default: cpu)")
    argv = sys.argv[1:] if argv is None else argv
    own = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(argv[:own])
    args.flags = argv[own + 1 :]
    return args


def command(args: argparse.Namespace, arm: str, seed: int, output: str) -> list[str]:
    """Write the command of a run; timm's own mixing does without the launcher."""
    sage = ["-m", "sage_timm"] if "--sage" in ARMS[arm] else []
    settings = {
        "data-dir": args.data,
        "train-split": "train",
        "val-split": "validation",
        "model": args.model,
        "num-classes": sum(folder.is_dir() for folder in (args.data / "train").iterdir()),
        "img-size": args.size,
        "batch-size": args.batch_size,
        "validation-batch-size": 64,
        "epochs": args.epochs,
        "val-interval": args.epochs,
        "warmup-epochs": 1,
        "opt": "adamw",
        "lr": args.lr,
        "weight-decay": 0.05,
        "smoothing": 0,
        "bn-momentum": 0.1,
        "workers": 1,
        "device": args.device,
        "seed": seed,
        "output": output,
        "experiment": "run",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    words += ["--pretrained", *(["--pretrained-path", args.weights] if args.weights else []), "--channels-last"]
    words += HEAD if args.layers == "head" else []
    words += [*ARMS[arm], "--mixup-prob", str(args.prob)] if ARMS[arm] else []
    return [sys.executable, *sage, str(args.train), *words, *args.flags]


def run(args: argparse.Namespace, arm: str, seed: int) -> dict:
    """Train once and read what timm says of the last epoch.

    Raises:
        SystemExit: train.py ended with an error.
    """
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(command(args, arm, seed, output), capture_output=True, text=True)
        if done.returncode:
            words = f"{arm}, seed {seed}: {args.train} ended with {done.returncode}"
            raise SystemExit(f"error: {words}; its last lines are\n{done.stderr[-2000:]}")
        last = list(csv.DictReader((Path(output) / "run" / "summary.csv").open()))[-1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {"accuracy": round(float(last["eval_top1"]), 4), "nll": round(float(last["eval_loss"]), 4)}
    measured["seconds"] = round(used.ru_utime + used.ru_stime - seconds.ru_utime - seconds.ru_stime, 1)
    mixed = re.search(r"(\d+) of (\d+) batches were mixed", done.stderr)
    return measured | ({"mixed_batches": f"{mixed[1]} of {mixed[2]}"} if mixed else {})


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    names = ("model", "layers", "size", "epochs", "batch_size", "lr", "prob", "device")
    recipe = {"data": args.data.name} | {name: vars(args)[name] for name in names} | {"flags": " ".join(args.flags)}
    machine = f"{platform.machine()} {args.device}, torch {torch.__version__}, timm {timm.__version__}"
    known = {(each["arm"], each["seed"]) for each in report.read(args.json) if each["recipe"] == recipe}
    for seed in args.seeds:
        for arm in args.arms:
            if (arm, seed) not in known:
                found = {"arm": arm, "seed": seed, "recipe": recipe, "machine": machine} | run(args, arm, seed)
                report.append(args.json, found)
                print(f"{arm}, seed {seed}: {found['accuracy']:.2f} %, {found['seconds']:.0f} s", flush=True)
    print(report.table([each for each in report.read(args.json) if each["recipe"] == recipe]))


if __name__ == "__main__":
    main()
