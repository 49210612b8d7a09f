"""The launcher's flags."""

import argparse
from typing import Any

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


OPTIONS: dict[str, dict[str, Any]] = {
    "--sage": dict(action="store_true", help="mix by SAGE; --mixup is its Beta parameter, --cutmix keeps its share"),
    "--mixer": dict(choices=tuple(METHODS), help="mix by this method in place of Mixup; sage is the same as --sage"),
    "--mixer-kwargs": dict(nargs="*", action=_MixerSettings, help="NAME=VALUE ...: the method's own settings"),
    "--save-mixed": dict(
        type=int, metavar="N", help="write the first N mixed batches as pictures, in the folder mixed of --output"
    ),
    "--saliency": dict(choices=tuple(SOURCES), help=f"saliency source (default: {DEFAULT_SOURCE})"),
    "--saliency-model": dict(metavar="NAME", help=f"timm model the saliency comes from (default: {DEFAULT_MODEL})"),
    "--saliency-checkpoint": dict(metavar="PATH", help="local weights of the saliency model"),
    "--saliency-size": dict(type=int, metavar="N", help="side in pixels at which the saliency is computed"),
    "--sage-lam-max": dict(
        type=float, metavar="A", help=f"largest share of the own image's saliency (default: {SAGE.lam_max})"
    ),
    "--sage-search-fraction": dict(
        type=float, metavar="F", help=f"share of translations tried (default: {SAGE.search_fraction}, all)"
    ),
}


def flag(name: str) -> str:
    """Return the flag whose value argparse stores under `name`."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, **common) -> None:
    """Add the launcher's flags to a parser, as a group.

    Args:
        parser: what to change.
        **common: arguments of `add_argument` for all of them.

    Raises:
        ValueError: the parser has a flag of the same name already.
    """
    if taken := sorted(OPTIONS.keys() & parser._option_string_actions.keys()):
        raise ValueError(f"the script has a flag {taken[0]} of its own; run it without `-m sage_timm`")
    group = parser.add_argument_group(GROUP, "saliency-guided mixing in place of Mixup")
    for option, settings in OPTIONS.items():
        group.add_argument(option, **settings, **common)


def has_flags(parser: argparse.ArgumentParser) -> bool:
    """Tell whether a parser has the launcher's flags, added or inherited from a parent parser."""
    return any(group.title == GROUP for group in parser._action_groups)
