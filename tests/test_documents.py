"""The README and docs/: their code runs, and their tables, links and commands name what there is."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from sage_timm.methods import METHODS
from sage_timm.saliency import SOURCES

ROOT = Path(__file__).parent.parent
TEST_TEXTS = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.name for path in DOCUMENTS]
TRAINERS = ("lightning", "accelerate", "transformers", "fastai", "mmpretrain")  # none is a dependency


def table(first, document="README.md"):
    """The names in the first column of a document's table whose header starts with `first`."""
    found = re.search(
        rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / document).read_text(), re.MULTILINE
    )
    return [re.match(r"\| `([\w-]+)`", line)[1] for line in found[1].splitlines()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_python_blocks_run(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    dataset = [(torch.randn(3, 24, 24), i) for i in range(8)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 10))
    found = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    for block in found:
        others = set(re.findall(rf"^(?:import|from) ({'|'.join(TRAINERS)})", block, re.MULTILINE))
        if all(map(importlib.util.find_spec, others)):
            exec(compile(block, path.name, "exec"), {"loader": loader, "model": model})
    if path.name == "README.md":
        assert len(found) >= 2 and model[1].weight.grad is not None


def test_every_flag_of_the_launcher_is_documented_once():
    import argparse

    from sage_timm.launcher.flags import add_flags

    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = parser._option_string_actions.keys() - {"-h", "--help"}
    assert list(parser._option_string_actions["--mixer"].choices) == list(METHODS)
    assert sorted(table("flag") + table("flag", "docs/training.md")) == sorted(flags)


def test_readme_has_every_method_and_source():
    assert set(table("`--mixer`")) == set(METHODS)
    assert set(table("source")) == set(SOURCES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_documents_name_files_and_tests_that_exist(path):
    text = path.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    named = set(re.findall(r"(?<![\w/.])(?:scripts|tests|sage_timm|docs)/[\w./-]+\.\w+", text))
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
    for module in re.findall(r"python -m ((?:scripts|sage_timm)[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    for word in re.findall(r"pytest[^`\n]* -k (\w+)", text):
        assert any(re.search(rf"def test_\w*{word}", text) for text in TEST_TEXTS), word
