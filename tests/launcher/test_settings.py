"""Flags and the script's arguments become one checked `Settings`, without a script."""

from pathlib import Path

import pytest

from sage_timm.launcher.flags import flag
from sage_timm.launcher.settings import Settings, read_settings
from sage_timm.methods import SAGE


@pytest.mark.parametrize("given", [{}, {"saliency": "spectral"}])
def test_without_a_mixer_there_are_none(given):
    assert read_settings(given, {"mixup": 1.0, "sage": False, "mixer": None}) is None


def test_defaults():
    assert read_settings({"sage": True}, {}) == Settings(SAGE())
    assert read_settings({"mixer": "sage"}, {"sage": True}) == Settings(SAGE(), asked="--mixer sage")


def test_everything_is_read():
    given = {"sage": True, "saliency_model": "resnet18", "saliency_mean": [0.1], "saliency_std": [0.2]}
    args = {
        "mixer_kwargs": {"lam_max": 0.5},
        "saliency": "gradient",
        "saliency_model": "of the config file",
        "saliency_checkpoint": __file__,
        "saliency_use_labels": False,
        "saliency_size": 20,
        "saliency_grid": 16,
        "mixer_label_weight": "saliency",
        "save_mixed": 2,
        "output": "runs",
        "experiment": "first",
        "mixup": 0.4,
    }
    source = {"name": "gradient", "model": "resnet18", "checkpoint": __file__, "size": 20, "grid": 16}
    source["use_labels"] = False
    assert read_settings(given, args) == Settings(
        method=SAGE(0.5),
        kwargs={"lam_max": 0.5},
        source=source,
        statistics=((0.1,), (0.2,)),
        label_weight="saliency",
        save_mixed=2,
        folder=Path("runs", "first", "mixed"),
    )


@pytest.mark.parametrize(
    ("mixer", "args", "alpha"),
    [
        ("sage", {"mixup": 0.0}, 1.0),
        ("sage", {"mixup": 0.0, "cutmix": 1.0}, 1.0),
        ("comixup", {"mixup": 0.0}, 2.0),
        ("cutmix", {"mixup": 0.0}, 1.0),
        ("cutmix", {"mixup": 0.0, "cutmix": 0.5}, None),
        ("cutmix", {"mixup": 0.0, "cutmix_minmax": [0.2, 0.8]}, None),
        ("sage", {"mixup": 0.3}, None),
        ("sage", {}, None),
        ("sage", {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, 1.0),
        ("cutmix", {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, None),
    ],
)
def test_a_mixup_of_0_becomes_the_authors_alpha(mixer, args, alpha):
    settings = read_settings({"mixer": mixer}, args)
    (name,) = args.keys() & {"mixup", "mixup_alpha"} or {None}
    assert settings.opened == ({} if alpha is None else {name: alpha})
    said = f"{flag(name)} was 0, so {mixer} would never mix; using {flag(name)} {alpha}, the" if settings.opened else ""
    assert [note[: len(said)] for note in settings.notes] == [said] * len(settings.opened)


@pytest.mark.parametrize(
    ("given", "args", "message"),
    [
        ({"sage": True, "mixer": "cutmix"}, {}, "--sage and --mixer cutmix can't be combined; drop one of the two"),
        ({"mixer": "cutmixx"}, {}, "`method` must be one of sage, mixup, .*, got 'cutmixx'"),
        ({"mixer": "mixup", "mixer_kwargs": {"beta": 1}}, {}, "mixup has no settings of its own, got beta"),
        ({"mixer": "puzzlemix"}, {"mixer_kwargs": ["beta"]}, "--mixer-kwargs must map names to values, got .'beta'."),
        ({"sage": True, "mixer_kwargs": {"lam_max": 7}}, {}, r"`lam_max` must lie in \(0, 1\], got 7"),
        ({"mixer": "mixup", "save_mixed": -1}, {}, "`save_mixed` must be at least 0, got -1"),
        ({"sage": True}, {"mixup": -1.0}, "--mixup must be at least 0, got -1.0"),
        ({"sage": True}, {"naflex_loader": True}, "--naflex-loader can't be combined with --sage"),
        ({"mixer": "mixup"}, {"aug_splits": 3}, "--aug-splits can't be combined with --mixer mixup"),
        ({"sage": True}, {"saliency_use_labels": "on"}, "--saliency-use-labels must be yes or no, got 'on'"),
        ({"sage": True}, {"saliency": "self"}, "--saliency must be one of .* in the launcher, got 'self'"),
        ({"sage": True}, {"use_v2": False}, "--sage mixes in v2.MixUp's place: give --use-v2, or use SageMix as in"),
    ],
)
def test_unfit_settings_are_refused(given, args, message):
    with pytest.raises((TypeError, ValueError), match=message):
        read_settings(given, args)


def test_saliency_flags_without_use_are_noted():
    settings = read_settings({"mixer": "mixup", "saliency": "spectral"}, {"saliency_size": 32})
    assert settings.notes == ("--saliency, --saliency-size has no effect: --mixer mixup uses no saliency",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixer": "puzzlemix"}, r'PuzzleMix needs PyMaxflow, .* pip install ".\[methods\]"'),
        ({"mixer": "mixup", "save_mixed": 1}, r'--save-mixed needs Matplotlib, .* pip install ".\[viz\]"'),
    ],
)
def test_a_missing_library_is_named(given, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=message):
        read_settings(given, {})
