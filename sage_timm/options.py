"""Command-line flags that several commands share, each defined once, and errors in terms of flags."""

import argparse
import ast
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from .methods import METHODS
from .saliency import DEFAULT_MODEL, DEFAULT_SOURCE, SOURCES

# The flag of each Python argument that an error may name.
FLAGS = {
    "saliency": "--saliency",
    "model": "--saliency-model",
    "checkpoint": "--saliency-checkpoint",
    "size": "--saliency-size",
    "blur": "--saliency-blur",
    "power": "--saliency-power",
    "grid": "--saliency-grid",
    "method": "--mixer",
}


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


def add_saliency_flags(parser: Any, sources: Iterable[str] = SOURCES, **common) -> None:
    """Add the flags that say where saliency comes from.

    Args:
        parser: an ArgumentParser or one of its groups.
        sources: names that `--saliency` accepts.
        **common: keyword arguments of every flag, such as `default`.
    """
    add = functools.partial(parser.add_argument, **common)
    add("--saliency", choices=tuple(sources), help=f"saliency source (default: {DEFAULT_SOURCE})")
    add("--saliency-model", metavar="NAME", help=f"timm model the saliency comes from (default: {DEFAULT_MODEL})")
    add("--saliency-checkpoint", metavar="PATH", help="local weights of the saliency model")
    add("--saliency-size", type=int, metavar="N", help="side in pixels at which the saliency is computed")
    add("--saliency-blur", type=float, metavar="S", help="standard deviation of the maps' blur, as a share of the side")
    add("--saliency-power", type=float, metavar="P", help="power of the maps; over 1 concentrates them (default: 1)")
    add("--saliency-grid", type=int, metavar="N", help="largest number of cells per side of the maps (default: 64)")


def saliency_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `create_saliency` among parsed flags or a YAML file's keys; None and "" are left out."""
    given = {"name": values.get("saliency")}
    given |= {name: values.get(f"saliency_{name}") for name in ("model", "checkpoint", "size", "blur", "power", "grid")}
    return {name: value for name, value in given.items() if value is not None and value != ""}


def add_method_flags(parser: Any, **common) -> None:
    """Add `--mixer` and `--mixer-kwargs`; `common` as in `add_saliency_flags`, for `--mixer` alone `nargs` too."""
    several = {"nargs": common.pop("nargs")} if "nargs" in common else {}
    methods = tuple(METHODS)
    parser.add_argument("--mixer", choices=methods, metavar="NAME", help=", ".join(methods), **several, **common)
    parser.add_argument(
        "--mixer-kwargs", nargs="*", action=NamedValues, metavar="NAME=VALUE", help="the method's settings", **common
    )


def in_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    """Name the flags where a message names Python arguments in backticks."""
    for name, flag in flags.items():
        message = message.replace(f"`{name}`", flag)
    return message
