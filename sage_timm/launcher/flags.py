"""The launcher's flags, and errors in the words of the script at hand."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..options import FLAGS, METHOD_FLAGS, SALIENCY_FLAGS, in_flags

OPTIONS: dict[str, dict[str, Any]] = {
    "--sage": dict(action="store_true", help="use SAGE instead of Mixup; with CutMix the two alternate, as before"),
    **METHOD_FLAGS,
    "--save-mixed": dict(
        type=int, metavar="N", help="draw the first N mixed batches, to mixed/ in --output, or in its --experiment"
    ),
    **SALIENCY_FLAGS,
    "--saliency-use-labels": dict(
        choices=("yes", "no"), help="labels are the saliency model's classes (default: where a checkpoint has as many)"
    ),
    "--saliency-mean": dict(
        type=float, nargs="+", metavar="M", help="mean of the images, where the script normalises in a way of its own"
    ),
    "--saliency-std": dict(type=float, nargs="+", metavar="S", help="likewise, their standard deviation per channel"),
}
NAMES = [option[2:].replace("-", "_") for option in OPTIONS]  # under which argparse stores them
# The flags of ours that set what an error may name, and under which names scripts store what they give timm's Mixup.
OURS = FLAGS | {"save_mixed": "--save-mixed"}
OURS |= {"mean": "--saliency-mean", "std": "--saliency-std", "use_labels": "--saliency-use-labels"}
THEIRS = {"mixup_alpha": "mixup", "cutmix_alpha": "cutmix", "prob": "mixup_prob", "switch_prob": "mixup_switch_prob"}
THEIRS |= {"mode": "mixup_mode", "label_smoothing": "smoothing", "alpha": "mixup_alpha"}
THEIRS |= {name: name for name in ("cutmix_minmax", "num_classes")}


def flag(name: str) -> str:
    """Return the flag whose value argparse stores under `name`."""
    return "--" + name.replace("_", "-")


def in_words(message: str, args: Iterable[str]) -> str:
    """Name the flags where a message names Python arguments: ours, and those of the script, by what it parsed."""
    theirs = {name: flag(stored) for name, stored in THEIRS.items() if stored in args}
    return in_flags(message.replace("create_saliency", "the launcher"), OURS | theirs)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the launcher's flags, which store nothing where they are not given."""
    for option, settings in OPTIONS.items():
        parser.add_argument(option, **settings, default=argparse.SUPPRESS)


def as_words(given: Mapping[str, Any]) -> Iterator[str]:
    """Write parsed flags as the words of a command line."""
    for name, value in given.items():
        yield flag(name)
        if isinstance(value, dict):
            yield from (f"{key}={item!r}" for key, item in value.items())
        elif value is not True:
            yield from map(str, value if isinstance(value, list) else [value])
