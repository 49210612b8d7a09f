"""Processes that a script starts itself: they mix as it does, or the run ends before it trains."""

import os
from typing import Any

from .console import refuse
from .session import Session

STARTERS = ("python", "torchrun", "accelerate")
QUEUES = ("sbatch", "qsub", "bsub", "submitit.core._submit", "submitit.local._local")


def through_launcher(session: Session, command: Any, folder: Any = None) -> Any:
    """Insert the launcher into a command that runs the same script again, as Lightning's ddp does.

    It is a sequence of words, or a text for the shell, to run in a folder (default: here). Exits where it starts the
    script but can't be changed, and where it submits a job before anything was trained.
    """
    text = isinstance(command, (str, bytes, os.PathLike))
    words = [os.fsdecode(word) for word in (os.fsdecode(command).split() if text else command)]
    names = [os.path.basename(word) for word in words]
    asked = session.settings.asked
    if not session.monitor.steps and not set(QUEUES).isdisjoint(names):
        refuse(
            f"{asked} does not reach a job that the script submits; put SageMixup or SageMix into the script, see "
            "docs/training.md, or submit a job that runs python -m sage_timm SCRIPT"
        )
    place = next((i for i, word in enumerate(words) if _is_same(word, session.script, folder)), 0)
    if not any(name.startswith(STARTERS) for name in names[:place]) or words[place - 1] == "sage_timm":
        return command
    if text:
        refuse(f"{asked} does not reach a process that the script starts by a shell; use torchrun -m sage_timm SCRIPT")
    return [*words[:place], "-m", "sage_timm", *words[place:], *session.flags]


def _is_same(word: str, script: str, folder: Any) -> bool:
    try:
        return os.path.samefile(os.path.join(folder or ".", word), script)
    except (OSError, ValueError):
        return False
