"""Run a timm-style training script with SAGE in place of timm's Mixup: `python -m sage_timm SCRIPT ARGS --sage`."""

import argparse
import contextlib
import os
import sys
import types
import weakref
from pathlib import Path

from .flags import add_flags, refuse, say
from .takeover import Takeover

USAGE = """usage: python -m sage_timm SCRIPT [ARGS ...] --sage [--saliency ...]

Runs a training script that uses timm's Mixup, with SAGE in its place. Distributed:
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
    script = os.path.abspath(argv[0])
    if not os.path.isfile(script):
        refuse(f"SCRIPT must be an existing file, got {argv[0]!r}; usage: python -m sage_timm SCRIPT [ARGS ...] --sage")
    given, rest = flags.parse_known_args(argv[1:])
    given = vars(given)
    sys.argv = [argv[0], *rest]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(script)
    with _own_frames_hidden(script), Takeover(given, {action.dest for action in flags._actions}) as takeover:
        if given.get("sage"):
            takeover.activate({})
        with _flags_on_parsers(takeover, given):
            _run_as_main(script)
        takeover.finish()


def _run_as_main(script: str) -> None:
    """Execute the script as the module `__main__`, where pickles and spawned workers look for it."""
    module = types.ModuleType("__main__")
    module.__file__, module.__builtins__ = script, __builtins__
    sys.modules["__main__"] = module
    exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), vars(module))


@contextlib.contextmanager
def _flags_on_parsers(takeover: Takeover, given: dict):
    """Add the flags to every parser that knows --mixup before anything is parsed, and act on what it parsed."""
    parsers = weakref.WeakSet()
    init, parse = argparse.ArgumentParser.__init__, argparse.ArgumentParser.parse_known_args

    def noted_init(parser, *args, **kwargs):
        init(parser, *args, **kwargs)
        parsers.add(parser)

    def completed_parse(parser, args=None, namespace=None):
        for known in parsers:
            if "--mixup" in known._option_string_actions and "--sage" not in known._option_string_actions:
                add_flags(known)
        parsed, rest = parse(parser, args, namespace)
        if "--sage" in parser._option_string_actions:
            vars(parsed).update(given)
            if parsed.sage:
                takeover.activate(vars(parsed))
            elif given:
                names = ", ".join("--" + name.replace("_", "-") for name in given)
                say(f"{names} has no effect without --sage")
        return parsed, rest

    argparse.ArgumentParser.__init__, argparse.ArgumentParser.parse_known_args = noted_init, completed_parse
    try:
        yield
    finally:
        argparse.ArgumentParser.__init__, argparse.ArgumentParser.parse_known_args = init, parse


@contextlib.contextmanager
def _own_frames_hidden(script: str):
    """Start tracebacks of uncaught errors at the script's own frames."""
    report = sys.excepthook

    def from_script(kind, error, trace):
        inner = trace
        while inner is not None and inner.tb_frame.f_code.co_filename != script:
            inner = inner.tb_next
        report(kind, error.with_traceback(inner or trace), inner or trace)

    sys.excepthook = from_script
    yield
