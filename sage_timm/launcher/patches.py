"""Everything that is replaced in other libraries while a script runs, and put back afterwards.

What is replaced are shared objects (a class's `__init__`, an inner function that timm looks up at every call), never
the names that a script imported, so that it does not matter when, whence and as what it imported them.
"""

import contextlib
import functools
import os
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from timm.data import FastCollateMixup, Mixup
from timm.data.loader import fast_collate
from torchvision.transforms import v2

from ..surfaces.timm import MethodMixup
from .monitor import CUTMIX, refuse
from .session import Session, SessionMix, SessionMixup


class DeferredCollate(FastCollateMixup):
    """Replaces FastCollateMixup: the workers only collate; batches are mixed behind PrefetchLoader.

    There they are normalised and on the device, as the saliency model needs them, and `mixup_enabled` acts at once.
    """

    def __init__(self, session: Session, *args, **kwargs) -> None:
        self.mixup = SessionMixup(session, *args, **kwargs)

    # PrefetchLoader reads and sets whether batches are mixed.
    mixup_enabled = property(
        lambda self: self.mixup.mixup_enabled, lambda self, enabled: setattr(self.mixup, "mixup_enabled", enabled)
    )

    def __call__(self, batch, _=None):
        """Collate a list of (image, label)."""
        return fast_collate(batch)

    def __reduce__(self):
        """Travel to spawned workers as the plain collate: what mixes stays in the training process."""
        return functools.partial, (fast_collate,)


STARTERS = ("python", "torchrun", "accelerate")
QUEUES = ("sbatch", "qsub", "bsub", "submitit.core._submit", "submitit.local._local")
MIXERS: dict[type, type] = {Mixup: SessionMixup, FastCollateMixup: DeferredCollate, v2.MixUp: SessionMix}


# What stands in for others' functions: called with the original, the session and the call's arguments.


def _mixer_init(original: Callable, session: Session, mixer: Any, *args, **kwargs) -> None:
    """Turn timm's and torchvision's mixers into the session's."""
    kind = type(mixer)
    if kind in MIXERS:
        mixer.__class__ = MIXERS[kind]
        mixer.__init__(session, *args, **kwargs)
    elif isinstance(mixer, MethodMixup):
        original(mixer, *args, **kwargs)
    else:
        refuse(
            f"{session.settings.asked} can't replace {kind.__module__}.{kind.__qualname__}, a subclass; let the script "
            "use the class itself, or run it without `-m sage_timm`"
        )


def _prefetcher_init(original: Callable, session: Session, loader: Any, *args, **kwargs) -> None:
    original(loader, *args, **kwargs)
    if isinstance(getattr(loader.loader, "collate_fn", None), DeferredCollate):
        session.note_statistics(loader.mean / 255, loader.std / 255, of_loader=True)


def _prefetcher_iter(original: Callable, session: Session, loader: Any) -> Iterator:
    collate = getattr(loader.loader, "collate_fn", None)
    batches = original(loader)
    return (collate.mixup(*batch) for batch in batches) if isinstance(collate, DeferredCollate) else batches


def _normalize_init(original: Callable, session: Session, transform: Any, *args, **kwargs) -> None:
    original(transform, *args, **kwargs)
    session.note_statistics(transform.mean, transform.std)


def _cutmix_params(original: Callable, session: Session, *args) -> Any:
    session.monitor.batch(CUTMIX)
    return original(*args)


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
    paths = [os.path.realpath(os.path.join(folder or ".", word)) for word in words]
    script = os.path.realpath(session.script)
    place = paths.index(script) if script in paths else 0
    if not any(name.startswith(STARTERS) for name in names[:place]) or words[place - 1] == "sage_timm":
        return command
    if text:
        refuse(f"{asked} does not reach a process that the script starts by a shell; use torchrun -m sage_timm SCRIPT")
    return [*words[:place], "-m", "sage_timm", *words[place:], *session.flags]


def _command(original: Callable, session: Session, first: Any, args: Any, *rest, **kwargs) -> None:
    original(first, through_launcher(session, args, kwargs.get("cwd")), *rest, **kwargs)


class Joining:
    """Makes a spawned process a part of the run: there it is unpickled, before what the process is to do."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __reduce__(self) -> tuple[Callable, tuple]:
        return _join, (self.session,)


def _join(session: Session) -> contextlib.AbstractContextManager:
    context = installed(session)
    context.__enter__()
    return context  # which the process keeps


def _start(original: Callable, session: Session, process: Any) -> None:
    process.sage_timm = Joining(session)
    original(process)


# A module or class, what is replaced in it, and what stands in.
SEAMS: tuple[tuple[str, str, Callable], ...] = (
    ("timm.data.mixup.Mixup", "__init__", _mixer_init),
    ("timm.data.loader.PrefetchLoader", "__init__", _prefetcher_init),
    ("timm.data.loader.PrefetchLoader", "__iter__", _prefetcher_iter),
    ("torchvision.transforms.v2.MixUp", "__init__", _mixer_init),
    ("torchvision.transforms.v2.CutMix", "make_params", _cutmix_params),
    ("torchvision.transforms.v2.Normalize", "__init__", _normalize_init),
    ("torchvision.transforms.Normalize", "__init__", _normalize_init),
    ("subprocess.Popen", "__init__", _command),
    ("os", "execv", _command),
    ("os", "execve", _command),
    ("multiprocessing.process.BaseProcess", "start", _start),
)


@contextlib.contextmanager
def installed(session: Session) -> Iterator[None]:
    """Let timm and torchvision mix by a session within the context; exits with one line where a name is missing."""
    with contextlib.ExitStack() as undo:
        for path, name, stand_in in SEAMS:
            try:
                undo.enter_context(replaced(pkgutil.resolve_name(path), name, stand_in, session))
            except (AttributeError, ImportError) as error:
                refuse(f"{error}, which sage_timm needs; use timm 1.0.16 or newer, below 1.1")
        yield


def replaced(owner: Any, name: str, stand_in: Callable, *session: Session) -> contextlib.AbstractContextManager:
    """Replace a function within a context; what stands in gets the original, the session if any, and the arguments."""
    original = getattr(owner, name)
    wrapped = functools.wraps(original)(lambda *args, **kwargs: stand_in(original, *session, *args, **kwargs))
    return mock.patch.object(owner, name, wrapped)
