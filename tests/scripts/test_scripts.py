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

from scripts import objects, pictures
from scripts.bench import speed

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_pictures(tmp_path):
    pictures.main(["-o", str(tmp_path)])
    for name in ("mixed.jpg", "rearrangement.png"):
        assert 1e4 < (tmp_path / name).stat().st_size < 4e5
        with Image.open(tmp_path / name) as drawn, Image.open(ROOT / "docs" / name) as kept:
            assert drawn.size == kept.size, f"{name} was not redrawn"


def test_objects(tmp_path, monkeypatch):
    """Frames of every object, small in view; the same ones each time."""
    monkeypatch.setattr(objects, "SPLITS", {"train": 2, "validation": 1})
    for folder in ("once", "again"):
        objects.main([str(tmp_path / folder)])
    files = sorted(path.relative_to(tmp_path / "once") for path in tmp_path.glob("once/*/*/*.png"))
    assert len(files) == 30 and {path.parts[1] for path in files} == set(objects.OBJECTS)
    for path in files:
        assert (tmp_path / "once" / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


@pytest.mark.slow
def test_quickstart(tmp_path):
    """The script in a fresh copy, with this environment as PYTHON; a second run reuses what is there.

    It trains for fewer epochs than it does for its user.
    """
    for name in ("sage_timm", "scripts", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    script = tmp_path / "scripts" / "quickstart.sh"
    text, found = re.subn(r"--epochs \d+", "--epochs 1", script.read_text().replace("--warmup-epochs 2", ""))
    assert found == 2
    script.write_text(text)
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}

    def run(*arguments):
        command = ["bash", str(script), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"})
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout, result.stderr

    interrupted = tmp_path / "quickstart" / "run.part"
    interrupted.mkdir(parents=True)
    (interrupted / "model_best.pth.tar").touch()
    out, err = run()
    assert not interrupted.exists()
    assert "sage_timm: SAGE" in err and "saliency: network" in err and "arning" not in err
    assert (tmp_path / "quickstart" / "run" / "model_best.pth.tar").exists() and "quickstart/mixed.png" in out
    again, _ = run()
    assert "== Training" in out and "== Training" not in again and "== Making" not in again
    out, _ = run("compare")
    rows = re.findall(r"^\| (mixup\+cutmix|cutmix|SAGE, network) \| 3 \| ([\d.]+) ± .*\|$", out, re.MULTILINE)
    runs = [json.loads(line) for line in (tmp_path / "quickstart" / "runs.jsonl").read_text().splitlines()]
    for arm, name in (("cutmix", "cutmix"), ("mixup+cutmix", "mixup+cutmix"), ("network", "SAGE, network")):
        accuracies = [run["accuracy"] for run in runs if run["arm"] == arm]
        assert len(accuracies) == 3 and float(dict(rows)[name]) == pytest.approx(sum(accuracies) / 3, abs=0.01)
    assert re.findall(r"^SAGE, network against (.+?): .*standard error", out, re.MULTILINE)
    for name, width in (("mixed", 800), ("comparison", 500)):
        with Image.open(tmp_path / "quickstart" / f"{name}.png") as picture:
            assert picture.width > width and len(picture.convert("L").getcolors()) > 50


@pytest.mark.slow
def test_benchmark(capsys):
    figures = speed.main(["--tiny", "--repeats", "1", "--device", "cpu"])
    assert [row["title"].split()[0].strip(",") for row in figures] == ["a", "saliency", "a", "search", "search"]
    for row in figures:
        assert all(0 < low <= median <= high for median, low, high in row["ms"].values())
        assert next(iter(row["ratios"].values())) == 1
    assert set(figures[1]["ms"]) == {"network", "feature", "spectral"}
    assert figures[1]["title"] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        speed.main(["steps"])


def test_the_benchmarks_loop_agrees_with_brute_force():
    """The authors' way in the benchmark finds the best of its own sample: with all translations drawn, the optimum."""
    from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency
    from scripts.bench.certify import number_of

    own, other = speed.pair_of_maps(3, 9, torch.device("cpu"))
    found = speed.search_in_a_loop(own, other, fraction=1.0)
    best = rearrange(own, other)
    retained = [retained_saliency(own, other, number_of(t, own)[:, None])[:, 0] for t in (found, best)]
    assert (retained[0] - retained[1]).abs().max() <= 2 * TIE
