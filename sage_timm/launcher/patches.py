"""Everything that is replaced in timm, torch and argparse while a script runs, and put back afterwards.

What is replaced are shared objects (a class's `__init__`, an inner function that timm looks up at every call), never
the names that a script imported, so that it does not matter when, whence and as what it imported them.
"""

import argparse
import contextlib
import functools
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
from .flags import OPTIONS, add_flags, has_flags
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
            f"{session.settings.asked} can't replace {kind.__module__}.{kind.__qualname__}, the script's own subclass "
            f"of timm's {kind.__mro__[1].__name__}; use timm's class, or run without `-m sage_timm`"
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
    """Let timm mix by a session within the context; exits with one line where this timm lacks what is replaced."""
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
    a second parser before that one parses.

    Args:
        given: flags that were given to the launcher; they overrule what such a parser parsed.
        parsed: gets what such a parser parsed, a dict that it may change.
    """
    parsers: weakref.WeakSet[argparse.ArgumentParser] = weakref.WeakSet()
    init, parse = argparse.ArgumentParser.__init__, argparse.ArgumentParser.parse_known_args

    def __init__(self, *args, **kwargs) -> None:
        init(self, *args, **kwargs)
        parsers.add(self)

    def parse_known_args(self, args=None, namespace=None):
        for parser in list(parsers):
            if "--mixup" in parser._option_string_actions and not has_flags(parser):
                with refusing():
                    add_flags(parser)
        namespace, rest = parse(self, args, namespace)
        if has_flags(self):
            _check_keys(vars(namespace), {action.dest for action in self._actions})
            vars(namespace).update(given)
            parsed(vars(namespace))
        return namespace, rest

    parser = argparse.ArgumentParser
    with _replaced(parser, "__init__", __init__), _replaced(parser, "parse_known_args", parse_known_args):
        yield


def _check_keys(parsed: dict[str, Any], known: set[str]) -> None:
    """Refuse keys of a config file that look like mistyped flags of the launcher."""
    for name in sorted(parsed.keys() - known):
        if name.startswith(("sage", "salien", "mixer", "save_mixed")):
            ours = ", ".join(option[2:].replace("-", "_") for option in OPTIONS)
            refuse(f"the key {name!r} of the config file is none of {ours}")


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Callable) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _wrapped(original: Callable, stand_in: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        return stand_in(original, session, *args, **kwargs)

    return wrapper


def _find(owner: str, name: str) -> tuple[Any, Any]:
    """Return a module or class and what it has under a name."""
    try:
        found = pkgutil.resolve_name(owner)
        return found, vars(found)[name]
    except (AttributeError, ImportError, KeyError):
        refuse(f"timm {timm.__version__} has no {owner}.{name}, which sage_timm replaces; use timm 1.0.16 to 1.0.31")


def _attach(collate: object) -> bool:
    """Tell whether a collate is ours, and let it know that a PrefetchLoader mixes its batches."""
    if isinstance(collate, DeferredCollate):
        collate.attached = True
    return isinstance(collate, DeferredCollate)


def _bound(function: Callable, *args, **kwargs) -> dict[str, Any]:
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments
