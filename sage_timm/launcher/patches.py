"""Everything that is replaced in timm, torch and argparse while a script runs, and put back afterwards.

What is replaced are shared objects (a class's `__init__`, an inner function that timm looks up at every call), never
the names that a script imported, so that it does not matter when, whence and as what it imported them.
"""

import argparse
import contextlib
import difflib
import functools
import importlib.metadata
import inspect
import pkgutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import timm.data.loader
from timm.data import FastCollateMixup, Mixup
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..mixup import MethodMixup
from .console import refuse, refusing
from .flags import OPTIONS, add_flags, flags_of
from .session import Session, SessionMixup


class DeferredCollate(FastCollateMixup):
    """Collates without mixing, where timm's own mixes in the workers; its batches are mixed behind PrefetchLoader.

    There they are normalised and on the device, as the saliency model needs them, and `mixup_enabled` acts at once.
    """

    def __init__(self, session: Session, *args, **kwargs) -> None:
        self.mixup = SessionMixup(session, *args, **kwargs)
        self.attached = False

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are mixed; PrefetchLoader sets it."""
        return self.mixup.mixup_enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self.mixup.mixup_enabled = enabled

    def plain(self) -> Callable:
        """Return timm's collate without mixing; RuntimeError where no PrefetchLoader will mix its batches."""
        if not self.attached:
            raise RuntimeError(
                "sage_timm mixes after timm's create_loader, but this script gave its FastCollateMixup to another "
                "loader; mix its batches on the device by `images, target = mixup_fn(images, target)`"
            )
        return timm.data.loader.fast_collate

    def __call__(self, batch, _=None):
        """Collate a list of (image, label)."""
        return self.plain()(batch)

    def __reduce__(self):
        """Travel to spawned workers as the plain collate: what mixes stays in the training process."""
        return functools.partial, (self.plain(),)


# What stands in for timm's and torch's functions: called with the original, the session and the call's arguments.


def _mixup_init(original: Callable, session: Session, mixup: Any, *args, **kwargs) -> None:
    """Turn timm's mixers into the session's; both classes share this `__init__`."""
    kind = type(mixup)
    if kind in (Mixup, FastCollateMixup):
        mixup.__class__ = SessionMixup if kind is Mixup else DeferredCollate
        with refusing():
            mixup.__init__(session, *args, **kwargs)
    elif isinstance(mixup, MethodMixup):
        original(mixup, *args, **kwargs)
    else:
        refuse(
            f"{session.settings.asked} can't replace {kind.__module__}.{kind.__qualname__}, a subclass of timm's "
            "Mixup; use timm's own class in the script, or run it without `-m sage_timm`"
        )


def _prefetcher_init(original: Callable, session: Session, *args, **kwargs) -> None:
    arguments = _bound(original, *args, **kwargs)
    if _attach(getattr(arguments["loader"], "collate_fn", None)):
        session.note_statistics(arguments["mean"], arguments["std"])
    original(*args, **kwargs)


def _prefetcher_iter(original: Callable, session: Session, loader: Any) -> Iterator:
    collate = getattr(loader.loader, "collate_fn", None)
    batches = original(loader)
    return (collate.mixup(*batch) for batch in batches) if isinstance(collate, DeferredCollate) else batches


def _multi_epochs_init(original: Callable, session: Session, *args, **kwargs) -> None:
    """Attach early: older versions of this loader start their workers before PrefetchLoader gets it."""
    _attach(kwargs.get("collate_fn"))
    original(*args, **kwargs)


def _training_transform(original: Callable, session: Session, *args, **kwargs) -> Any:
    arguments = _bound(original, *args, **kwargs)
    session.note_statistics(arguments["mean"], arguments["std"])
    return original(*args, **kwargs)


def _model_entrypoint(original: Callable, session: Session, *args, **kwargs) -> Callable:
    create = original(*args, **kwargs)

    def noted(*args, **kwargs):
        session.models.append(create(*args, **kwargs))
        return session.models[-1]

    return noted if session.settings.saliency == "self" else create


def _start_processes(original: Callable, session: Session, *args, **kwargs) -> NoReturn:
    refuse(
        f"{session.settings.asked} does not reach processes that a script spawns itself; start them by "
        "torchrun ... -m sage_timm SCRIPT"
    )


