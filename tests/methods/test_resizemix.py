"""ResizeMix: the whole partner in its box, and the plans' box for any method."""

from dataclasses import replace

import pytest
import reference
import torch
from batches import make_batch
from torchvision.transforms import v2

from sage_timm.methods import create_method
from sage_timm.tensors import shrink


def shrunk_slowly(image, box):
    return torch.from_numpy(reference.shrink(image.double().numpy(), *box.tolist()))


def boxes(count, height, width):
    high, wide = torch.randint(1, height + 1, (count,)), torch.randint(1, width + 1, (count,))
    top, left = (torch.rand(count) * (height + 1 - high)).long(), (torch.rand(count) * (width + 1 - wide)).long()
    return torch.stack([top, top + high, left, left + wide], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("size", [(23, 37), (9, 4), (1, 5)])
def test_a_shrunk_image_is_torchs_antialiased_resize(size, dtype):
    images, box = torch.randn(30, 4, *size).to(dtype), boxes(30, *size)
    shrunk = shrink(images, box)
    assert shrunk.dtype == torch.float64 if dtype == torch.float64 else shrunk.dtype == torch.float32
    for i in range(30):
        assert (shrunk[i] - shrunk_slowly(images[i], box[i])).abs().max() < 5e-5
        top, bottom, left, right = box[i].tolist()
        if size[1] > 1 and right - left > 1:  # torch 2.14 resizes to or from one column wrongly
            image = v2.functional.resize(images[i].double(), [bottom - top, right - left])
            assert (shrunk[i, :, top:bottom, left:right] - image).abs().max() < 5e-5
    whole = torch.tensor([[0, size[0], 0, size[1]]]).expand(30, -1)
    assert torch.equal(shrink(images, whole), images.to(shrunk.dtype)), "a box of the whole frame changes nothing"
    assert not shrink(images, torch.zeros(30, 4, dtype=torch.int64)).any(), "an empty box shows nothing"


def test_autocast_does_not_round_a_shrunk_image():
    images, box = torch.randn(3, 3, 20, 20), boxes(3, 20, 20)
    expected = shrink(images, box)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(shrink(images, box), expected)


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_whole_partner_is_shown_shrunk_and_labelled_by_its_area(lam):
    batch = make_batch(40, 30, 50, lam=lam, partner=torch.arange(40).roll(7))
    plan = create_method("resizemix")(batch)
    mixed = plan.mix_images(batch.images)
    scale = 0.1 + 0.7 * (1 - lam)
    for i in range(40):
        top, bottom, left, right = plan.box[i].tolist()
        assert 0 <= top < bottom <= 30 and 0 <= left < right <= 50
        assert abs(bottom - top - scale * 30) < 0.501 and abs(right - left - scale * 50) < 0.501
        assert float(plan.lam[i, 1]) == pytest.approx((bottom - top) * (right - left) / 1500, abs=1e-6)
        pasted = shrunk_slowly(batch.images[batch.partner[i]], plan.box[i])
        inside = torch.zeros(30, 50, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert (mixed[i] - pasted)[:, inside].abs().max() < 1e-5
        assert torch.equal(mixed[i][:, ~inside], batch.images[i][:, ~inside])
    kept = plan.retained(batch.saliency)
    assert torch.allclose(kept[:, 1], torch.ones(40)), "all of the partner is left"
    assert (kept[:, 0] < 1).all()


@pytest.mark.slow
def test_places_are_spread_over_all_that_fit_and_scales_uniform_for_alpha_1():
    batch = make_batch(4000, 10, 10, lam=0.5)
    plan = create_method("resizemix", scale_min=0.5, scale_max=0.7)(batch)
    assert sorted(plan.box[:, 0].unique().tolist()) == sorted(plan.box[:, 2].unique().tolist()) == [0, 1, 2, 3, 4]
    share = torch.stack([(plan.box[:, dim] == first).float().mean() for dim in (0, 2) for first in range(5)])
    assert share.min() > 0.15 and share.max() < 0.25
    assert len(plan.box[:, [0, 2]].unique(dim=0)) == 25, "each image has its own place"
    batch = make_batch(1000, 100, 100)
    batch.lam.copy_(torch.rand(1000))
    box = create_method("resizemix")(batch).box
    sides = (box[:, 1] - box[:, 0]).float()
    assert torch.allclose(sides.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1])), torch.linspace(10, 80, 5), atol=4)


def test_a_box_that_moves_is_shrunk_first():
    batch = make_batch(2, 12, 12)
    plan = create_method("resizemix")(batch)
    still = torch.zeros(2, 1, 2, 1, 1, dtype=torch.int64)
    moves = torch.cat([still, still + torch.tensor([1, -2]).view(1, 1, 2, 1, 1)], 1)
    plan = replace(plan, mask=torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(2, 2, 12, 12), translation=moves)
    shown = plan.mix_images(batch.images)
    assert torch.equal(shown[:, :, 1:, :-2], shrink(batch.images[batch.partner], plan.box)[:, :, :-1, 2:])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3)])
def test_tiny_images_get_a_pixel_at_least(size):
    batch = make_batch(5, *size, lam=1.0)
    plan = create_method("resizemix")(batch)
    assert torch.equal(plan.box[:, 1::2] - plan.box[:, ::2], torch.ones(5, 2, dtype=torch.int64))
    assert torch.allclose(plan.lam[:, 1], torch.full((5,), 1 / (size[0] * size[1])))
    assert plan.mix_images(batch.images).isfinite().all()
