"""Docstrings: their examples run, every public name has one, and they speak the English of torch and timm."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import sage_timm
from sage_timm.methods import METHODS

FILES = sorted(Path(sage_timm.__file__).parent.rglob("*.py"))
MODULES = [m.name for m in pkgutil.walk_packages(sage_timm.__path__, "sage_timm.") if "__main__" not in m.name]
PUBLIC = [getattr(sage_timm, name) for name in sage_timm.__all__] + list(METHODS.values())
# Phrases that a reader has to translate.
DIALECT = re.compile(r"what is no\b|it is taken|can't be had|is said\b|the way out|\bmends?\b")


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0


@pytest.mark.parametrize("name", PUBLIC, ids=lambda name: name.__name__)
def test_public_names_have_an_example(name):
    assert doctest.DocTestParser().get_examples(name.__doc__), name


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(FILES[0].parent)) for path in FILES])
def test_plain_english(path):
    found = DIALECT.findall(" ".join(path.read_text().split()))
    assert found == []