# A module or class, what is replaced in it, and what stands in.
SEAMS: tuple[tuple[str, str, Callable], ...] = (
    ("timm.data.mixup.Mixup", "__init__", _mixup_init),
    ("timm.data.loader.PrefetchLoader", "__init__", _prefetcher_init),
    ("timm.data.loader.PrefetchLoader", "__iter__", _prefetcher_iter),
    ("timm.data.loader.MultiEpochsDataLoader", "__init__", _multi_epochs_init),
    ("timm.data.transforms_factory", "transforms_imagenet_train", _training_transform),
    ("timm.data.transforms_factory", "transforms_noaug_train", _training_transform),
    ("timm.models._factory", "model_entrypoint", _model_entrypoint),
    ("torch.multiprocessing", "start_processes", _start_processes),
    ("torch.multiprocessing.spawn", "start_processes", _start_processes),
)


@contextlib.contextmanager
def installed(session: Session) -> Iterator[None]:
    """Let timm mix by a session within the context; exits with one line where an inner name is missing."""
    _find("timm.data.loader", "fast_collate")
    found = [(*_find(owner, name), name, stand_in) for owner, name, stand_in in SEAMS]
    with contextlib.ExitStack() as undo:
        for owner, original, name, stand_in in found:
            undo.enter_context(_replaced(owner, name, _wrapped(original, stand_in, session)))
        undo.callback(register_optimizer_step_post_hook(lambda *_: session.monitor.step()).remove)
        yield


@contextlib.contextmanager
def flags_on_parsers(given: dict[str, Any], parsed: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Add the launcher's flags, within the context, to every parser that has a flag --mixup.

    All parsers get them before anything is parsed: a script may compare the keys of its config file with the flags of
    a second parser before that one parses. `parsed` gets what such a parser parsed, overruled by the flags `given` to
    the launcher, as a dict that it may change.
    """
    parsers: weakref.WeakSet[argparse.ArgumentParser] = weakref.WeakSet()
    kind = argparse.ArgumentParser
    init, parse = kind.__init__, kind.parse_known_args

    def noted_init(self, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        parsers.add(self)

    def extended_parse(self, args=None, namespace=None):
        for parser in list(parsers):
            if "--mixup" in parser._option_string_actions and not flags_of(parser):
                with refusing():
                    add_flags(parser)
        namespace, rest = parse(self, args, namespace)
        if ours := flags_of(self):
            values = vars(namespace)
            for name in sorted(values.keys() - {action.dest for action in self._actions}):
                if name.startswith(("sage", "salien", "mixer", "save_mixed")):
                    refuse(f"the key {name!r} of the config file is none of {', '.join(ours)}")
            values.update(given)
            for word in rest:
                if word.startswith("--") and (
                    near := difflib.get_close_matches(word.partition("=")[0], OPTIONS, 1, 0.8)
                ):
                    refuse(f"unknown flag {word}; did you mean {near[0]}?")
            parsed(values)
        return namespace, rest

    with _replaced(kind, "__init__", noted_init), _replaced(kind, "parse_known_args", extended_parse):
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Callable) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _wrapped(original: Callable, stand_in: Callable, session: Session) -> Callable:
    return functools.wraps(original)(lambda *args, **kwargs: stand_in(original, session, *args, **kwargs))


def _find(owner: str, name: str) -> tuple[Any, Any]:
    """Return a module or class and what it has under a name."""
    try:
        found = pkgutil.resolve_name(owner)
        return found, vars(found)[name]
    except (AttributeError, ImportError, KeyError):
        package = owner.partition(".")[0]
        version = importlib.metadata.version(package)
        refuse(f"{package} {version} has no {owner}.{name}, which sage_timm needs; use timm 1.0.16 to 1.0.31")


def _attach(collate: object) -> bool:
    """Tell whether a collate is ours, and let it know that a PrefetchLoader mixes its batches."""
    if isinstance(collate, DeferredCollate):
        collate.attached = True
    return isinstance(collate, DeferredCollate)


def _bound(function: Callable, *args, **kwargs) -> dict[str, Any]:
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments
