"""How the launcher speaks: lines on stderr, and errors that end a run in one line, in words of the script at hand."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch

from .flags import in_words


def is_first_rank() -> bool:
    """Tell whether this process speaks for a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def say(message: str) -> None:
    """Print a line, from the first rank alone."""
    if is_first_rank():
        print(f"sage_timm: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """End the run with one line, from any rank, and exit code 2."""
    print(f"sage_timm: error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


@contextlib.contextmanager
def refusing(args: Iterable[str]) -> Iterator[None]:
    """Refuse a run where its settings raise an error; `args` names what the script parsed."""
    try:
        yield
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        refuse(in_words(str(error), args))
