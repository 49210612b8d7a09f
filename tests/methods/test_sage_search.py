import itertools

import numpy as np
import pytest
import reference
import torch

from sage_timm.methods.sage_search import TERMS, TIE, TOP, lost_saliency, rearrange, retained_saliency
from sage_timm.tensors import gaussian_blur, translate, unit_mass
from scripts.bench.certify import FINE_TERMS, certify, largest_error, number_of, retained_saliency_map

SIZES = [(1, 1), (1, 5), (2, 2), (7, 4), (9, 13), (16, 16), (21, 15)]


KINDS = {
    "blurred": lambda noise, side: gaussian_blur(noise, side / 16),
    "blob": lambda noise, side: gaussian_blur((noise > 0.97).float(), side / 12),
    "spiky": lambda noise, side: noise**20,
    "sparse": lambda noise, side: noise * (torch.rand_like(noise) > 0.9),
    "spikes on a floor": lambda noise, side: (noise > 1 - 2 / noise[0].numel()).float() + 3e-4,
    "flat": lambda noise, side: torch.ones_like(noise),
    "zero": lambda noise, side: torch.zeros_like(noise),
    "gradient-like": lambda noise, side: gaussian_blur(torch.randn_like(noise).abs(), side / 32),
}


def make_maps(kind, size, batch):
    return KINDS[kind](torch.rand(batch, 1, *size), max(size))


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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["blurred", "spiky", "sparse", "zero"])
@pytest.mark.parametrize(("terms", "error"), [(TERMS, 4e-2), (FINE_TERMS, 2e-4)])
def test_fft_maps_against_brute_force(terms, error, kind, size):
    own, other = make_pairs(kind, size)
    assert (retained_saliency_map(own, other, terms) - brute_force(own, other)).abs().max() < error


@pytest.mark.parametrize("terms", [1, 2, TERMS, FINE_TERMS])
@pytest.mark.parametrize("kind", ["blurred", "spiky", "sparse", "spikes on a floor", "flat", "zero"])
def test_no_value_is_wrong_by_more_than_the_bound(kind, terms):
    own, other = make_pairs(kind, (12, 17))
    error = (retained_saliency_map(own, other, terms) - brute_force(own, other)).abs().amax((1, 2))
    bound = largest_error(own, other, terms)
    assert (error <= bound + 1e-6).all()
    if kind == "blurred":
        assert (bound < 100 * error + 1e-6).all(), "the bound is needlessly wide"


@pytest.mark.parametrize("size", [*SIZES, (25, 23)])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_regret(kind, size):
    own, other = make_pairs(kind, size)
    translation = rearrange(own, other)
    assert regret(own, other, translation).max() <= 2 * TIE


def test_direction_of_the_translation():
    own, other = torch.zeros(1, 1, 5, 9), torch.zeros(1, 1, 5, 9)
    own[0, 0, :, :6] = 1 / 60
    own[0, 0, 4] = 1 / 9
    other[0, 0, 1, 2] = 0.5
    translation = rearrange(own, other)
    dy, dx = translation[0].tolist()
    assert own[0, 0, 1 + dy, 2 + dx] == 0, "the partner's bright pixel moves onto an empty place"
    assert translate(other, translation)[0, 0, 1 + dy, 2 + dx] == 0.5


def test_ties_go_to_the_shortest_translation():
    flat = unit_mass(torch.ones(3, 1, 6, 8))
    for other in (0.5 * flat, 0 * flat):
        assert rearrange(0.5 * flat, other).tolist() == [[0, 0]] * 3


def regret(own, other, translation):
    values = brute_force(own, other)
    height, width = own.shape[-2:]
    reached = values[torch.arange(len(own)), translation[:, 0] + height - 1, translation[:, 1] + width - 1]
    return values.amax((1, 2)) - reached


def test_certificate_is_sound_and_common():
    for kind in ("spiky", "blurred", "sparse", "gradient-like"):
        own, other = make_pairs(kind, (13, 11), batch=24)
        certified = certify(own, other, rearrange(own, other))
        assert certified.float().mean() > 0.9


def test_certificate_is_refused_to_the_second_best():
    own, other = make_pairs("blurred", (13, 11), batch=24)
    values = brute_force(own, other).flatten(1)
    index = torch.stack([(v < v.max() - 3 * TIE).mul(v).argmax() for v in values])
    second = torch.stack([index // 21 - 12, index % 21 - 10], 1)
    assert (regret(own, other, second) < 0.1).all()
    assert not certify(own, other, second).any()


def test_certificate_survives_a_spoilt_ranking(monkeypatch):
    """Values that are too high mislead the ranking, never the certificate."""
    own, other = make_pairs("blob", (13, 11), batch=24)
    noise, mass = torch.rand(24, 25 * 21), other.sum((2, 3)) / 4
    for module in ("sage_timm.methods.sage_search", "scripts.bench.certify"):
        monkeypatch.setattr(
            f"{module}.lost_saliency", lambda a, b, *terms: (mass + lost_saliency(a, b, *terms)) * noise - mass
        )
    translation = rearrange(own, other)
    wrong = regret(own, other, translation) > 2 * TIE
    assert wrong.any(), "overestimated values must mislead the ranking for this test to say anything"
    assert not (certify(own, other, translation) & wrong).any()


def test_a_batch_is_searched_in_parts(monkeypatch):
    """More maps than the cache holds, ranked and evaluated exactly: the translations of one by one, in their order."""
    monkeypatch.setattr("sage_timm.methods.sage_search.CACHED", 2**16)
    own, other = make_pairs("spiky", (24, 40), batch=18)
    assert 18 * 2 * (1 + TOP) * 24 * 40 > 2**16, "there must be more parts than one"
    alone = [rearrange(own[i : i + 1], other[i : i + 1]) for i in range(18)]
    assert torch.equal(rearrange(own, other), torch.cat(alone))
    whole = certify(own, other, rearrange(own, other))
    assert whole.all() and not certify(own, other, rearrange(own, other).flip(0)).any()


def test_retained_saliency_against_brute_force():
    own, other = make_pairs("sparse", (5, 8))
    every = torch.tensor(list(itertools.product(range(-4, 5), range(-7, 8)))).expand(6, -1, -1)
    exact = retained_saliency(own, other, number_of(every, own)).view(6, 9, 15)
    assert (exact - brute_force(own, other)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_translate_against_the_reference(size):
    """With a border of 0, which is repeated outside."""
    images = torch.arange(4 * 2 * size[0] * size[1], dtype=torch.float32).view(4, 2, *size) + 1
    translation, source = torch.tensor([[0, 0], [2, -3], [-1, 4], [-9, 9]]), torch.tensor([1, 0, 2, 2])
    moved = translate(torch.nn.functional.pad(images, (1, 1, 1, 1)), translation, source)[..., 1:-1, 1:-1]
    for i, result, (dy, dx) in zip(source, moved, translation.tolist(), strict=True):
        assert np.array_equal(result, reference.translate(images[i].numpy(), dy, dx))
