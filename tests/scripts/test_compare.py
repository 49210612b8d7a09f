"""The figures of scripts/bench/compare.py: whole outputs, times beside timm's, what every method retains."""

from types import SimpleNamespace

import pytest
import torch

from sage_timm import MixPlan
from sage_timm.methods import METHODS
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


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--saliency", "spectral", "--saliency-size", "16")])
def test_compare_measures_every_method(image_folder, capsys, flags):
    arguments = ["--data-dir", image_folder / "train", "--batch-size", 4, "--size", 24, "--batches", 1, "--repeats", 3]
    results = compare.main([*map(str, arguments), *flags])
    assert [row["method"] for row in results] == list(METHODS)
    for row in results:
        assert 0 <= row["own"] <= 1 and 0 <= row["lam"] <= 1 and 0 <= row["whole"] <= 1
        for middle, low, high in (row["ms"], row["timm_ms"]):
            assert 0 < low <= middle <= high
    mixup = results[1]
    assert mixup["own"] + mixup["partner"] == pytest.approx(1, abs=1e-3)
    assert mixup["own"] == pytest.approx(mixup["lam"], abs=1e-3)
    printed = capsys.readouterr().out
    assert f"saliency: {flags[1] if flags else 'network'} " in printed and printed.count("\n| ") == 1 + len(METHODS)
