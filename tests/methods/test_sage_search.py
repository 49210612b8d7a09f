import itertools

import numpy as np
import pytest
import reference
import torch

from sage_timm.methods.sage_search import (
    OVERSHOOT,
    RATES,
    TIE,
    TOP,
    WEIGHTS,
    rearrange,
    retained_saliency,
    retained_saliency_map,
)
from sage_timm.tensors import gaussian_blur, translate, unit_mass

SIZES = [(1, 1), (1, 5), (2, 2), (7, 4), (9, 13), (16, 16), (21, 15)]


def make_maps(kind, size, batch):
    maps = torch.rand(batch, 1, *size)
    if kind == "blurred":
        maps = gaussian_blur(maps, max(size) / 16)
    elif kind == "blob":
        maps = gaussian_blur((maps > 0.97).float(), max(size) / 12)
    elif kind == "spiky":
        maps = maps**20
    elif kind == "sparse":
        maps = maps * (torch.rand_like(maps) > 0.9)
    elif kind == "spikes on a floor":
        maps = (maps > 1 - 2 / maps[0].numel()).float() + 3e-4
    elif kind == "flat":
        maps = torch.ones_like(maps)
    elif kind == "zero":
        maps = torch.zeros_like(maps)
    elif kind == "gradient-like":
        maps = gaussian_blur(torch.randn(batch, 1, *size).abs(), max(size) / 32)
    return maps


def make_pairs(kind, size, batch=6):
    ratio = torch.linspace(0.03, 0.97, batch).view(-1, 1, 1, 1)
    return ratio * unit_mass(make_maps(kind, size, batch)), (1 - ratio) * unit_mass(make_maps(kind, size, batch))


def brute_force(own, other):
    """v of every translation, float64, by sliding the other map over a padded frame: no FFT, no gather."""
    own, other = own[:, 0].double().numpy(), other[:, 0].double().numpy()
    batch, height, width = own.shape
    values = np.empty((batch, 2 * height - 1, 2 * width - 1))
    frame = np.zeros((batch, 3 * height - 2, 3 * width - 2))
    frame[:, height - 1 : 2 * height - 1, width - 1 : 2 * width - 1] = other
    for i, j in itertools.product(range(2 * height - 1), range(2 * width - 1)):
        y, x = 2 * (height - 1) - i, 2 * (width - 1) - j
        moved = frame[:, y : y + height, x : x + width]
        both = own + moved
        mask = np.divide(own, both, out=np.ones_like(own), where=both > 0)
        values[:, i, j] = (own * mask + moved * (1 - mask)).sum((1, 2))
    return torch.from_numpy(values)


def test_brute_force_agrees_with_the_reference():
    own, other = make_pairs("sparse", (4, 3), batch=2)
    values = brute_force(own, other)
    for b, i, j in itertools.product(range(2), range(7), range(5)):
        expected = reference.retained_saliency(own[b, 0].double().numpy(), other[b, 0].double().numpy(), i - 3, j - 2)
        assert values[b, i, j] == pytest.approx(expected, abs=1e-12)


def test_the_exponential_sum_keeps_its_bounds():
    x = np.concatenate([np.linspace(0, 1, 200_001), np.geomspace(1e-9, 1, 200_001)])
    ratio = x * sum(w * np.exp(-r * x) for r, w in zip(RATES, WEIGHTS, strict=True))
    assert ratio.max() <= 1 + OVERSHOOT
    assert ratio.max() >= 1 + 0.99 * OVERSHOOT, "the stated bound is needlessly wide"
    assert np.abs(ratio - 1)[x >= 1e-4].max() <= OVERSHOOT


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["blurred", "spiky", "sparse", "zero"])
def test_fft_maps_against_brute_force(kind, size):
    own, other = make_pairs(kind, size)
    assert (retained_saliency_map(own, other) - brute_force(own, other)).abs().max() < 2e-3


def test_the_map_bounds_the_true_value():
    for kind in ("blurred", "spiky", "sparse", "flat"):
        own, other = make_pairs(kind, (12, 17))
        bound = (retained_saliency_map(own, other) + OVERSHOOT) / (1 + OVERSHOOT)
        assert (brute_force(own, other) <= bound + 1e-6).all()


@pytest.mark.parametrize("size", [*SIZES, (33, 31)])
@pytest.mark.parametrize(
    "kind", ["blurred", "blob", "spiky", "sparse", "spikes on a floor", "flat", "zero", "gradient-like"]
)
def test_zero_regret(kind, size):
    own, other = make_pairs(kind, size)
    translation, _ = rearrange(own, other)
    assert regret(own, other, translation).max() <= 2 * TIE


