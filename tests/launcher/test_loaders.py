"""scripts/train.py through the launcher: loaders, workers, the switch at the off-epoch, statistics, other methods."""

import runpy
import sys

import pytest
import torch
from launcher.tools import RUN, SAGE, TRAIN, mixed_rows

from sage_timm.launcher import session
from sage_timm.methods import METHODS

PATHS = pytest.mark.parametrize("path", [[], ["--no-prefetcher"]], ids=["prefetcher", "no-prefetcher"])


@PATHS
def test_both_loader_paths_mix(path, train, losses, tmp_path):
    err = train(*SAGE, *path)
    assert len(losses) == 3 and all(mixed_rows(target) > 0 for target in losses)
    assert all(torch.allclose(target.sum(1), torch.ones(8)) for target in losses)
    said = [line for line in err.splitlines() if line.startswith("sage_timm: ")]
    assert len(said) == 3 and said[2] == "sage_timm: 3 of 3 batches were mixed, 3 of them by --sage"
    assert "SAGE(lam_max=0.6), alpha 1, with probability 1 per batch; 3 classes, smoothing 0.1" in said[0]
    assert "saliency: spectral residual at 64 px" in said[0]
    assert "first batch 8 x 3 x 24 x 24, torch.float32 on cpu, normalised with mean (0.5, 0.5, 0.5)" in said[1]


def test_without_the_flag_the_run_is_the_plain_run(train, losses, monkeypatch, image_folder, tmp_path):
    err = train("--mixup", "1.0")
    launched = list(losses)
    losses.clear()
    plain = ["--data-dir", image_folder, *RUN, "--output", tmp_path, "--experiment", "plain", "--mixup", "1.0"]
    monkeypatch.setattr(sys, "argv", [str(TRAIN), *map(str, plain)])
    runpy.run_path(str(TRAIN), run_name="__main__")
    assert [line for line in err.splitlines() if "sage_timm" in line] == [
        "sage_timm: neither --sage nor --mixer was given: the script runs as it is"
    ]
    assert len(losses) == len(launched) == 3
    assert all(torch.equal(a, b) for a, b in zip(launched, losses, strict=True))


@PATHS
def test_off_epoch_is_obeyed_with_persistent_workers(path, train, losses):
    err = train(*SAGE, "-j", "1", "--epochs", "3", "--mixup-off-epoch", "2", *path)
    per_epoch = [sum(mixed_rows(target) for target in losses[3 * e : 3 * e + 3]) for e in range(3)]
    assert err.count("sage_timm: mixing is switched off from here on") == 1
    assert len(losses) == 9 and per_epoch[0] > 0 and per_epoch[1] > 0 and per_epoch[2] == 0


@PATHS
@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_seed_gives_one_mix_whatever_the_loader(path, workers, train, losses):
    train(*SAGE, "--cutmix", "1", "--mixup-mode", "elem", "-j", "0")
    expected = [target.clone() for target in losses]
    losses.clear()
    train(*SAGE, "--cutmix", "1", "--mixup-mode", "elem", "-j", workers, *path)
    assert len(losses) == len(expected) == 3
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(losses, expected, strict=True))


@pytest.fixture
def sources(monkeypatch):
    """The sources that sessions created."""
    created, original = [], session.create_saliency

    def create(*args, **kwargs):
        created.append(original(*args, **kwargs))
        return created[-1]

    monkeypatch.setattr(session, "create_saliency", create)
    return created


@PATHS
def test_checkpoint_and_statistics_reach_the_saliency_model(path, train, checkpoint, sources):
    flags = ["--saliency", "gradient", "--saliency-checkpoint", checkpoint, "--saliency-size", "20"]
    statistics = ["--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6"]
    err = train("--mixup", "1", "--sage", *flags, *statistics, "--saliency-use-labels", "no", *path)
    assert f"gradient of test_resnet, weights of {checkpoint} (5 classes), at 20 x 20 px" in err
    assert len(sources) == 1 and sources[0].mean == (0.1, 0.2, 0.3) and sources[0].std == (0.4, 0.5, 0.6)
    assert sources[0].use_labels is False


def test_the_saliency_model_names_the_architecture_of_bare_weights(train, losses, tiny_model, tmp_path, refusal):
    torch.save(tiny_model.state_dict(), tmp_path / "bare.pth")
    flags = ["--mixup", "1", "--sage", "--saliency-checkpoint", tmp_path / "bare.pth"]
    err = train(*flags, "--saliency-model", "test_resnet")
    assert "feature of test_resnet, weights of" in err and len(losses) == 3
    (first,) = [line for line in err.splitlines() if "first batch" in line]
    assert first.endswith("; saliency at stage layer1"), "at the images' own size, which only the batch tells"
    assert "--saliency-model must name the architecture" in refusal(train, *flags)


RGB = ["--saliency-mean", "0.2", "0.3", "0.4", "--saliency-std", "0.1", "0.2", "0.3"]


@pytest.mark.parametrize(
    ("flags", "mean", "std"), [(["--mean", "0.4", "--std", "0.3"], 0.4, 0.3), ([], 0.5, 0.5), (RGB, 0.3, 0.2)]
)
def test_greyscale_is_announced_with_one_mean(flags, mean, std, train, losses):
    err = train(*SAGE, "--input-size", "1", "24", "24", *flags)
    assert f"first batch 8 x 1 x 24 x 24, torch.float32 on cpu, normalised with mean ({mean},), std ({std},)" in err
    assert len(losses) == 3


ROUGH = {"puzzlemix": ["--mixer-kwargs", "beta=0", "eta=0"], "comixup": ["--mixer-kwargs", "beta=0", "eta=0"]}


@pytest.mark.parametrize("mixer", [name for name in METHODS if name != "sage"])
def test_every_mixer_mixes(mixer, train, losses):
    saliency = ["--saliency", "spectral"] if METHODS[mixer].uses_saliency else []
    err = train("--mixup", "1.0", "--mixer", mixer, *ROUGH.get(mixer, []), *saliency)
    assert len(losses) == 3 and all(torch.allclose(t.sum(1), torch.ones(8)) for t in losses)
    assert sum(mixed_rows(target) for target in losses) > 4
    assert f"sage_timm: {METHODS[mixer].__name__}(" in err and "normalised with mean (0.5, 0.5, 0.5)" in err
    assert "beta" not in err or "beta=0" in err, "settings reach the method"


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
