"""How the launcher speaks: lines on stderr, and errors that end a run in one line."""

import os
import sys
from typing import NoReturn

import torch


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
