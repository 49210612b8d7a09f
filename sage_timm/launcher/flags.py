"""The launcher's flags."""

import argparse
import functools

from timm.utils import ParseKwargs

from ..methods import METHODS
from ..methods.sage import SAGE
from ..saliency import DEFAULT_MODEL, DEFAULT_SOURCE, SOURCES

GROUP = "sage_timm"

# The flag that sets each Python argument that an error may name.
ARGUMENTS = {
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


class _MixerSettings(ParseKwargs):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError:
            parser.error(f"{option_string} takes NAME=VALUE, got {' '.join(values)}")


def flag(name: str) -> str:
    """Return the flag whose value argparse stores under `name`."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, **common) -> None:
    """Add the launcher's flags as a group, with `common` arguments; ValueError where a parser has one of its own."""
    group = parser.add_argument_group(GROUP, "saliency-guided mixing in place of Mixup")
    add = functools.partial(group.add_argument, **common)
    try:
        add("--sage", action="store_true", help="mix by SAGE; --mixup is its Beta parameter, --cutmix keeps its share")
        add("--mixer", choices=tuple(METHODS), help="mix by this method; sage is the same as --sage")
        add("--mixer-kwargs", nargs="*", action=_MixerSettings, help="NAME=VALUE ...: the method's own settings")
        add("--save-mixed", type=int, metavar="N", help="write the first N mixed batches as pictures, in OUTPUT/mixed")
        add("--saliency", choices=tuple(SOURCES), help=f"saliency source (default: {DEFAULT_SOURCE})")
        add("--saliency-model", metavar="NAME", help=f"timm model the saliency comes from (default: {DEFAULT_MODEL})")
        add("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
        add("--saliency-size", type=int, metavar="N", help="side in pixels at which the saliency is computed")
        own = f"largest share of the own image's saliency (default: {SAGE.lam_max})"
        add("--sage-lam-max", type=float, metavar="A", help=own)
        tried = f"share of translations tried (default: {SAGE.search_fraction}, all)"
        add("--sage-search-fraction", type=float, metavar="F", help=tried)
    except argparse.ArgumentError as error:
        taken = error.argument_name
        raise ValueError(f"the script has a flag {taken} of its own; run it without `-m sage_timm`") from None


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the launcher's flags that a parser has, added or inherited from a parent, by the names of their values."""
    return [action.dest for action in parser._actions if action.container.title == GROUP]  # type: ignore[attr-defined]
