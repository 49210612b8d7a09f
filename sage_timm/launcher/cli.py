"""Run a training script with another method in Mixup's place: `python -m sage_timm SCRIPT ARGS --sage`."""

import argparse
import contextlib
import difflib
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from .flags import NAMES, OPTIONS, add_flags, as_words, flag, in_words
from .monitor import refuse, say
from .patches import installed, replaced
from .session import Session
from .settings import read_settings

PACKAGE = Path(__file__).resolve().parent.parent

USAGE = """python -m sage_timm SCRIPT [ARGS ...] --sage [--saliency ...]
       python -m sage_timm SCRIPT [ARGS ...] --mixer NAME [...]
       torchrun --nproc_per_node N -m sage_timm SCRIPT [ARGS ...] --sage

Runs a training script that uses timm's Mixup or torchvision's v2.MixUp, with SAGE or another method in its place."""


def main(argv: list[str] | None = None) -> None:
    """Run the script that `argv` (default: the command line) names, as a real `__main__`."""
    argv = sys.argv[1:] if argv is None else argv
    flags = argparse.ArgumentParser(prog="sage_timm", usage=USAGE, add_help=False, allow_abbrev=False)
    add_flags(flags)
    if not argv or argv[0] in ("-h", "--help"):
        flags.print_help()
        sys.exit(0 if argv else 2)
    script = os.path.abspath(argv[0])
    if not os.path.isfile(script):
        refuse(f"SCRIPT must be an existing file, before all flags, got {argv[0]!r}; see python -m sage_timm --help")
    given, rest = flags.parse_known_args(argv[1:])
    if asks_for_help := bool({"-h", "--help"} & set(rest)):
        flags.print_help()
    sys.argv[1:] = rest
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    with Launch(script, vars(given), rest) as launch:
        try:
            launch.read()
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            if end.code in (None, 0) and not asks_for_help:
                launch.finish()
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            if Path(last.filename).is_relative_to(PACKAGE) and str(last.line).startswith("raise "):
                refuse(in_words(str(error), launch.args))  # what sage_timm was given is wrong
            raise
        launch.finish()


class Launch(contextlib.ExitStack):
    """A script that is run with the flags `given`: it has a session from when a flag or its YAML asks for a mixer.

    Attributes:
        args: all that the script parsed so far.
        unknown: the words of its command line that no parser has taken so far.
    """

    def __init__(self, script: str, given: dict[str, Any], words: list[str]) -> None:
        super().__init__()
        self.script, self.given, self.unknown = script, given, list(words)
        self.args: dict[str, Any] = {}
        self.session: Session | None = None
        self.checked = False
        self.enter_context(replaced(argparse.ArgumentParser, "parse_known_args", self.parse))
        self.enter_context(replaced(warnings, "showwarning", self.warn))
        self.callback(register_optimizer_step_pre_hook(self.step).remove)

    def read(self) -> None:
        """Start the session, or change its settings, by the flags and by what the script parsed."""
        settings = read_settings(self.given, self.args)
        if settings is None:
            return
        if self.session is None:
            self.session = Session(settings, self.script, as_words(self.given))
            self.callback(os.unlink, self.session.monitor.path)
            self.enter_context(installed(self.session))
        self.session.settings = settings

    def parse(self, original: Callable, parser: Any, args: Any = None, namespace: Any = None) -> Any:
        """Stand in for `parse_known_args`: read what a parser of the script finds; may change the --mixup in it."""
        namespace, rest = original(parser, args, namespace)
        values, own = vars(namespace), parser._option_string_actions
        if taken := [flag(name) for name in self.given if flag(name) in own]:
            refuse(f"the script has a flag {', '.join(taken)} of its own; run it without `-m sage_timm`")
        used = set(sys.argv[1:] if args is None else args) - set(rest)
        self.unknown = [word for word in self.unknown if word not in used]
        self.args.update(values)
        self.read()
        if values.keys() & {"mixup", "mixup_alpha"}:
            for name in sorted(values.keys() - set(NAMES)):
                if name.startswith(("sage", "salien", "mixer", "save_mixed")) and flag(name) not in own:
                    refuse(f"the key {name!r} of the config file is none of {', '.join(NAMES)}")
            values.update(self.given)
            if self.session is not None:
                values.update(self.session.settings.opened)
            if not values.get("config"):  # else it is still to read its config file, and may parse again
                self.check()
        return namespace, rest

    def check(self) -> None:
        """Exit with one line where flags are misspelt or would do nothing; say so where no mixer was asked for."""
        if self.checked:
            return
        self.checked = True
        for word in self.unknown:
            name = word.partition("=")[0].replace("_", "-")
            near = difflib.get_close_matches(name, OPTIONS, 1, 0.84)
            if near and near[0][:4] == name[:4]:  # --stage and --save are others
                refuse(f"unknown flag {word}; did you mean {near[0]}?")
        if self.session is None:
            if self.given:
                flags = ", ".join(map(flag, self.given))
                refuse(f"{flags} must stand beside --sage or --mixer, which say what mixes; got neither")
            say("neither --sage nor --mixer was given: the script runs as it is")

    def step(self, *_: Any) -> None:
        """Check, before the first optimizer step, what was not checked when flags were parsed; count the steps."""
        self.check()
        if self.session is not None:
            self.session.monitor.step()

    def warn(self, original: Callable, message: Any, category: Any, filename: str, *rest: Any) -> None:
        """Stand in for `showwarning`: say a warning of this package in one line, in words of the script."""
        if Path(filename).is_relative_to(PACKAGE):
            print(f"sage_timm: warning: {in_words(str(message), self.args)}", file=sys.stderr, flush=True)
        else:
            original(message, category, filename, *rest)

    def finish(self) -> None:
        """Say how many batches were mixed; exit with one line where none was, though a mixer was asked for."""
        self.check()
        if self.session is not None:
            self.session.monitor.end(self.session.built)
