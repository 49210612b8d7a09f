"""Plans: moving, summing and joining sources; boxes; what is retained."""

from dataclasses import replace

import pytest
import torch
from batches import blobs, make_batch

from sage_timm import MixPlan
from sage_timm.methods import create_method
from sage_timm.methods.boxes import box_plan
from sage_timm.tensors import translate


def test_a_plan_moves_tiles_and_sums_its_sources():
    images = torch.arange(2 * 4 * 6).float().view(2, 1, 4, 6)
    still = torch.zeros(2, 2, 2)
    exchanged = torch.tensor([[[-2, -2], [2, 2]], [[-3, 3], [-3, 3]]])  # each quarter shows the opposite one
    translation = torch.stack([torch.stack([still, exchanged]), torch.stack([exchanged, still])]).long()
    mask = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand(2, -1, 4, 6)
    plan = MixPlan(torch.tensor([[0, 1], [1, 0]]), mask, mask.mean((2, 3)), translation)
    mixed, rolled = plan.mix_images(images), images.roll((2, 3), (2, 3))
    assert torch.allclose(mixed[0], 0.25 * images[0] + 0.75 * rolled[1])
    assert torch.allclose(mixed[1], 0.25 * rolled[1] + 0.75 * images[0])
    assert torch.allclose(plan.mix_target(torch.eye(2)), torch.tensor([[0.25, 0.75], [0.75, 0.25]]))


def test_tiles_of_uneven_size_show_their_own_translation():
    image = torch.arange(7.0).view(1, 1, 1, 7)
    shown = translate(image, torch.tensor([0, 0, 0, 1, -1, 2]).view(1, 2, 1, 3))[0, 0, 0]
    assert shown.tolist() == [0.0, 0.0, 1.0, 4.0, 5.0, 3.0, 4.0]


@pytest.mark.parametrize("name", ["sage", "puzzlemix", "comixup", "mixup", "resizemix"])
def test_where_takes_each_output_from_its_plan(name):
    batch = make_batch(4, saliency=blobs(4, 12, 18))
    settings = {"t_eps": 0.0, "block_num": 4} if name == "puzzlemix" else {}
    mine, boxes = create_method(name, **settings)(batch), create_method("cutmix")(batch)
    assert mine.translation is None or mine.translation.any()
    both = mine.where(torch.tensor([True, False, False, True]), boxes)
    mixed, target = both.mix_images(batch.images), both.mix_target(torch.eye(4))
    kept = both.retained(batch.saliency)
    for i, plan in enumerate((mine, boxes, boxes, mine)):
        assert torch.allclose(mixed[i], plan.mix_images(batch.images)[i], atol=1e-6)
        assert torch.allclose(target[i], plan.mix_target(torch.eye(4))[i], atol=1e-6)
        alone = plan.retained(batch.saliency)[i]
        assert torch.allclose(kept[i][: len(alone)], alone, atol=1e-5)
    with pytest.raises(ValueError, match="`pairs` must be a plan in which nothing moves"):
        boxes.where(torch.ones(4).bool(), create_method("sage")(batch))


def test_retained_saliency_of_a_plan():
    saliency = torch.zeros(2, 1, 4, 6)
    saliency[0, 0, 1, 1], saliency[1, 0, 3, 5], saliency[1, 0, 0, 0] = 5.0, 3.0, 1.0
    box = box_plan(torch.tensor([[2, 4, 3, 6], [0, 2, 0, 3]]), torch.tensor([1, 0]), torch.ones(2), (4, 6))
    assert torch.allclose(box.retained(saliency), torch.tensor([[1.0, 0.75], [0.75, 1.0]]))
    moved = MixPlan.of_pairs(torch.tensor([1, 0]), torch.zeros(2, 1, 4, 6), torch.zeros(2))
    moved = replace(moved, translation=torch.tensor([[0, 0], [1, -1]]).view(1, 2, 2, 1, 1))
    assert torch.allclose(moved.retained(saliency), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


def test_labels_by_saliency_weigh_what_is_seen_of_each_object():
    """Two objects side by side, a mask that hides half of the partner's; where nothing is seen the weights stay."""
    saliency = torch.zeros(2, 1, 8, 8)
    saliency[0, :, 2:4, :4] = saliency[1, :, 2:4, 4:] = 5
    mask = torch.ones(2, 1, 8, 8)
    mask[0, :, :, 6:] = mask[1, :, :, :2] = 0
    plan = MixPlan.of_pairs(torch.tensor([1, 0]), mask, torch.tensor([0.75, 0.75]))
    weighted = plan.weighted_by(saliency)
    assert torch.allclose(weighted.lam, torch.tensor([[2 / 3, 1 / 3]] * 2))
    assert weighted.mask is plan.mask and torch.equal(plan.lam, torch.tensor([[0.75, 0.25]] * 2))
    hidden = MixPlan.of_pairs(torch.tensor([1, 0]), torch.zeros(2, 1, 8, 8), torch.tensor([0.3, 0.3]))
    hidden.mask[:] = 0
    assert torch.equal(hidden.weighted_by(saliency).lam, hidden.lam)


def test_a_source_of_weight_0_adds_nothing_to_the_labels():
    plan = MixPlan.of_pairs(torch.tensor([1, 0]), torch.ones(2, 1, 4, 4), torch.tensor([1.0, 0.5]))
    target = torch.tensor([[1.0, 0.0], [torch.nan, torch.inf]])
    mixed = plan.mix_target(target)
    assert mixed[0].tolist() == [1, 0] and mixed[1].isfinite().sum() == 0
