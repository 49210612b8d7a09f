"""GuidedMixup: pairs, masks and labels against loops, and pairs against the authors' greedy cycle."""

import itertools

import numpy as np
import pytest
import torch
from batches import blobs, make_batch
from torchvision.transforms.v2 import functional as transforms

from sage_timm import create_mixup
from sage_timm.methods import create_method, guidedmixup
from sage_timm.methods.guidedmixup import least_overlap


def distances(maps):
    return np.linalg.norm(maps.flatten(1).double()[:, None] - maps.flatten(1).double(), axis=2)


def total(maps, partner):
    return distances(maps)[np.arange(len(maps)), np.asarray(partner)].sum()


def greedy_cycle(maps):
    """The authors' pairing: from the farthest pair on, each with the farthest that is left, the last with the first."""
    distance, left = distances(maps), set(range(len(maps)))
    at = first = int(distance.argmax()) // len(maps)
    partner = np.arange(len(maps))
    left.discard(first)
    while left:
        partner[at] = max(left, key=lambda j: distance[at, j])
        at = int(partner[at])
        left.discard(at)
    partner[at] = first
    return partner


@pytest.mark.parametrize("count", [3, 8, 21, 57])
def test_pairs_are_a_permutation_without_twins(count):
    partner = least_overlap(torch.rand(count, 1, 6, 6) ** 4)
    assert sorted(partner.tolist()) == list(range(count))
    assert (partner[partner] != torch.arange(count)).all(), "no two mixes are the same image"
    assert (partner != torch.arange(count)).all()


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_pairs_are_the_best_of_those_half_a_round_ahead(count):
    for _ in range(4):
        maps = torch.rand(count, 1, 5, 7) ** 4
        allowed = [
            one
            for one in itertools.permutations(range(count))
            if all(0 < (j - i) % count <= count / 2 for i, j in enumerate(one))
            and all((j - i) % count < count / 2 or i < j for i, j in enumerate(one))
        ]
        assert total(maps, least_overlap(maps)) == pytest.approx(max(total(maps, one) for one in allowed))


def test_pairs_are_no_nearer_than_by_the_authors_greedy_cycle():
    ours, theirs, free = [], [], []
    for count in (16, 32, 64):
        for _ in range(4):
            maps = blobs(count, 16, 16)
            maps = maps / maps.sum((2, 3), keepdim=True)
            ours.append(total(maps, least_overlap(maps)) / count)
            theirs.append(total(maps, greedy_cycle(maps)) / count)
            free.append(distances(maps).sum() / (count * (count - 1)))
    assert np.mean(ours) > np.mean(theirs) > np.mean(free)


@pytest.mark.parametrize(("maps", "partner"), [(torch.rand(1, 1, 3, 3), [0]), (torch.ones(2, 1, 3, 3), [1, 0])])
def test_one_and_two_maps(maps, partner):
    assert least_overlap(maps).tolist() == partner


@pytest.mark.parametrize("size", [(24, 24), (15, 33)])
def test_mask_and_label_are_the_shares_of_blurred_maps(size):
    batch = make_batch(9, *size, saliency=blobs(9, *size))
    plan = create_method("guidedmixup")(batch)
    blurred = transforms.gaussian_blur(batch.saliency, [7, 7], [3.0, 3.0])
    blurred = blurred / blurred.sum((2, 3), keepdim=True)
    for i, j in enumerate(plan.source[:, 1].tolist()):
        mask = blurred[i, 0] / (blurred[i, 0] + blurred[j, 0])
        assert torch.allclose(plan.mask[i, 0], mask, atol=1e-4)
        assert float(plan.lam[i, 0]) == pytest.approx(float(mask.mean()), abs=1e-5)
        mixed = mask * batch.images[i] + (1 - mask) * batch.images[j]
        assert torch.allclose(plan.mix_images(batch.images)[i], mixed, atol=1e-4)
    assert torch.equal(plan.source[:, 0], torch.arange(9))
    assert torch.equal(plan.source[:, 1], least_overlap(blurred))


def test_the_blur_is_in_pixels_of_the_image_whatever_the_maps_size():
    images, coarse, fine = torch.rand(4, 3, 32, 40), torch.rand(4, 1, 8, 10) ** 4, torch.rand(4, 1, 64, 80) ** 4
    for maps in (coarse, fine):
        resized = torch.nn.functional.interpolate(maps, (32, 40), mode="bilinear", antialias=True)
        plans = [create_method("guidedmixup")(make_batch(4, images=images, saliency=s)) for s in (maps, resized)]
        assert torch.allclose(plans[0].mask, plans[1].mask, atol=1e-5)
    sharp = create_method("guidedmixup", blur=1)(make_batch(4, images=images, saliency=resized))
    assert (sharp.mask - plans[1].mask).abs().max() > 0.15


def test_large_batches_are_paired_in_parts(monkeypatch):
    monkeypatch.setattr(guidedmixup, "PART", 8)
    partner = create_method("guidedmixup")(make_batch(19, 8, 8)).source[:, 1]
    for start, stop in ((0, 7), (7, 13), (13, 19)):
        assert sorted(partner[start:stop].tolist()) == list(range(start, stop))


def test_flat_and_zero_maps_blend_evenly():
    for maps in (torch.zeros(5, 1, 4, 4), torch.ones(5, 1, 4, 4), torch.full((5, 1, 1, 1), 1e30)):
        plan = create_method("guidedmixup")(make_batch(5, 9, 12, saliency=maps))
        assert torch.allclose(plan.mask, torch.full_like(plan.mask, 0.5))
        assert (plan.source[:, 0] != plan.source[:, 1]).all()
    split = torch.zeros(3, 1, 12, 12)
    split[:, :, 0, 0] = 1.0
    plan = create_method("guidedmixup", blur=3)(make_batch(3, 12, 12, saliency=split))
    assert torch.allclose(plan.mask, torch.full_like(plan.mask, 0.5)), "where both are 0 as well"


def test_autocast_changes_no_plan():
    batch = make_batch(6, 20, 20, saliency=blobs(6, 20, 20))
    expected = create_method("guidedmixup")(batch)
    with torch.autocast("cpu", torch.bfloat16):
        plan = create_method("guidedmixup")(batch)
    assert torch.equal(plan.mask, expected.mask) and torch.equal(plan.source, expected.source)


def test_without_scipy_guidedmixup_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(ImportError, match=r'GuidedMixup needs SciPy, .* pip install ".\[methods\]"'):
        create_mixup("guidedmixup", saliency="spectral")
