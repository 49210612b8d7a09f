"""The other methods by --mixer, on both loader paths of scripts/train.py."""

import pytest
import torch
from launcher.tools import mixed_rows

from sage_timm.methods import METHODS

ROUGH = {"puzzlemix": ["--mixer-kwargs", "beta=0", "eta=0"], "comixup": ["--mixer-kwargs", "beta=0", "eta=0"]}


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]], ids=["prefetcher", "no-prefetcher"])
@pytest.mark.parametrize("mixer", [name for name in METHODS if name != "sage"])
def test_every_mixer_mixes_on_both_loader_paths(mixer, path, train, losses, monkeypatch):
    monkeypatch.setattr("sage_timm.saliency.load_auxiliary", lambda *_: pytest.fail("no weights are needed"))
    saliency = ["--saliency", "spectral"] if METHODS[mixer].uses_saliency else []
    err = train("--mixup", "1.0", "--mixer", mixer, *ROUGH.get(mixer, []), *saliency, *path)
    assert len(losses) == 3 and all(torch.allclose(t.sum(1), torch.ones(8)) for t in losses)
    assert sum(mixed_rows(target) for target in losses) > 4
    assert f"sage_timm: {METHODS[mixer].__name__}(" in err and "normalised with mean (0.5, 0.5, 0.5)" in err


def test_mixer_sage_is_sage(train, losses):
    runs = []
    for flags in (["--sage"], ["--mixer", "sage"], ["--sage", "--mixer", "sage"]):
        losses.clear()
        train("--mixup", "1.0", "--saliency", "spectral", *flags)
        runs.append(torch.cat(losses))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_mixer_settings_reach_the_method(train):
    kwargs = ["--mixer-kwargs", "beta=0.7", "t_size=3", "block_num=None"]
    err = train("--mixup", "1.0", "--mixer", "puzzlemix", "--saliency", "spectral", *kwargs)
    assert "PuzzleMix(n_labels=3, beta=0.7, gamma=0.5, eta=0.2, neigh_size=None, t_eps=0.8, t_size=3" in err


@pytest.mark.parametrize("mixer", [["--sage"], ["--mixer", "cutmix"]])
def test_labels_by_saliency(mixer, train, losses):
    runs = []
    for flags in ([], ["--mixer-label-weight", "saliency"]):
        losses.clear()
        err = train("--mixup", "1.0", *mixer, "--saliency", "spectral", *flags)
        assert ("labels by saliency" in err) == bool(flags)
        assert ("--saliency has no effect" in err) == (not flags and "cutmix" in mixer)
        runs.append(torch.cat(losses))
    assert not torch.allclose(*runs, atol=0.01)


def test_cutmix_keeps_its_own_alpha(train, losses):
    err = train("--cutmix", "0.5", "--mixer", "cutmix")
    assert "would never mix" not in err and "CutMix(), alpha 0.5," in err
    assert sum(mixed_rows(target) for target in losses) > 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixer", "cutmixx"], "invalid choice: 'cutmixx'"),
        (["--sage", "--mixer-kwargs", "lam_max=7"], "`lam_max` must lie in (0, 1], got 7"),
        (["--mixer", "mixup", "--cutmix", "1", "--mixup-switch-prob", "1"], "must be < 1 with --mixer mixup, got 1"),
        (["--mixer", "mixup", "--mixup-prob", "0"], "must be > 0 with --mixer mixup, got 0"),
        (["--mixer", "mixup", "--save-mixed", "-1"], "--save-mixed must be at least 0, got -1"),
    ],
)
def test_unfit_mixer_flags_are_refused_in_one_line(flags, message, train, refusal):
    assert message in refusal(train, "--mixup", "1.0", *flags)


def test_without_its_library_puzzlemix_is_refused_before_the_script_starts(train, refusal, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refusal(train, "--mixup", "1.0", "--mixer", "puzzlemix", "--saliency", "spectral")
    assert 'PuzzleMix needs PyMaxflow, which is not installed; pip install ".[methods]" in a checkout' in line
