"""Fixtures that run scripts through the launcher in this process."""

import argparse
import logging
import pkgutil
import sys
import tempfile
import warnings

import pytest
import timm.loss
from launcher.tools import RUN, SCRIPTS, TRAIN
from torch.optim.optimizer import _global_optimizer_pre_hooks

from sage_timm.launcher import cli
from sage_timm.launcher.patches import SEAMS


def replaced_objects():
    """Everything that the launcher may replace while a script runs."""
    seams = [vars(pkgutil.resolve_name(owner)).get(name) for owner, name, _ in SEAMS]
    watched = argparse.ArgumentParser.parse_known_args, warnings.showwarning, list(_global_optimizer_pre_hooks)
    return seams, *watched


@pytest.fixture(autouse=True)
def counts_are_deleted(tmp_path_factory, monkeypatch):
    """Sessions without a script leave the file that they count in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("counts")))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a script through the launcher in this process; return what it wrote to stderr.

    All that the launcher replaces must be back when the script has ended, however it ended.
    """

    def run(*argv, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
        monkeypatch.setattr(sys, "argv", ["sage_timm"])
        monkeypatch.setattr(sys, "path", list(sys.path))
        main = sys.modules["__main__"]
        before, modules = replaced_objects(), set(sys.modules)
        try:
            cli.main([str(arg) for arg in argv])
        finally:
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPTS)):
                    del sys.modules[name]
            assert replaced_objects() == before
            assert sys.modules["__main__"] is main
        return capsys.readouterr().err

    return run


@pytest.fixture
def refusal(capsys):
    """Call something that must end the run; return its last line on stderr."""

    def refusal(function, *argv):
        with pytest.raises(SystemExit) as caught:
            function(*argv)
        assert caught.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return refusal


@pytest.fixture
def losses(monkeypatch):
    """Record the targets that the soft-target loss of scripts/train.py sees."""
    seen, forward = [], timm.loss.SoftTargetCrossEntropy.forward

    def spy(self, x, target):
        seen.append(target)
        return forward(self, x, target)

    monkeypatch.setattr(timm.loss.SoftTargetCrossEntropy, "forward", spy)
    return seen


@pytest.fixture
def train(run, image_folder, tmp_path):
    """Run scripts/train.py for an epoch of three batches; return what it wrote to stderr."""

    def train(*argv):
        return run(TRAIN, "--data-dir", image_folder, *RUN, "--output", tmp_path, "--experiment", "run", *argv)

    return train
