"""Docstrings: their examples run, and every public name has one."""

import doctest
import importlib
import pkgutil
import warnings

import pytest

import sage_timm
from sage_timm.methods import SAGE

MODULES = [m.name for m in pkgutil.walk_packages(sage_timm.__path__, "sage_timm.") if "__main__" not in m.name]
PUBLIC = [getattr(sage_timm, name) for name in sage_timm.__all__] + [SAGE]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0


@pytest.mark.parametrize("name", PUBLIC, ids=lambda name: name.__name__)
def test_public_names_have_an_example(name):
    assert doctest.DocTestParser().get_examples(name.__doc__), name
