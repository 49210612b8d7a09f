"""The launcher's flags."""

import argparse
from typing import Any

from ..methods.sage import SAGE
from ..options import FLAGS, METHOD_FLAGS, SALIENCY_FLAGS

GROUP = "sage_timm"

# The flag that sets each Python argument that an error may name.
ARGUMENTS = FLAGS | {
    "mixup_alpha": "--mixup",
    "cutmix_alpha": "--cutmix",
    "cutmix_minmax": "--cutmix-minmax",
    "prob": "--mixup-prob",
    "switch_prob": "--mixup-switch-prob",
    "mode": "--mixup-mode",
    "label_smoothing": "--smoothing",
    "num_classes": "--num-classes",
    "mean": "--mean",
    "std": "--std",
    "method_share": "--mixer-share",
    "lam_max": "--sage-lam-max",
    "search_fraction": "--sage-search-fraction",
    "save_mixed": "--save-mixed",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "--sage": dict(action="store_true", help="mix by SAGE; --mixup is its Beta parameter, --cutmix keeps its share"),
    **METHOD_FLAGS,
    "--mixer-share": dict(type=float, metavar="S", help="plain Mixup makes 1 - S of the method's mixes (default: 1)"),
    "--save-mixed": dict(
        type=int, metavar="N", help="draw the first N mixed batches, to mixed/ in --output, or in its --experiment"
    ),
    **SALIENCY_FLAGS,
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
    """Add the launcher's flags as a group, with `common` arguments; ValueError where a parser has one of its own."""
    group = parser.add_argument_group(GROUP, "saliency-guided mixing in place of Mixup")
    try:
        for option, settings in OPTIONS.items():
            group.add_argument(option, **settings, **common)
    except argparse.ArgumentError as error:
        taken = error.argument_name
        raise ValueError(f"the script has a flag {taken} of its own; run it without `-m sage_timm`") from None


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the launcher's flags that a parser has, added or inherited from a parent, by the names of their values."""
    return [action.dest for action in parser._actions if action.container.title == GROUP]  # type: ignore[attr-defined]
