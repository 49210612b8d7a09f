from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from sage_timm.methods.sage import sage
from sage_timm.methods.sage_search import retained_saliency
from sage_timm.tensors import unit_mass
from scripts.bench.certify import number_of

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("[a-d]_*.npz"))
assert len(GOLDEN) == 4


def moves(plan):
    return plan.translation[:, 1, :, 0, 0]


def all_images(batch, height, width, channels=3):
    return torch.rand(batch, channels, height, width)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_parity_with_the_authors_code(path):
    data = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    batch, _, size, _ = data["images"].shape
    ratio, partner = data["alpha"].float().expand(batch), data["partner"].long()
    share, maps, tried = ratio.view(-1, 1, 1, 1), unit_mass(data["saliency"]), data["translations"].long()
    own, other = share * maps, (1 - share) * maps[partner]
    retained = retained_saliency(own, other, number_of(tried, maps).expand(batch, -1))
    plan = sage(data["saliency"], partner, ratio, (size, size), tried[retained.argmax(1)])
    assert (plan.mix_images(data["images"]) - data["mixed"]).abs().max() < 5e-7
    assert (plan.lam[:, 0] - data["lam"]).abs().max() < 5e-7


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (9, 4)])
def test_against_the_reference(size):
    images, saliency = all_images(5, *size), torch.rand(5, 1, *size) ** 3
    saliency[1] = 0
    saliency[2] *= torch.rand_like(saliency[2]) > 0.7
    partner, ratio = torch.tensor([4, 2, 1, 0, 3]), torch.tensor([0.3, 0.5, 0.7, 0.0, 1.0])
    plan = sage(saliency, partner, ratio, size)
    mixed = plan.mix_images(images)
    for i, j in enumerate(partner.tolist()):
        a, b = saliency[i, 0].double().numpy(), saliency[j, 0].double().numpy()
        share = float(ratio[i])
        own, other = share * reference.unit_mass(a), (1 - share) * reference.unit_mass(b)
        best = reference.retained_saliency(own, other, *reference.rearrange(own, other))
        chosen = reference.retained_saliency(own, other, *moves(plan)[i].tolist())
        assert chosen == pytest.approx(best, abs=2e-6)
        expected, lam, _ = reference.sage(
            images[i].double().numpy(), images[j].double().numpy(), a, b, share, [tuple(moves(plan)[i].tolist())]
        )
        assert np.abs(mixed[i].numpy() - expected).max() < 1e-5
        assert float(plan.lam[i, 0]) == pytest.approx(lam, abs=1e-5)


def test_mask_where_maps_are_zero():
    maps = torch.zeros(2, 1, 2, 4)
    maps[0, 0, 0, 0], maps[1, 0, 0, 1] = 1.0, 1.0
    ratio, move = torch.tensor([0.25, 0.0]), torch.tensor([[0, 1], [0, 0]])
    masks = sage(maps, torch.tensor([1, 0]), ratio, (2, 4), move).mask[:, 0]
    assert torch.allclose(masks[0], torch.tensor([[1, 0.25, 0, 0.25], [1, 0.25, 0.25, 0.25]]))
    assert masks[1].max() < 1e-6, "a ratio of 0 shows the partner"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_uniform_map_or_one_of_zeros_makes_it_mixup(value):
    images, ratio = all_images(4, 6, 5), torch.tensor([0.0, 0.3, 0.5, 1.0])
    plan = sage(torch.full((4, 1, 6, 5), value), torch.arange(3, -1, -1), ratio, (6, 5))
    share = ratio.view(-1, 1, 1, 1)
    assert torch.allclose(plan.mask[:, :1], share.expand(-1, -1, 6, 5))
    assert torch.allclose(plan.mix_images(images), share * images + (1 - share) * images.flip(0), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_a_map_does_not_matter(scale):
    saliency = torch.rand(2, 1, 7, 5)
    partner, ratio = torch.tensor([1, 0]), torch.tensor([0.4, 0.4])
    plan, scaled = (sage(s, partner, ratio, (7, 5)) for s in (saliency, saliency * scale))
    assert torch.allclose(plan.mask[:, :1], scaled.mask[:, :1], atol=1e-5)


def test_unmixed_images_stay_as_they_are():
    images = all_images(3, 9, 7)
    plan = sage(torch.rand(3, 1, 9, 7), torch.tensor([2, 1, 0]), torch.ones(3), (9, 7))
    assert torch.equal(plan.mix_images(images), images)
    assert torch.equal(plan.lam[:, 0], torch.ones(3))


@pytest.mark.parametrize(("grid", "size"), [((5, 7), (20, 42)), ((3, 3), (7, 10))])
def test_a_coarse_grid_moves_whole_cells_rounded_to_pixels(grid, size):
    saliency = torch.rand(4, 1, *grid) ** 4
    plan, on_grid = (sage(saliency, torch.arange(3, -1, -1), torch.full((4,), 0.4), one) for one in (size, grid))
    assert moves(on_grid).any()
    cell = torch.tensor(size) / torch.tensor(grid)
    assert torch.equal(moves(plan), (moves(on_grid) * cell).round().long())
    assert plan.mask[:, :1].shape == (4, 1, *size)
    assert torch.allclose(plan.lam[:, 0], plan.mask[:, :1].mean((1, 2, 3)))


def test_a_grid_finer_than_the_image_is_averaged():
    fine = torch.rand(2, 1, 12, 20)
    coarse = torch.nn.functional.avg_pool2d(fine, (3, 4))
    plans = [sage(s, torch.tensor([1, 0]), torch.full((2,), 0.4), (4, 5)) for s in (fine, coarse)]
    assert torch.allclose(plans[0].mask[:, :1], plans[1].mask[:, :1], atol=1e-6)


def test_mix_target_takes_class_weights_alone():
    plan = sage(torch.rand(2, 1, 4, 6), torch.tensor([1, 0]), torch.full((2,), 0.4), (4, 6))
    assert plan.mix_target(torch.eye(2, dtype=torch.float64)).dtype == torch.float32
    with pytest.raises(ValueError, match="`target` must hold class weights"):
        plan.mix_target(torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="`images` must be floating point"):
        plan.mix_images(torch.zeros(2, 3, 4, 6, dtype=torch.uint8))
