"""The recipes: every key is a flag with a value of its type, and the command that stands above each runs."""

import argparse
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from launcher.tools import TRAIN

from sage_timm.launcher.flags import add_flags
from scripts import train

RECIPES = sorted((Path(train.__file__).parent / "recipes").glob("*.yaml"))
# What must be small or has no weights here; the rest is the recipe's.
SMALL = ["-b", "12", "-j", "0", "--epochs", "1", "--warmup-epochs", "0", "--model", "test_resnet"]
SMALL += ["--input-size", "3", "24", "24", "--device", "cpu"]


def flags(recipe):
    """Write a recipe as the flags that would say the same."""
    for key, value in recipe.items():
        yield "--" + key.replace("_", "-")
        yield from [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_keys_and_values_are_those_of_the_flags(path):
    """set_defaults takes any key, and YAML reads 5e-5 as text."""
    parser = argparse.ArgumentParser(parents=[train.parser], add_help=False, allow_abbrev=False)
    add_flags(parser)
    recipe = yaml.safe_load(path.read_text())
    parsed = vars(parser.parse_args(list(flags(recipe))))
    assert {key: parsed.get(key) for key in recipe} == recipe
    assert all(type(parsed[key]) is type(value) for key, value in recipe.items())


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_above_a_recipe_trains(path, run, image_folder, checkpoint, tmp_path, monkeypatch):
    loaded, steps, step = [], [], torch.optim.Optimizer.zero_grad
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: loaded.append(True))
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda *a, **k: steps.append(True) or step(*a, **k))
    command = shlex.split(path.read_text().splitlines()[0].partition("-m sage_timm train.py ")[2])
    assert command[:2] == ["-c", f"scripts/recipes/{path.name}"] and command[-1] == "--sage"
    command[1], command[3] = path, image_folder
    err = run(TRAIN, *command, "--num-classes", "3", *SMALL, "--saliency-checkpoint", checkpoint, "--output", tmp_path)
    recipe = yaml.safe_load(path.read_text())
    assert "sage_timm: SAGE" in err and f"{recipe.get('saliency', 'feature')} of test_resnet" in err
    assert len(steps) == 2 and bool(loaded) == recipe.get("pretrained", False)
    assert "validation top-1" in err
