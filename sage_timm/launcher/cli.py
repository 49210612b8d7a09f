"""Run a timm-style training script with another method in Mixup's place: `python -m sage_timm SCRIPT ARGS --sage`."""

import argparse
import contextlib
import os
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..options import in_flags
from .console import refuse, refusing, say, say_error
from .flags import ARGUMENTS, add_flags, flag
from .patches import flags_on_parsers, installed
from .session import Session
from .settings import read_settings

PACKAGE = Path(__file__).resolve().parent.parent

USAGE = """usage: python -m sage_timm SCRIPT [ARGS ...] --sage [--saliency ...]
       python -m sage_timm SCRIPT [ARGS ...] --mixer NAME [...]

Runs a training script that uses timm's Mixup, with SAGE or another method in its place. Distributed:
torchrun --nproc_per_node N -m sage_timm SCRIPT [ARGS ...] --sage
"""


def main(argv: list[str] | None = None) -> None:
    """Run the script that `argv` (default: the command line) names, as a real `__main__`."""
    argv = sys.argv[1:] if argv is None else argv
    flags = argparse.ArgumentParser(prog="sage_timm", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    add_flags(flags, default=argparse.SUPPRESS)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\n{flags.format_help().strip()}")
        sys.exit(0 if argv else 2)
    if argv[0].startswith("-"):
        refuse(f"SCRIPT must come before the flags, got {argv[0]}; usage: python -m sage_timm SCRIPT [ARGS ...] --sage")
    script = os.path.abspath(argv[0])
    if not os.path.isfile(script):
        refuse(f"SCRIPT must be an existing file, got {argv[0]!r}; usage: python -m sage_timm SCRIPT [ARGS ...] --sage")
    given, rest = flags.parse_known_args(argv[1:])
    with _tracebacks_from(script), Launch(vars(given)) as launch:
        launch.read({})
        try:
            with flags_on_parsers(vars(given), launch.read):
                _run_as_main(script, [argv[0], *rest])
        except SystemExit as end:
            if end.code in (None, 0) and not {"-h", "--help"} & set(rest):
                launch.finish()
            raise
        launch.finish()


class Launch(contextlib.ExitStack):
    """A script that is run with the flags `given`: it has a session from when a flag or its YAML asks for a mixer."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = given
        self.session: Session | None = None
        self.noted = False

    def read(self, args: dict[str, Any]) -> None:
        """Start the session, or change its settings by what the script parsed; may change the script's --mixup."""
        with refusing():
            settings = read_settings(self.given, args)
        if settings is None:
            # A script that is still to read its config file may parse again.
            if args and not args.get("config"):
                self.refuse_unused()
                if not self.noted:
                    say("neither --sage nor --mixer was given: the script runs as it is")
                    self.noted = True
            return
        if self.session is None:
            self.session = Session(settings)
            self.enter_context(installed(self.session))
        self.session.settings = settings
        if settings.mixup is not None:
            args["mixup"] = settings.mixup

    def finish(self) -> None:
        """Exit with one line where a mixer was asked for and the script never built a Mixup."""
        if self.session is None:
            self.refuse_unused()
        elif self.session.mixup is None:
            asked = self.session.settings.asked
            refuse(f"{asked} was given, but the script never built timm's Mixup; nothing was mixed")
        else:
            self.session.monitor.end()

    def refuse_unused(self) -> None:
        """Exit with one line where flags would do nothing because no mixer was asked for."""
        if self.given:
            flags = ", ".join(map(flag, self.given))
            refuse(f"{flags} must stand beside --sage or --mixer, which say what mixes; got neither")


def _run_as_main(script: str, argv: list[str]) -> None:
    """Execute the script as the module `__main__`, where pickles and spawned workers look for it."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    module = types.ModuleType("__main__")
    vars(module).update(__file__=script, __builtins__=__builtins__)
    sys.argv, sys.modules["__main__"] = argv, module
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    try:
        exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), vars(module))
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before


def _is_raised_here(error: BaseException) -> bool:
    """Tell whether sage_timm raised an error about what it was given, by a statement of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, (RuntimeError, TypeError, ValueError))
        and bool(frames)
        and Path(frames[-1].filename).is_relative_to(PACKAGE)
        and str(frames[-1].line).startswith("raise ")
    )


@contextlib.contextmanager
def _tracebacks_from(script: str) -> Iterator[None]:
    """Start the traceback of an uncaught error at the script's own frames; say one that sage_timm raised in one line.

    Python calls the hook when all else has ended, so after an error it is the hook itself that puts back the former.
    """
    former = sys.excepthook

    def report(kind, error, trace) -> None:
        sys.excepthook = former
        if _is_raised_here(error):
            say_error(in_flags(str(error), ARGUMENTS))
            return
        inner = trace
        while inner is not None and inner.tb_frame.f_code.co_filename != script:
            inner = inner.tb_next
        former(kind, error.with_traceback(inner or trace), inner or trace)

    sys.excepthook = report
    try:
        yield
    except SystemExit:
        sys.excepthook = former
        raise
    sys.excepthook = former
