"""The registry: the class behind each name, settings that show, errors. The rest: surfaces/test_contract.py."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from batches import blobs, bump, make_batch

from sage_timm import MethodMixup, SageMixup, create_mixup, methods
from sage_timm.methods import METHODS, create_method


@pytest.mark.parametrize("name", METHODS)
def test_create_mixup_returns_timms_class_and_sagemixup_for_sage(name):
    x, target = torch.randn(4, 3, 8, 9), torch.arange(4)
    mixup = create_mixup(name, num_classes=7, saliency=bump)
    assert isinstance(mixup, timm.data.Mixup) and isinstance(mixup, MethodMixup)
    assert isinstance(mixup, SageMixup) == (name == "sage") and isinstance(mixup.method, METHODS[name])
    mixup.mixup_enabled = False
    mixed, weights = mixup(x, target)
    assert mixed is x and weights.max() == pytest.approx(0.9 + 0.1 / 7)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_public_and_has_tests_of_its_own(name):
    tests = Path(__file__).parent
    assert METHODS[name].__name__ in methods.__all__
    assert [path for path in tests.glob("test_*.py") if name in path.stem], f"tests/methods/test_{name}.py"


@pytest.mark.parametrize("name", METHODS)
def test_images_that_are_not_drawn_stay(name):
    x, target = torch.randn(64, 3, 8, 8), torch.arange(64)
    mixup = create_mixup(name, mode="elem", prob=0.5, num_classes=64, label_smoothing=0, saliency=bump)
    mixed, weights = mixup(x, target)
    own = weights.diagonal() == 1
    assert 12 < own.sum() < 52
    assert torch.equal(mixed[own], x[own])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_saliency])
def test_saliency_matters_where_a_method_uses_it(name):
    batch = make_batch(8, 16, 16, saliency=blobs(8, 16, 16))
    results = []
    for saliency in (batch.saliency, batch.saliency.flip(-1), batch.saliency):
        torch.manual_seed(0)
        plan = create_method(name)(make_batch(8, images=batch.images, saliency=saliency))
        results.append(plan.mix_images(batch.images))
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_shows_in_the_result(name):
    other = dict(
        lam_max=0.2, n_labels=2, beta=9.0, gamma=0.01, eta=5.0, neigh_size=1, t_eps=0.0,
        t_size=1, block_num=1, part=3, thres=0.05, omega=0.9, niter=1, scale_min=0.6, scale_max=0.3, blur=1,
        blur_sigma=0.4,
    )  # fmt: skip
    batch = make_batch(8, 24, 24, saliency=blobs(8, 24, 24))

    def mixed(**settings):
        torch.manual_seed(0)
        fixed = {} if name != "puzzlemix" else {"block_num": 8}
        return create_method(name, **{**fixed, **settings})(batch).mix_images(batch.images)

    settings = list(inspect.signature(METHODS[name]).parameters)
    assert other.keys() >= set(settings), f"give another value of {set(settings) - other.keys()} in `other`"
    for setting in settings:
        assert not torch.equal(mixed(), mixed(**{setting: other[setting]})), setting
        assert setting in METHODS[name].__doc__, setting


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("sagemix", {}, ValueError, "`method` must be one of sage, mixup, cutmix, .*, got 'sagemix'"),
        ("mixup", {"lam_max": 0.5}, TypeError, "mixup has no settings of its own, got lam_max"),
        ("comixup", {"betta": 1}, TypeError, "comixup has block_num, part, .*, got betta"),
        ("puzzlemix", {"n_labels": 33}, ValueError, r"`n_labels` must lie in \[2, 32\], got 33"),
        ("puzzlemix", {"beta": float("inf")}, ValueError, "`beta` must lie in .*, got inf"),
        ("comixup", {"gamma": float("inf")}, ValueError, "`gamma` must lie in .*, got inf"),
        (["sage"], {}, ValueError, r"`method` must be one of .*, got \['sage'\]"),
        ("mixup", {"name": 3}, TypeError, "mixup has no settings of its own, got name"),
        ("puzzlemix", {"n_labels": 1}, ValueError, "`n_labels` must be at least 2, got 1"),
        ("puzzlemix", {"gamma": 1.5}, ValueError, r"`gamma` must lie in \[0, 1\], got 1.5"),
        ("puzzlemix", {"t_eps": "none"}, TypeError, "`t_eps` must be a number, got str 'none'"),
        ("puzzlemix", {"block_num": 0}, ValueError, "`block_num` must be at least 1"),
        ("comixup", {"part": 1}, ValueError, "`part` must be at least 2, got 1"),
        ("comixup", {"omega": 2}, ValueError, r"`omega` must lie in \[0, 1\]"),
        ("comixup", {"niter": 0}, ValueError, "`niter` must be at least 1"),
        ("resizemix", {"scale_min": 0.9}, ValueError, r"`scale_min` must lie in \[0, 0.8\], got 0.9"),
        ("resizemix", {"scale_max": 1.5}, ValueError, r"`scale_max` must lie in \(0, 1\], got 1.5"),
        ("guidedmixup", {"blur": 4}, ValueError, "`blur` must be odd, got 4; use 5"),
        ("guidedmixup", {"blur": 0}, ValueError, "`blur` must be at least 1, got 0"),
        ("guidedmixup", {"blur_sigma": 0}, ValueError, r"`blur_sigma` must lie in \(0, 1e\+06\], got 0"),
        ("puzzlemix", {"mixup_alpha": 0}, ValueError, "`mixup_alpha` must be > 0 for PuzzleMix to mix, got 0"),
        ("cutmix", {"mixup_alpha": 0}, ValueError, "`mixup_alpha` must be > 0 for CutMix to mix, got 0"),
        ("mixup", {"mode": "half"}, ValueError, "`mode` must be one of batch, pair, elem"),
        ("comixup", {"saliency": 3}, TypeError, "`saliency` must be a source's name or a callable"),
    ],
)
def test_errors(name, settings, error, message):
    with pytest.raises(error, match=message):
        create_mixup(name, **{"saliency": bump, **settings})


def test_puzzlemix_sees_pixels_that_are_not_finite_as_0():
    batch = make_batch(4, 16, 16)
    batch.images[0], batch.images[1, :, 3] = torch.nan, torch.inf
    terms = create_method("puzzlemix").energy(batch, (4, 4))
    assert all(np.isfinite(term).all() for term in terms), "a cut through anything else does not end"
