"""Command-line flags that several commands share, each defined once, and errors in terms of flags."""

import argparse
import ast
import re
from collections.abc import Mapping
from typing import Any

from .methods import METHODS
from .planner import LABEL_WEIGHTS
from .saliency import DEFAULT_SOURCE, SOURCES


class NamedValues(argparse.Action):
    """Collects NAME=VALUE ... into a dict; values are Python literals where they are, else text."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Store the dict; end with the parser's own error where an item has no '='."""
        collected = {}
        for item in values:
            name, separator, value = item.partition("=")
            if not (name and separator):
                parser.error(f"{option_string} must be NAME=VALUE ..., got {' '.join(values)}")
            try:
                collected[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                collected[name] = value
        setattr(namespace, self.dest, collected)


# Flags with their arguments of `add_argument`: where saliency comes from, and by which method to mix.
SALIENCY_FLAGS: dict[str, dict[str, Any]] = {
    "--saliency": dict(
        choices=tuple(name for name in SOURCES if name != "self"), help=f"saliency source (default: {DEFAULT_SOURCE})"
    ),
    "--saliency-model": dict(
        metavar="NAME", help="timm model the saliency comes from, in place of the network that comes with the package"
    ),
    "--saliency-checkpoint": dict(
        metavar="PATH", help="weights of the saliency model, or of a network of scripts.saliency"
    ),
    "--saliency-size": dict(type=int, metavar="N", help="side in pixels at which the saliency is computed"),
    "--saliency-blur": dict(type=float, metavar="S", help="standard deviation of the blur, as a share of the side"),
    "--saliency-grid": dict(type=int, metavar="N", help="largest number of cells per side of the maps (default: 64)"),
    "--saliency-floor": dict(type=float, metavar="F", help="subtract F times the maps' mean, to remove the background"),
}
METHOD_FLAGS: dict[str, dict[str, Any]] = {
    "--mixer": dict(choices=tuple(METHODS), metavar="NAME", help=", ".join(METHODS)),
    "--mixer-kwargs": dict(nargs="*", action=NamedValues, metavar="NAME=VALUE", help="the method's own settings"),
    "--mixer-label-weight": dict(
        choices=LABEL_WEIGHTS,
        help="weight labels by the mask, or by how much of each image's saliency is still visible (default: mask)",
    ),
}


# The names of their Python arguments, which an error may name, and the flags: `name` of create_saliency is --saliency.
SETTINGS = {option.removeprefix("--saliency-"): option for option in SALIENCY_FLAGS if option != "--saliency"}
FLAGS = SETTINGS | {"saliency": "--saliency", "method": "--mixer", "label_weight": "--mixer-label-weight"}


def saliency_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `create_saliency` among parsed flags or a YAML file's keys; None and "" are left out."""
    given = {"name": values.get("saliency")} | {name: values.get(f"saliency_{name}") for name in SETTINGS}
    return {name: value for name, value in given.items() if value not in (None, "")}


def in_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    """Name the flags where a message names Python arguments in backticks."""
    return re.sub(r"`([\w-]+)`", lambda name: name[1] if name[1][0] == "-" else flags.get(name[1], name[0]), message)
