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
from typing import Any

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


def _mixup_init(original: Callable, session: Session) -> Callable:
    stand_ins = {Mixup: SessionMixup, FastCollateMixup: DeferredCollate}

    def __init__(self, *args, **kwargs) -> None:
        if stand_in := stand_ins.get(type(self)):
            self.__class__ = stand_in
            with refusing():
                self.__init__(session, *args, **kwargs)
        elif isinstance(self, MethodMixup):
            original(self, *args, **kwargs)
        else:
            kind = type(self)
            refuse(
                f"{session.settings.asked} can't replace {kind.__module__}.{kind.__qualname__}, the script's own "
                f"subclass of timm's {kind.__mro__[1].__name__}; use timm's class, or run without `-m sage_timm`"
            )

    return __init__


def _prefetcher_init(original: Callable, session: Session) -> Callable:
    def __init__(self, *args, **kwargs) -> None:
        arguments = _bound(original, self, *args, **kwargs)
        collate = getattr(arguments["loader"], "collate_fn", None)
        if isinstance(collate, DeferredCollate):
            collate.attached = True
            session.note_statistics(arguments["mean"], arguments["std"])
        original(self, *args, **kwargs)

    return __init__


def _prefetcher_iter(original: Callable, session: Session) -> Callable:
    def __iter__(self) -> Iterator:
        collate = getattr(self.loader, "collate_fn", None)
        batches = original(self)
        return (collate.mixup(*batch) for batch in batches) if isinstance(collate, DeferredCollate) else batches

    return __iter__


def _multi_epochs_init(original: Callable, session: Session) -> Callable:
    # It may start its workers at once, before PrefetchLoader gets it.
    def __init__(self, *args, **kwargs) -> None:
        if isinstance(collate := kwargs.get("collate_fn"), DeferredCollate):
            collate.attached = True
        original(self, *args, **kwargs)

    return __init__


def _training_transform(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def transform(*args, **kwargs):
        arguments = _bound(original, *args, **kwargs)
        session.note_statistics(arguments["mean"], arguments["std"])
        return original(*args, **kwargs)

    return transform


def _model_entrypoint(original: Callable, session: Session) -> Callable:
    @functools.wraps(original)
    def model_entrypoint(*args, **kwargs) -> Callable:
        create = original(*args, **kwargs)

        @functools.wraps(create)
        def noted(*args, **kwargs):
            model = create(*args, **kwargs)
            if session.settings.saliency == "self":
                session.models.append(model)
            return model

        return noted

    return model_entrypoint


def _start_processes(original: Callable, session: Session) -> Callable:
    def start_processes(*args, **kwargs) -> None:
        refuse(
            f"{session.settings.asked} does not reach processes that a script spawns itself; start them by "
            "torchrun ... -m sage_timm SCRIPT"
        )

    return start_processes


# A module or class, what is replaced in it, and what makes the replacement of the original and a session.
SEAMS: tuple[tuple[str, str, Callable[[Callable, Session], Callable]], ...] = (
    ("timm.data.mixup:Mixup", "__init__", _mixup_init),
    ("timm.data.loader:PrefetchLoader", "__init__", _prefetcher_init),
    ("timm.data.loader:PrefetchLoader", "__iter__", _prefetcher_iter),
    ("timm.data.loader:MultiEpochsDataLoader", "__init__", _multi_epochs_init),
    ("timm.data.transforms_factory:", "transforms_imagenet_train", _training_transform),
    ("timm.data.transforms_factory:", "transforms_noaug_train", _training_transform),
    ("timm.models._factory:", "model_entrypoint", _model_entrypoint),
    ("torch.multiprocessing:", "start_processes", _start_processes),
    ("torch.multiprocessing.spawn:", "start_processes", _start_processes),
)


@contextlib.contextmanager
def installed(session: Session) -> Iterator[None]:
    """Let timm mix by a session within the context.

    Exits with one line where this timm lacks something that is to be replaced.
    """
    originals = [_original(owner, name) for owner, name, _ in SEAMS]
    with contextlib.ExitStack() as undo:
        for (owner, original), (_, name, make) in zip(originals, SEAMS, strict=True):
            undo.enter_context(_replaced(owner, name, make(original, session)))
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


@contextlib.contextmanager
def _replaced(owner: Any, name: str, new: Callable) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _check_keys(parsed: dict[str, Any], known: set[str]) -> None:
    """Refuse keys of a config file that look like mistyped flags of the launcher."""
    for name in sorted(parsed.keys() - known):
        if name.startswith(("sage", "salien", "mixer", "save_mixed")):
            ours = ", ".join(option[2:].replace("-", "_") for option in OPTIONS)
            refuse(f"the key {name!r} of the config file is none of {ours}")


def _original(owner: str, name: str) -> tuple[Any, Any]:
    """Return a module or class and what is to be replaced in it."""
    try:
        found = pkgutil.resolve_name(owner)
        return found, vars(found)[name]
    except (AttributeError, ImportError, KeyError):
        refuse(
            f"timm {timm.__version__} has no {owner.strip(':').replace(':', '.')}.{name}, which sage_timm replaces; "
            "use a timm between 1.0.16 and 1.0.31"
        )


def _bound(function: Callable, *args, **kwargs) -> dict[str, Any]:
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments
