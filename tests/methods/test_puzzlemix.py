"""Puzzle Mix: masks and transports against brute force."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from batches import bump, make_batch

from sage_timm import create_mixup
from sage_timm.methods import create_method, puzzlemix
from sage_timm.tensors import expand_tiles, translate, unit_mass

GOLDEN = Path(__file__).parent.parent / "golden"


def puzzle(**settings):
    return puzzlemix.PuzzleMix(**{"neigh_size": 100, **settings})


@pytest.mark.parametrize(
    ("grid", "n_labels", "count", "gamma"), [((2, 2), 4, 4, 1.0), ((3, 3), 2, 3, 1.0), ((2, 3), 3, 3, 0.0)]
)
def test_puzzle_mask_is_the_brute_force_minimum(grid, n_labels, count, gamma):
    method = puzzle(n_labels=n_labels, gamma=gamma, beta=6.0)
    images = torch.rand(count, 3, *grid).repeat_interleave(6, 2).repeat_interleave(6, 3)
    batch = make_batch(count, images=images, saliency=torch.rand(count, 1, *grid) ** 2)
    batch.lam.copy_(torch.linspace(0.1, 0.9, count))
    level = method.mask_levels(batch, grid)
    pooled = torch.nn.functional.adaptive_avg_pool2d(batch.images, grid).double().numpy()
    maps = unit_mass(batch.saliency)[:, 0].double().numpy()
    chosen = []
    for i, j in enumerate(batch.partner.tolist()):

        def energy(mask, i=i, j=j):
            images, own = (pooled[j], pooled[i]), (maps[j], maps[i])
            return reference.puzzle_energy(images, own, mask, float(batch.lam[i]), n_labels, 6.0, gamma, 0.2)

        labelings = itertools.product(range(n_labels), repeat=grid[0] * grid[1])
        least = min(energy(np.reshape(one, grid) / (n_labels - 1)) for one in labelings)
        assert energy(level[i] / (n_labels - 1)) == pytest.approx(least, abs=1e-7)
        chosen += level[i].ravel().tolist()
    assert len(set(chosen)) == n_labels, "the problems are no trivial ones"


def test_puzzle_mask_follows_the_saliency_and_its_mean_follows_lam():
    saliency = torch.full((2, 1, 8, 8), 1e-3)
    saliency[0, 0, :4], saliency[1, 0, 4:] = 1.0, 1.0
    plan = puzzle(block_num=4, t_eps=float("inf"), beta=0.1)(make_batch(2, 16, 16, saliency=saliency, lam=0.5))
    assert plan.mask[0, 0, :8].min() == 1 and plan.mask[0, 0, 8:].max() == 0
    assert torch.equal(plan.mask[1, 0], 1 - plan.mask[0, 0])
    low, high = (make_batch(40, 16, 16, lam, saliency=torch.ones(40, 1, 4, 4)) for lam in (0.05, 0.95))
    assert puzzle(eta=2.0)(low).lam[:, 0].mean() < 0.2 and puzzle(eta=2.0)(high).lam[:, 0].mean() > 0.8


def test_puzzle_seams_avoid_hard_edges():
    """With gamma the cut runs where the images agree."""
    images = torch.zeros(2, 3, 16, 16)
    images[1, :, :, 8:] = 1.0
    saliency = torch.full((2, 1, 4, 4), 1.0)
    saliency[0, 0, :, 0] += 0.3
    saliency[1, 0, :, 3] += 0.3
    batch = make_batch(2, lam=0.5, images=images, saliency=saliency)
    mask = puzzle(gamma=1.0, beta=4.0, n_labels=2).mask_levels(batch, (4, 4))[0]
    assert mask[:, :2].min() == 1, "the partner's black half looks like the own image: no reason to cut there"


@pytest.mark.parametrize("grid", [(2, 2), (2, 3)])
@pytest.mark.parametrize("t_eps", [0.0, 0.05, 0.8])
def test_transport_is_the_best_permutation(grid, t_eps):
    cells = grid[0] * grid[1]
    maps = unit_mass(torch.rand(8, 1, *grid) ** 4)[:, 0].double().numpy()
    wanted = torch.rand(8, *grid).numpy() > 0.5
    order = puzzlemix.transport(maps, wanted, t_eps)
    places = np.indices(grid).reshape(2, -1).T / (np.array(grid) - 1)
    moved = 0
    for i in range(8):

        def cost(one, i=i):
            one = np.array(one)
            far = ((places - places[one]) ** 2).sum(1)
            return (t_eps * far - maps[i].ravel()[one])[wanted[i].ravel()].sum()

        shown = wanted[i].ravel()
        assert len(set(order[i][shown])) == shown.sum(), "no block is shown twice"
        assert (order[i] == np.arange(cells))[~shown].all(), "what is hidden stays"
        assert cost(order[i]) == pytest.approx(min(map(cost, itertools.permutations(range(cells)))), abs=1e-12)
        assert cost(order[i]) <= cost(range(cells)) + 1e-12
        moved += (order[i] != np.arange(cells)).sum()
    assert moved > 0 or t_eps == 0.8


def test_puzzle_moves_salient_blocks_under_the_mask():
    images = torch.arange(2 * 8 * 8).float().view(2, 1, 8, 8).expand(-1, 3, -1, -1).contiguous()
    saliency = torch.full((2, 1, 8, 8), 1e-4)
    saliency[0, 0, 0:4, 4:8] = 1.0
    saliency[1, 0, 4:8, 0:4] = 1.0
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).expand(2, -1, -1)
    plan = puzzle(t_size=4, t_eps=0.1).moved(make_batch(2, images=images, saliency=saliency), mask)
    mixed = plan.mix_images(images)
    assert torch.equal(mixed[0, 0, :4, :4], images[0, 0, :4, 4:]), "the salient block, moved to the left"
    assert torch.equal(mixed[0, 0, 4:, 4:], images[1, 0, 4:, :4]), "the partner's, to the right"
    assert plan.retained(saliency)[0].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    fixed = puzzle(t_eps=float("inf")).moved(make_batch(2, images=images, saliency=saliency), mask)
    assert fixed.translation is None and fixed.retained(saliency)[0, 0] < 0.01


@pytest.mark.parametrize(("side", "blocks"), [(7, 2), (13, 4), (5, 5), (16, 16), (31, 8)])
def test_moved_blocks_stay_in_the_frame(side, blocks):
    order = torch.stack([torch.randperm(blocks * blocks) for _ in range(20)])
    moves = torch.from_numpy(puzzlemix.block_moves(order.numpy(), (blocks, blocks), (side, side)))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    shown = torch.stack([y, x]) - expand_tiles(moves, (side, side))
    assert shown.min() >= 0 and shown.max() < side
    if side % blocks == 0:
        image = torch.arange(side * side).float().view(1, 1, side, side).expand(20, -1, -1, -1)
        assert torch.equal(translate(image, moves).flatten(1).sort(1)[0], image.flatten(1)), "every pixel once"


def golden(name):
    return dict(np.load(GOLDEN / f"puzzlemix_{name}.npz"))


@pytest.mark.parametrize("name", ["n32_b4", "n32_b8", "n64_b8", "n64_b16"])
def test_the_mask_has_no_more_energy_than_the_authors(name):
    data = golden(f"mask_{name}")
    blocks, lam = int(data["block_num"]), float(data["lam"])
    settings = {name: data[name].item() for name in ("n_labels", "beta", "gamma", "eta", "neigh_size", "block_num")}
    images, saliency, partner = (torch.from_numpy(data[name]) for name in ("images", "saliency", "partner"))
    fields = dict(images=images, saliency=saliency[:, None], partner=partner.long(), std=tuple(data["std"].tolist()))
    batch = make_batch(len(images), lam=lam, **fields)

    def energy(mask):
        beta, ways = settings["beta"] / (16 * blocks), np.array([1, 2, 1])
        level = (2 * mask).round().astype(int)
        prior = -settings["eta"] / blocks**2 * np.log(ways[level] * lam**level * (1 - lam) ** (2 - level) + 1e-8)
        total = (mask * data["cost_own"] + (1 - mask) * data["cost_partner"] + prior).sum((1, 2))
        for axis, pair in ((1, data["pair_vertical"]), (2, data["pair_horizontal"])):
            total += ((pair + beta) * np.diff(mask, axis=axis) ** 2).sum((1, 2))
        return total

    assert energy(data["mask"]) == pytest.approx(data["energy"], abs=1e-7)
    ours = create_method("puzzlemix", **settings).mask_levels(batch, (blocks, blocks)) / 2
    assert (energy(ours) <= data["energy"] + 1e-7).all()
    plan = create_method("puzzlemix", t_eps=float("inf"), **settings)(batch)
    same = (ours == data["mask"]).all((1, 2))
    assert same.sum() >= 3, "most of the authors' masks are the minimum"
    assert plan.lam[same, 0].numpy() == pytest.approx(data["label_weight"][same], abs=1e-6)


@pytest.mark.parametrize("name", ["n32_b4", "n32_b8", "n64_b16"])
def test_the_transport_is_worth_at_least_as_much_as_the_authors(name):
    data = golden(f"transport_{name}")
    saliency, wanted, n = data["saliency"].astype(float), data["mask"] > 0, data["mask"].shape[-1]
    place = np.arange(n * n)

    def value(order):
        far = ((place // n - order // n) ** 2 + (place % n - order % n) ** 2) / (n - 1) ** 2
        gained = np.take_along_axis(saliency.reshape(len(order), -1), order, 1) - data["t_eps"] * far
        return (gained * wanted.reshape(len(order), -1)).sum(1)

    theirs = data["block_at"].reshape(len(saliency), -1)
    stay = np.broadcast_to(place, theirs.shape)
    assert value(np.where(theirs < 0, place, theirs)) == pytest.approx(data["value"], abs=1e-6)
    assert value(stay) == pytest.approx(data["value_unmoved"], abs=1e-6)
    order = puzzlemix.transport(saliency, wanted, float(data["t_eps"]))
    assert (value(order) >= data["value"] - 1e-6).all()
    shown = wanted.reshape(order.shape)
    moves, their_moves = ((o != place)[shown].sum() for o in (order, np.where(theirs < 0, place, theirs)))
    assert moves >= 0.9 * their_moves > 0


def test_moved_images_are_the_authors_where_the_transport_is():
    data = golden("transport_n32_b8")
    n, size = data["mask"].shape[-1], data["images"].shape[-2:]
    order = puzzlemix.transport(data["saliency"].astype(float), data["mask"] > 0, float(data["t_eps"]))
    shown = (data["mask"] > 0).reshape(order.shape)
    same = ((order == data["block_at"].reshape(order.shape)) | ~shown).all(1)
    assert same.sum() >= 4
    moves = torch.from_numpy(puzzlemix.block_moves(order, (n, n), size))
    moved = translate(torch.from_numpy(data["images"]), moves)
    visible = torch.from_numpy(data["mask"] > 0).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    assert torch.equal((moved * visible)[same], (torch.from_numpy(data["moved"]) * visible)[same])


@pytest.mark.parametrize(
    ("side", "tiles"), [(32, (8, 8, 8, 16)), (48, (2, 4, 8, 16)), (64, (2, 4, 8, 16)), (224, (2, 4, 8, 16))]
)
def test_the_blocks_that_move_are_the_authors_at_each_size(side, tiles):
    """4 px at 32 px (CIFAR), whole blocks of the mask above (Tiny-ImageNet, ImageNet)."""
    for blocks, count in zip((2, 4, 8, 16), tiles, strict=True):
        plan = create_method("puzzlemix", block_num=blocks)(make_batch(2, side, side))
        assert plan.translation.shape == (2, 2, 2, count, count)
    plan = create_method("puzzlemix", block_num=2, t_size=side // 16)(make_batch(2, side, side))
    assert plan.translation.shape == (2, 2, 2, 16, 16)


@pytest.mark.parametrize(("size", "neigh_size"), [((32, 40), 4), ((64, 64), 4), ((80, 64), 4), ((65, 224), 2)])
def test_the_neighbourhood_is_the_authors_at_each_size(size, neigh_size):
    """4 px up to 64 px of the shorter side, 2 px above."""
    batch = make_batch(4, *size)
    terms = {n: create_method("puzzlemix", neigh_size=n).energy(batch, (2, 2))[1] for n in (None, 2, 4)}
    assert np.array_equal(terms[None], terms[neigh_size])
    assert not np.array_equal(terms[2], terms[4])


@pytest.mark.parametrize(("module", "package"), [("maxflow", "PyMaxflow"), ("scipy", "SciPy")])
def test_without_its_libraries_puzzlemix_names_the_extra(module, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else object())
    with pytest.raises(ImportError, match=rf'PuzzleMix needs {package}, .* pip install ".\[methods\]"'):
        create_mixup("puzzlemix", saliency=bump)
    assert create_mixup("comixup", saliency=bump)
