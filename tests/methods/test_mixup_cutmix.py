"""Mixup and CutMix: timm's own with the same seed; boxes."""

import numpy as np
import pytest
import timm.data
import torch
from batches import make_batch, seeded

from sage_timm import create_mixup
from sage_timm.methods import create_method
from sage_timm.methods.boxes import centred_box_plan


def test_paste_around_clips_and_weighs_the_clipped_box():
    centre = torch.tensor([[6, 9], [0, 0], [11, 17], [6, 9]])
    plan = centred_box_plan(centre, torch.arange(4).flip(0), torch.tensor([0.75, 0.75, 0.75, 1.0]), (12, 18))
    own = plan.mask[:, 0]
    expected = torch.ones(4, 12, 18)
    expected[0, 3:9, 5:14] = 0
    expected[1, :3, :5] = 0
    expected[2, 8:, 13:] = 0
    assert torch.equal(own, expected)
    assert torch.allclose(plan.lam[:, 0], expected.mean((1, 2)))


def test_cutmix_centres_are_spread_over_the_frame():
    batch = make_batch(400, 8, 8, lam=0.75)
    pasted = 1 - create_method("cutmix")(batch).mask[:, 0]
    share = pasted.mean(0)
    assert share.min() > 0.05 and share[3:5, 3:5].mean() == pytest.approx(0.25, abs=0.05)
    assert len(pasted.unique(dim=0)) > 30, "each image has its own box"


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("prob", [0.4, 1.0])
@pytest.mark.parametrize(
    ("name", "alphas", "timms"),
    [
        ("mixup", dict(mixup_alpha=0.8), dict(mixup_alpha=0.8)),
        ("mixup", dict(mixup_alpha=0.8, cutmix_alpha=0.6), dict(mixup_alpha=0.8, cutmix_alpha=0.6)),
        ("cutmix", dict(mixup_alpha=0.6), dict(mixup_alpha=0.0, cutmix_alpha=0.6)),
        ("cutmix", dict(mixup_alpha=0.6, cutmix_alpha=0.3), dict(mixup_alpha=0.0, cutmix_alpha=0.3)),
        ("cutmix", dict(mixup_alpha=0, cutmix_minmax=(0.2, 0.7)), dict(mixup_alpha=0.0, cutmix_minmax=(0.2, 0.7))),
    ],
)
def test_mixup_and_cutmix_are_timms_with_the_same_seed(name, alphas, timms, mode, prob):
    ours = create_mixup(name, **alphas, prob=prob, mode=mode, num_classes=7)
    theirs = timm.data.Mixup(**timms, prob=prob, mode=mode, num_classes=7)
    for seed in range(12):
        x, target = torch.randn(8, 3, 12, 10), torch.arange(8) % 7
        seeded(seed)
        expected_x, expected_target = theirs(x.clone(), target)
        next_draw = np.random.rand()
        seeded(seed)
        mixed, mixed_target = ours(x, target)
        assert np.random.rand() == next_draw, "as many draws as timm's"
        assert torch.allclose(mixed, expected_x, atol=1e-5)
        assert torch.allclose(mixed_target, expected_target, atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_no_saliency_is_made_where_none_is_used(name):
    x, target = torch.randn(4, 3, 8, 8), torch.arange(4)
    create_mixup(name, num_classes=4)(x, target)  # the default source would load weights
    mixup = create_mixup(name, num_classes=4, saliency=lambda *_: pytest.fail("called"))
    mixup(x, target)
    assert mixup.saliency is None


def test_a_cutmix_span_under_a_pixel_is_refused():
    mixup = create_mixup("cutmix", cutmix_minmax=(0.2, 0.22), num_classes=4)
    with pytest.raises(
        ValueError, match=r"`cutmix_minmax` must span at least a pixel, got \(0.2, 0.22\) for images of 8 x 9"
    ):
        mixup(torch.rand(4, 3, 8, 9), torch.arange(4))
    assert mixup(torch.rand(4, 3, 80, 90), torch.arange(4))[0].shape == (4, 3, 80, 90)
