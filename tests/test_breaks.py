"""The breaks of tests/breaks/ still fit the code; tests/mutants.py makes them."""

import pytest
from mutants import ROOT, load

BREAKS = [(area, mutant) for area, mutants in load().items() for mutant in mutants]


@pytest.mark.parametrize(("area", "mutant"), BREAKS, ids=[mutant[0] for _, mutant in BREAKS])
def test_the_text_of_a_break_stands_once_in_its_file(area, mutant):
    _, name, text, replacement, tests = mutant
    content = (ROOT / name).read_text()
    assert content.count(text) == 1 and text != replacement
    if name.endswith(".py"):
        compile(content.replace(text, replacement), name, "exec")
    assert (ROOT / tests).is_file()


def test_no_break_is_listed_twice():
    names = [mutant[0] for _, mutant in BREAKS]
    assert len(set(names)) == len(names)
