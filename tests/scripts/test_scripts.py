"""The pictures, the quickstart and the benchmark, run as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sage_timm.methods import sage_search
from scripts import pictures
from scripts.bench import speed

ROOT = Path(__file__).parent.parent.parent


def test_pictures(tmp_path):
    pictures.main(["-o", str(tmp_path)])
    for name in ("mixed.jpg", "rearrangement.png"):
        assert 1e4 < (tmp_path / name).stat().st_size < 4e5
        with Image.open(tmp_path / name) as drawn, Image.open(ROOT / "docs" / name) as kept:
            assert drawn.size == kept.size, f"{name} was not redrawn"


@pytest.mark.slow
def test_quickstart(tmp_path):
    """The main job in a fresh copy, with this environment as its .venv; a second run reuses what is there.

    It trains for fewer epochs than it does for its user, who waits some minutes.
    """
    for name in ("sage_timm", "scripts", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    script = tmp_path / "scripts" / "quickstart.sh"
    text = script.read_text()
    for long, short in (
        ("--epochs 16", "--epochs 6"),
        ("--epochs 120 --auxiliary-epochs 60", "--epochs 4 --auxiliary-epochs 2"),
    ):
        assert text.count(long) == 1
        text = text.replace(long, short)
    script.write_text(text)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / ".venv" / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run():
        result = subprocess.run(["bash", str(script)], capture_output=True, text=True, env=environment, timeout=900)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout, result.stderr

    out, err = run()
    *_, last = (tmp_path / "quickstart" / "auxiliary" / "summary.csv").read_text().splitlines()
    assert float(last.split(",")[-1]) > 20, "the auxiliary has learned"
    rows = re.findall(r"^\| (no mixing|mixup\+cutmix|SAGE, feature) \| 3 \| ([\d.]+) ± .*\|$", out, re.MULTILINE)
    runs = [json.loads(line) for line in (tmp_path / "quickstart" / "runs.jsonl").read_text().splitlines()]
    for arm, name in (("none", "no mixing"), ("mixup+cutmix", "mixup+cutmix"), ("feature", "SAGE, feature")):
        accuracies = [run["accuracy"] for run in runs if run["arm"] == arm]
        assert len(accuracies) == 3 and float(dict(rows)[name]) == pytest.approx(sum(accuracies) / 3, abs=0.01)
    assert re.findall(r"^SAGE, feature against (.+?): .*standard error", out, re.MULTILINE)
    assert "sage_timm: SAGE" in err and "feature of test_resnet, weights of quickstart/auxiliary" in err
    for name, width in (("mixed", 800), ("comparison", 500)):
        with Image.open(tmp_path / "quickstart" / f"{name}.png") as picture:
            assert picture.width > width and len(picture.convert("L").getcolors()) > 50
    again, _ = run()
    assert "== 2" not in again and "auxiliary model, seed" not in again and out[out.index("| arm") :] in again


def test_benchmark(tmp_path, capsys):
    files = ["--json", str(tmp_path / "figures.json"), "--against", sage_search.__file__]
    speed.main(["--tiny", "--repeats", "2", "--device", "cpu", *files])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [r["title"][:3] for r in figures["results"]] == ["(a)", "(a)", "(b)", "(c)"]
    assert all(low <= median <= high for r in figures["results"] for median, low, high in r["ms"].values())
    out = capsys.readouterr().out
    assert "SageMixup / timm Mixup" in out and "MiB" in out and "the earlier search / all translations" in out


def test_the_benchmarks_loop_agrees_with_brute_force():
    """The authors' way in the benchmark finds the best of its own sample: with all translations drawn, the optimum."""
    from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency

    own, other = speed.pair_of_maps(3, 9, torch.device("cpu"))
    found = speed.search_in_a_loop(own, other, fraction=1.0)
    best = rearrange(own, other)
    retained = [retained_saliency(own, other, t[:, None])[:, 0] for t in (found, best)]
    assert (retained[0] - retained[1]).abs().max() <= 2 * TIE
