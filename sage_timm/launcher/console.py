"""How the launcher speaks: lines on stderr, and errors that end a run in one line, in terms of flags."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from ..options import in_flags
from .flags import ARGUMENTS


def is_first_rank() -> bool:
    """Tell whether this process speaks for a distributed run."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line, from the first rank alone."""
    if is_first_rank():
        print(f"sage_timm: {message}", file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    """Print an error as one line, from any rank."""
    print(f"sage_timm: error: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """End the run with one line and exit code 2."""
    say_error(message)
    sys.exit(2)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Refuse a run where its settings raise an error."""
    try:
        yield
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        refuse(in_flags(str(error), ARGUMENTS))
