"""The figures of scripts/bench/compare.py: whole outputs, times beside timm's, the saliency that was asked for."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sage_timm import MixPlan, create_saliency
from sage_timm.methods import METHODS
from sage_timm.saliency.gradient import Feature, Gradient
from sage_timm.saliency.spectral import Spectral
from scripts.bench import compare


def test_compare_says_how_many_outputs_a_method_leaves_whole(monkeypatch):
    """Batches of 4 of a made-up method: 1 whole, none, and 2, once the partner alone and once the same image twice."""
    lam = torch.tensor([[[0.99, 0.01], [0.6, 0.4], [0.5, 0.5], [0.98, 0.02]]] * 3)
    source = torch.tensor([[0, 3], [1, 2], [2, 1], [3, 0]]).repeat(3, 1, 1)
    lam[1, 0], lam[2, 0], source[2, 2] = torch.tensor([0.98, 0.02]), torch.tensor([0.0, 1.0]), 2
    plans = iter([MixPlan(s, w[..., None, None].expand(-1, -1, 8, 8), w) for s, w in zip(source, lam, strict=True)])
    monkeypatch.setattr(compare, "create_mixup", lambda *a, **k: SimpleNamespace(plan=lambda *batch: next(plans)))
    shares = [compare.retained("any", lambda x: x[:, :1], torch.rand(4, 3, 8, 8), 1)[3] for _ in range(3)]
    assert shares == [0.25, 0.0, 0.5]


def test_compare_takes_spectral_maps_only_where_no_others_are_asked_for(monkeypatch, capsys, checkpoint):
    def unreachable(name, **settings):
        if name != "spectral" and settings["checkpoint"] is None:
            raise RuntimeError("no weights")
        return create_saliency(name, **settings)

    def load(*flags):
        return compare.load_saliency(compare.build_parser().parse_args(flags), 3)

    assert isinstance(load("--saliency-checkpoint", checkpoint), Feature)
    monkeypatch.setattr(compare, "create_saliency", unreachable)
    assert isinstance(load(), Spectral) and "no weights" in capsys.readouterr().err
    assert isinstance(load("--saliency", "gradient", "--saliency-checkpoint", checkpoint), Gradient)
    for flags in (["--saliency", "feature"], ["--saliency-model", "resnet18"], ["--saliency-size", "64"]):
        with pytest.raises(RuntimeError, match="no weights"):
            load(*flags)


def test_times_stand_beside_timms_with_their_spread(image_folder, tmp_path, capsys, checkpoint):
    arguments = ["--data-dir", image_folder / "train", "--batch-size", 4, "--size", 24, "--batches", 1, "--repeats", 3]
    arguments += ["--saliency-checkpoint", checkpoint, "--saliency-size", 16, "--json", tmp_path / "figures.json"]
    compare.main(list(map(str, arguments)))
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [row["method"] for row in results] == list(METHODS)
    for row in results:
        for middle, low, high in (row["ms"], row["timm_ms"]):
            assert 0 < low <= middle <= high
        assert row["ratio"] == row["ms"][0] / row["timm_ms"][0] and 0 <= row["whole"] <= 1
    printed = capsys.readouterr().out
    assert "feature of" in printed and "| outputs left whole |" in printed and printed.count("\n| ") == 1 + len(METHODS)


@pytest.mark.slow
def test_compare_measures_every_method(pictures, tmp_path):
    arguments = ["--data-dir", pictures, "--batch-size", "3", "--size", "24", "--batches", "2", "--repeats", "1"]
    arguments += ["--saliency", "spectral", "--saliency-size", "16"]
    run = subprocess.run(
        [sys.executable, "-m", "scripts.bench.compare", *arguments, "--json", tmp_path / "figures.json"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [row["method"] for row in results] == list(METHODS)
    assert run.stdout.count("\n| ") == 1 + len(METHODS)
    for row in results:
        assert 0 <= row["own"] <= 1 and 0 <= row["lam"] <= 1 and row["ms"][0] > 0
    mixup = results[1]
    assert mixup["own"] + mixup["partner"] == pytest.approx(1, abs=1e-3)
    assert mixup["own"] == pytest.approx(mixup["lam"], abs=1e-3)