def test_direction_of_the_translation():
    own, other = torch.zeros(1, 1, 5, 9), torch.zeros(1, 1, 5, 9)
    own[0, 0, :, :6] = 1 / 60
    own[0, 0, 4] = 1 / 9
    other[0, 0, 1, 2] = 0.5
    translation, _ = rearrange(own, other)
    dy, dx = translation[0].tolist()
    assert own[0, 0, 1 + dy, 2 + dx] == 0, "the partner's bright pixel moves onto an empty place"
    assert translate(other, translation)[0, 0, 1 + dy, 2 + dx] == 0.5


def test_ties_go_to_the_shortest_translation():
    flat = unit_mass(torch.ones(3, 1, 6, 8))
    translation, _ = rearrange(0.5 * flat, 0.5 * flat)
    assert translation.tolist() == [[0, 0]] * 3
    absent, _ = rearrange(torch.ones(1, 1, 6, 8) / 48, torch.zeros(1, 1, 6, 8))
    assert absent.tolist() == [[0, 0]]


def regret(own, other, translation):
    values = brute_force(own, other)
    height, width = own.shape[-2:]
    reached = values[torch.arange(len(own)), translation[:, 0] + height - 1, translation[:, 1] + width - 1]
    return values.amax((1, 2)) - reached


def test_certificate_is_sound_and_common():
    for kind in ("spiky", "blurred", "sparse", "gradient-like"):
        own, other = make_pairs(kind, (13, 11), batch=24)
        translation, certified = rearrange(own, other)
        assert (regret(own, other, translation)[certified] <= 2 * TIE).all()
        assert certified.float().mean() > 0.9


def test_certificate_is_withheld_where_the_bound_cannot_tell():
    almost_flat = unit_mass(1 + 1e-3 * torch.rand(8, 1, 13, 11))
    _, certified = rearrange(0.5 * almost_flat, 0.5 * almost_flat.flip(0))
    assert not certified.any()


def test_certificate_survives_a_spoilt_ranking(monkeypatch):
    own, other = make_pairs("blob", (13, 11), batch=24)
    noise = torch.rand(24, 25, 21)
    spoilt = "sage_timm.methods.sage_search.retained_saliency_map"
    monkeypatch.setattr(spoilt, lambda own, other: 1 - (1 - retained_saliency_map(own, other)) * noise)
    translation, certified = rearrange(own, other)
    wrong = regret(own, other, translation) > 2 * TIE
    assert wrong.any(), "overestimated values must mislead the ranking for this test to say anything"
    assert not (certified & wrong).any()


def test_candidates_limit_the_search():
    own, other = make_pairs("blurred", (6, 9))
    candidates = torch.rand(6, 11, 17) < 0.1
    candidates[:, 0, 0] = True
    candidates[0] = False
    candidates[0, 3, 4] = True
    translation, _ = rearrange(own, other, candidates)
    values = brute_force(own, other).masked_fill(~candidates, -1)
    rows, columns = translation[:, 0] + 5, translation[:, 1] + 8
    assert candidates[torch.arange(6), rows, columns].all()
    assert translation[0].tolist() == [3 - 5, 4 - 8]
    assert (values.amax((1, 2)) - values[torch.arange(6), rows, columns]).max() <= 2 * TIE


def test_retained_saliency_against_brute_force():
    own, other = make_pairs("sparse", (5, 8))
    every = torch.tensor(list(itertools.product(range(-4, 5), range(-7, 8)))).expand(6, -1, -1)
    exact = retained_saliency(own, other, every).view(6, 9, 15)
    assert (exact - brute_force(own, other)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_translate_against_the_reference(size):
    images = torch.arange(4 * 2 * size[0] * size[1], dtype=torch.float32).view(4, 2, *size) + 1
    translation = torch.tensor([[0, 0], [2, -3], [-1, 4], [-9, 9]])
    moved = translate(images, translation)
    for image, result, (dy, dx) in zip(images, moved, translation.tolist(), strict=True):
        assert np.array_equal(result, reference.translate(image.numpy(), dy, dx))


def test_more_translations_than_are_evaluated():
    assert TOP == 8
    own, other = make_pairs("blurred", (1, 2))
    assert rearrange(own, other)[0].shape == (6, 2), "a grid with fewer translations than TOP works too"
