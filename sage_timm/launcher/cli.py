"""Run a timm-style training script with another method in Mixup's place: `python -m sage_timm SCRIPT ARGS --sage`."""

import argparse
import contextlib
import os
import sys
import types
import weakref
from pathlib import Path

from .flags import add_flags, refuse
from .session import Takeover

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
    script = os.path.abspath(argv[0])
    if not os.path.isfile(script):
        refuse(f"SCRIPT must be an existing file, got {argv[0]!r}; usage: python -m sage_timm SCRIPT [ARGS ...] --sage")
    given, rest = flags.parse_known_args(argv[1:])
    given = vars(given)
    sys.argv = [argv[0], *rest]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    with _own_frames_hidden(script), Takeover(given) as takeover:
        if given.get("sage") or given.get("mixer"):
            takeover.activate({})
        try:
            with _flags_on_parsers(takeover, given, flags):
                _run_as_main(script)
        except SystemExit as end:
            if end.code in (None, 0) and not {"-h", "--help"} & set(rest):
                takeover.finish()
            raise
        takeover.finish()


def _run_as_main(script: str) -> None:
    """Execute the script as the module `__main__`, where pickles and spawned workers look for it."""
    module = types.ModuleType("__main__")
    module.__file__, module.__builtins__ = script, __builtins__
    sys.modules["__main__"] = module
    exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), vars(module))


@contextlib.contextmanager
def _flags_on_parsers(takeover: Takeover, given: dict, flags: argparse.ArgumentParser):
    """Add the flags to every parser that knows --mixup before anything is parsed, and act on what it parsed."""
    parsers, completed = weakref.WeakSet(), weakref.WeakSet()
    init, parse = argparse.ArgumentParser.__init__, argparse.ArgumentParser.parse_known_args

    def noted_init(parser, *args, **kwargs):
        init(parser, *args, **kwargs)
        parsers.add(parser)

    def completed_parse(parser, args=None, namespace=None):
        for known in list(parsers - completed):
            options = known._option_string_actions
            if "--mixup" in options:
                if taken := sorted(options.keys() & flags._option_string_actions.keys()):
                    refuse(f"the script has a flag {taken[0]} of its own; run it without `-m sage_timm`")
                add_flags(known)
                completed.add(known)
        parsed, rest = parse(parser, args, namespace)
        if parser in completed:
            known = {action.dest for action in parser._actions}
            for name in sorted(vars(parsed).keys() - known):
                if name.startswith(("sage", "salien", "mixer", "save_mixed")):
                    ours = ", ".join(sorted(action.dest for action in flags._actions))
                    refuse(f"the key {name!r} of the config file is none of {ours}")
            vars(parsed).update(given)
            if parsed.sage or parsed.mixer:
                takeover.activate(vars(parsed))
            else:
                takeover.note_unused()
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
