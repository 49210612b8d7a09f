"""The launcher's flags, and how it speaks to the user: lines on stderr, errors in terms of flags."""

import argparse
import functools
import os
import sys

from timm.utils import ParseKwargs

# The flag of each Python argument that an error may name.
FLAGS = {
    "mixup_alpha": "--mixup",
    "cutmix_alpha": "--cutmix",
    "cutmix_minmax": "--cutmix-minmax",
    "prob": "--mixup-prob",
    "switch_prob": "--mixup-switch-prob",
    "mode": "--mixup-mode",
    "label_smoothing": "--smoothing",
    "num_classes": "--num-classes",
    "saliency": "--saliency",
    "model": "--saliency-model",
    "checkpoint": "--saliency-checkpoint",
    "size": "--saliency-size",
    "lam_max": "--sage-lam-max",
    "search_fraction": "--sage-search-fraction",
    "save_mixed": "--save-mixed",
    "method": "--mixer",
}


class _Settings(ParseKwargs):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError:
            parser.error(f"{option_string} takes NAME=VALUE, got {' '.join(values)}")


def add_flags(parser: argparse.ArgumentParser, **common) -> None:
    """Add the group of our flags to a parser."""
    group = parser.add_argument_group("sage_timm", "saliency-guided mixing in place of Mixup")
    add = functools.partial(group.add_argument, **common)
    mixers = ("sage", "mixup", "cutmix", "saliencymix", "puzzlemix", "comixup")
    sources = ("gradient", "feature", "activation", "spectral", "self")
    add("--sage", action="store_true", help="mix by SAGE; --mixup is its Beta parameter, --cutmix keeps its share")
    add("--mixer", choices=mixers, help="mix by this method in place of Mixup; sage is the same as --sage")
    add("--mixer-kwargs", nargs="*", action=_Settings, help="NAME=VALUE ...: the method's own settings")
    add("--save-mixed", type=int, metavar="N", help="write the first N mixed batches as pictures, in OUTPUT/mixed")
    add("--saliency", choices=sources, help="saliency source (default: gradient)")
    add("--saliency-model", metavar="NAME", help="timm model the saliency comes from (default: mobilenetv3_small_100)")
    add("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
    add("--saliency-size", type=int, metavar="N", help="side in pixels at which the saliency is computed")
    add("--sage-lam-max", type=float, metavar="A", help="largest share of the own image's saliency (default: 0.6)")
    add("--sage-search-fraction", type=float, metavar="F", help="share of translations tried (default: 1.0, all)")


def in_flags(message: str) -> str:
    """Name the flags where a message names Python arguments."""
    for name, flag in FLAGS.items():
        message = message.replace(f"`{name}`", flag)
    return message


def is_first_rank() -> bool:
    """Tell whether this process speaks for a distributed run."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line of ours, from the first rank alone."""
    if is_first_rank():
        print(f"sage_timm: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> None:
    """End the run with one line."""
    print(f"sage_timm: error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)
