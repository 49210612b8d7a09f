"""The methods next to SAGE: plans against oracles, and the surface that all of them share."""

import inspect
import itertools
import pickle

import numpy as np
import pytest
import reference
import timm.data
import torch

from sage_timm import MethodMixup, MixPlan, SageMixup, create_mixup
from sage_timm.methods import METHODS, comixup, create_method, puzzlemix
from sage_timm.methods.boxes import box_plan, centred_box_plan
from sage_timm.methods.sage import sage
from sage_timm.methods.saliencymix import peak
from sage_timm.plan import Batch
from sage_timm.tensors import translate, unit_mass


def bump(images, target):
    return images.float().mean(1, keepdim=True).abs() ** 4


def blobs(count, height, width):
    """A few salient spots in every map."""
    return torch.nn.functional.interpolate(torch.rand(count, 1, 6, 6) ** 6, (height, width), mode="bilinear")


def make_batch(count=6, height=12, width=18, lam=0.4, **changes):
    images = torch.rand(count, 3, height, width)
    fields = dict(
        images=images, saliency=bump(images, None), partner=torch.arange(count).flip(0), lam=torch.full((count,), lam)
    )
    return Batch(**{**fields, "alpha": 1.0, "std": (1.0,), **changes})


def seeded(seed=0):
    np.random.seed(seed)
    torch.manual_seed(seed)


# Plans


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("count", "size"), [(1, (5, 7)), (2, (1, 1)), (5, (13, 9)), (23, (6, 40)), (4, (33, 2))])
def test_plans_keep_what_a_plan_promises(name, count, size):
    batch = make_batch(count, *size)
    for _ in range(4):
        plan = create_method(name)(batch)
        sources = plan.source.shape[1]
        assert plan.source.dtype == torch.int64 and plan.source.shape == (count, sources)
        assert plan.mask.shape == (count, sources, *size) and plan.mask.dtype == torch.float32
        assert plan.mask.min() >= 0 and torch.allclose(plan.mask.sum(1), torch.ones(count, *size), atol=1e-6)
        assert torch.allclose(plan.lam, plan.mask.mean((2, 3)), atol=1e-6), "label weight is the mean of the mask"
        if name != "comixup":
            assert torch.equal(plan.source, torch.stack([torch.arange(count), batch.partner], 1))
        assert plan.mix_images(batch.images).isfinite().all()
        kept = plan.retained(batch.saliency)
        assert kept.min() >= 0 and kept.max() <= 1 + 1e-4


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


def test_where_takes_each_output_from_its_plan():
    batch = make_batch(4, saliency=blobs(4, 12, 18))
    settings = {"puzzlemix": {"t_eps": 0.0, "block_num": 4}}
    plans = [create_method(n, **settings.get(n, {}))(batch) for n in ("sage", "puzzlemix", "comixup", "cutmix")]
    assert plans[0].translation.any() and plans[1].translation.any()
    condition = torch.tensor([True, False, False, True])
    for one, other in itertools.permutations(plans, 2):
        both = one.where(condition, other)
        mixed, target = both.mix_images(batch.images), both.mix_target(torch.eye(4))
        for i, plan in enumerate((one, other, other, one)):
            assert torch.allclose(mixed[i], plan.mix_images(batch.images)[i], atol=1e-6)
            assert torch.allclose(target[i], plan.mix_target(torch.eye(4))[i], atol=1e-6)


def test_retained_saliency_of_a_plan():
    saliency = torch.zeros(2, 1, 4, 6)
    saliency[0, 0, 1, 1], saliency[1, 0, 3, 5], saliency[1, 0, 0, 0] = 5.0, 3.0, 1.0
    box = box_plan(torch.tensor([[2, 4, 3, 6], [0, 2, 0, 3]]), torch.tensor([1, 0]), torch.ones(2), (4, 6))
    assert torch.allclose(box.retained(saliency), torch.tensor([[1.0, 0.75], [0.75, 1.0]]))
    moved = MixPlan.of_pairs(
        torch.tensor([1, 0]),
        torch.zeros(2, 1, 4, 6),
        torch.zeros(2),
        torch.tensor([[0, 0], [1, -1]]).view(1, 2, 2, 1, 1),
    )
    assert torch.allclose(moved.retained(saliency), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))


# CutMix and SaliencyMix


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


def test_saliencymix_box_lies_around_the_one_bright_pixel_of_the_partner():
    saliency = torch.zeros(2, 1, 12, 18)
    saliency[0, 0, 4, 11], saliency[1, 0, 10, 2] = 1.0, 2.0
    plan = create_method("saliencymix")(make_batch(2, saliency=saliency, lam=0.75))
    first, second = (1 - plan.mask[:, 0]).nonzero().split([5 * 7, 6 * 9])
    assert first[:, 0].unique().tolist() == [0] and second[:, 0].unique().tolist() == [1]
    assert (first[:, 1].min(), first[:, 1].max(), first[:, 2].min(), first[:, 2].max()) == (7, 11, 0, 6)
    assert (second[:, 1].min(), second[:, 1].max(), second[:, 2].min(), second[:, 2].max()) == (1, 6, 7, 15)


def test_peak_of_coarse_and_flat_maps():
    maps = torch.zeros(3, 1, 3, 4)
    maps[0, 0, 2, 0], maps[1, 0, 0, 3] = 1.0, 1.0
    assert peak(maps, (30, 80)).tolist() == [[25, 10], [5, 70], [15, 30]]


def test_cutmix_centres_are_spread_over_the_frame():
    batch = make_batch(400, 8, 8, lam=0.75)
    pasted = 1 - create_method("cutmix")(batch).mask[:, 0]
    share = pasted.mean(0)
    assert share.min() > 0.05 and share[3:5, 3:5].mean() == pytest.approx(0.25, abs=0.05)
    assert len(pasted.unique(dim=0)) > 30, "each image has its own box"


# Puzzle Mix


def puzzle(**settings):
    return puzzlemix.PuzzleMix(**{"neigh_size": 100, **settings})


@pytest.mark.parametrize(
    ("grid", "n_labels", "count"), [((2, 2), 2, 6), ((2, 2), 3, 6), ((2, 2), 4, 4), ((3, 3), 2, 4), ((2, 3), 3, 4)]
)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
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
    assert (
        plan.mask[0, 0, :8].min() == 1
        and plan.mask[0, 0, 8:].max() == 0
        and torch.equal(plan.mask[1, 0], 1 - plan.mask[0, 0])
    )
    flat = make_batch(40, 16, 16, saliency=torch.ones(40, 1, 4, 4))
    means = [
        puzzle(eta=2.0)(Batch(flat.images, flat.saliency, flat.partner, flat.lam * 0 + lam, 1.0, (1.0,)))
        .lam[:, 0]
        .mean()
        for lam in (0.05, 0.95)
    ]
    assert means[0] < 0.2 and means[1] > 0.8


def test_puzzle_seams_avoid_hard_edges():
    """With gamma the cut runs where the images agree."""
    images = torch.zeros(2, 3, 16, 16)
    images[1, :, :, 8:] = 1.0
    images[1, :, :, :8] = 0.0
    saliency = torch.full((2, 1, 4, 4), 1.0)
    saliency[0, 0, :, 0] += 0.3
    saliency[1, 0, :, 3] += 0.3
    batch = Batch(images, saliency, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), 1.0, (1.0,))
    mask = puzzle(gamma=1.0, beta=4.0, n_labels=2).mask_levels(batch, (4, 4))[0]
    assert mask[:, :2].min() == 1, "the partner's black half looks like the own image: no reason to cut there"


@pytest.mark.parametrize("grid", [(2, 2), (2, 3)])
@pytest.mark.parametrize("t_eps", [0.0, 0.05, 0.8])
def test_transport_is_the_best_permutation(grid, t_eps):
    cells = grid[0] * grid[1]
    maps = unit_mass(torch.rand(8, 1, *grid) ** 4)[:, 0].double().numpy()
    wanted = torch.rand(8, *grid).numpy() > 0.5
    order = puzzlemix.transport(maps, wanted, t_eps)
    places = np.array(
        [(y / max(1, grid[0] - 1), x / max(1, grid[1] - 1)) for y in range(grid[0]) for x in range(grid[1])]
    )
    moved = 0
    for i in range(8):

        def cost(one, i=i):
            one = np.array(one)
            far = ((places - places[one]) ** 2).sum()
            return t_eps * far - maps[i].ravel()[one][wanted[i].ravel()].sum()

        assert sorted(order[i]) == list(range(cells))
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
    moves = puzzlemix.block_moves(order, (blocks, blocks), (side, side))
    assert (translate(torch.ones(20, 1, side, side), moves) == 1).all()
    if side % blocks == 0:
        image = torch.arange(side * side).float().view(1, 1, side, side).expand(20, -1, -1, -1)
        assert torch.equal(translate(image, moves).flatten(1).sort(1)[0], image.flatten(1)), "every pixel once"


def test_the_transport_blocks_are_the_authors_at_32_pixels():
    for blocks, tiles in ((2, 8), (4, 8), (8, 8), (16, 16)):
        plan = create_method("puzzlemix", block_num=blocks)(make_batch(2, 32, 32))
        assert plan.translation.shape == (2, 2, 2, tiles, tiles)


# Co-Mixup


def comixup_part(count, inputs, grid, thres=0.83):
    cost = np.random.rand(count, inputs, *grid) ** 3
    cost = -cost / cost.sum((2, 3), keepdims=True)
    blocks = grid[0] * grid[1]
    eye = np.broadcast_to(np.eye(inputs), (count, inputs, inputs))
    return comixup.Part(cost, np.ones((count, inputs), bool), eye, 0.32 / blocks, 1 / blocks, thres * blocks)


def random_shares(count, inputs, grid):
    return np.eye(inputs)[np.random.randint(inputs, size=(count, inputs, *grid))]


def test_comixup_energy_against_the_reference():
    part = comixup_part(5, 4, (2, 3), thres=0.5)
    part = comixup.Part(part.cost, part.present, np.random.rand(5, 4, 4), part.beta, part.gamma, part.limit)
    shares = np.random.dirichlet(np.ones(4), (5, 4, 2, 3))
    expected = [
        reference.comixup_energy(part.cost[p], shares[p], part.compatibility[p], part.beta, part.gamma, part.limit)
        for p in range(5)
    ]
    assert part.energy(shares) == pytest.approx(expected)


def test_comixup_matches_brute_force_on_2_inputs_of_2x2_blocks():
    """Equal to the best of all whole-block labelings or better, and to the best with halves in 39 of 40 problems."""
    grid, count = (2, 2), 40
    part = comixup_part(count, 2, grid)
    shares = np.array([[1, 0], [0, 1], [0.5, 0.5]])
    every = shares[np.array(list(itertools.product(range(3), repeat=8)))].reshape(-1, 2, *grid, 2)
    whole = (every != 0.5).all((1, 2, 3, 4))
    eye = np.broadcast_to(np.eye(2), (len(every), 2, 2))
    present = np.ones((len(every), 2), bool)
    ours = np.min([part.energy(part.solve(random_shares(count, 2, grid), 4)) for _ in range(10)], 0)
    exact = 0
    for p in range(count):
        cost = np.broadcast_to(part.cost[p], (len(every), 2, *grid))
        energies = comixup.Part(cost, present, eye, part.beta, part.gamma, part.limit).energy(every)
        assert energies.min() - 1e-9 <= ours[p] <= energies[whole].min() + 1e-9
        exact += ours[p] < energies.min() + 1e-9
    assert exact >= 39


@pytest.mark.parametrize("inputs", [2, 5, 20])
def test_comixup_is_no_worse_than_random_assignment(inputs):
    part = comixup_part(6, inputs, (4, 4))
    start = random_shares(6, inputs, (4, 4))
    solved = part.solve(start, 4)
    assert (part.energy(solved) <= part.energy(start)).all()
    assert part.energy(solved).mean() < part.energy(start).mean() - inputs / 4
    assert np.allclose(solved.sum(-1), 1) and set(np.unique(solved)) <= {0, 0.5, 1}


def test_comixup_keeps_its_best_round():
    part = comixup_part(12, 8, (4, 4))
    start = random_shares(12, 8, (4, 4))
    energies = np.stack([part.energy(part.solve(start, rounds)) for rounds in range(1, 6)])
    assert (np.diff(energies, axis=0) <= 1e-12).all()


def grid_energy(unary, pairwise, labels):
    energy = sum(unary[y, x, labels[y, x]] for y in range(labels.shape[0]) for x in range(labels.shape[1]))
    return energy + pairwise[labels[1:], labels[:-1]].sum() + pairwise[labels[:, 1:], labels[:, :-1]].sum()


def test_lines_are_labelled_exactly():
    unary, pairwise = np.random.rand(3, 2, 4, 5), np.random.rand(2, 5, 5)
    labels = comixup.best_lines(unary, pairwise)
    for line, p in itertools.product(range(3), range(2)):

        def cost(one, line=line, p=p):
            steps = sum(pairwise[p, one[t], one[t + 1]] for t in range(3))
            return sum(unary[line, p, t, one[t]] for t in range(4)) + steps

        assert cost(labels[line, p]) == pytest.approx(min(map(cost, itertools.product(range(5), repeat=4))))


def test_a_grid_is_labelled_as_well_as_by_graph_cuts():
    """Co-Mixup's solver against the authors' kind, alpha-beta swap, on the energies it meets: lower on average."""
    swap = pytest.importorskip("maxflow.fastmin").abswap_grid
    part = comixup_part(4, 8, (4, 4))
    seen, solver = [], comixup.label_grid

    def noted(unary, pairwise):
        labels = solver(unary, pairwise)
        seen.extend(zip(unary, pairwise, labels, strict=True))
        return labels

    comixup.label_grid = noted
    try:
        part.solve(random_shares(4, 8, (4, 4)), 4)
    finally:
        comixup.label_grid = solver
    ours, theirs = [], []
    for unary, pairwise, labels in seen[::4]:
        ours.append(grid_energy(unary, pairwise, labels))
        theirs.append(grid_energy(unary, pairwise, swap(np.ascontiguousarray(unary), np.ascontiguousarray(pairwise))))
    print(f"mean energy: {np.mean(ours):.5f} by lines, {np.mean(theirs):.5f} by alpha-beta swap, {len(ours)} grids")
    assert np.mean(ours) <= np.mean(theirs) + 1e-6
    assert np.mean(np.array(ours) > np.array(theirs) + 1e-9) < 0.15


def test_comixup_parts_are_of_nearly_equal_size_and_do_not_mix():
    batch = make_batch(47, 8, 8)
    plan = create_method("comixup", part=20, niter=1)(batch)
    used = plan.lam > 0
    for start, stop in ((0, 16), (16, 32), (32, 47)):
        sources = plan.source[start:stop][used[start:stop]]
        assert sources.min() >= start and sources.max() < stop
    assert (plan.lam[:, :-1] >= plan.lam[:, 1:] - 1e-6).all(), "sources come in order of their weight"


def test_comixup_shows_salient_blocks_of_several_images():
    saliency = torch.full((4, 1, 4, 4), 1e-3)
    for i in range(4):
        saliency[i, 0, 2 * (i // 2) : 2 * (i // 2) + 2, 2 * (i % 2) : 2 * (i % 2) + 2] = 1.0
    plan = create_method("comixup", eta=0.0, beta=0.05)(make_batch(4, 16, 16, saliency=saliency))
    kept = (plan.retained(saliency) * (plan.lam > 0)).sum(1)
    assert (plan.lam > 0.2).sum() >= 10 and kept.mean() > 2, "quarters from the images that are salient there"


def test_comixup_diversity_spreads_the_inputs():
    """Without gamma every output shows the one image whose prior is best; with it none is shown too often."""
    flat = make_batch(8, 16, 16, saliency=torch.ones(8, 1, 4, 4), alpha=0.3)
    shown = {}
    for gamma in (0.0, 1.0):
        torch.manual_seed(0)
        plan = create_method("comixup", gamma=gamma, eta=1.0)(flat)
        shown[gamma] = plan.mix_target(torch.eye(8)).sum(0).max()
    assert shown[0.0] > 4 and shown[1.0] < 2.5


# The surface


COMMON = dict(num_classes=7, saliency=bump)


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


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_every_method_has_the_same_surface(name, mode):
    mixup = create_mixup(name, mode=mode, cutmix_alpha=0.5, prob=0.8, **COMMON)
    assert isinstance(mixup, timm.data.Mixup) and isinstance(mixup, MethodMixup)
    assert isinstance(mixup, SageMixup) == (name == "sage")
    for count in (2, 5, 8):
        x, target = torch.randn(count, 3, 14, 11), torch.randint(7, (count,))
        before = x.clone()
        for _ in range(4):
            mixed, weights = mixup(x, target)
            assert torch.equal(x, before) and mixed.shape == x.shape and mixed.dtype == x.dtype
            assert weights.shape == (count, 7) and torch.allclose(weights.sum(1), torch.ones(count), atol=1e-5)
    mixup.mixup_enabled = False
    mixed, weights = mixup(x, target)
    assert mixed is x and weights.max() == pytest.approx(0.9 + 0.1 / 7)
    copy = pickle.loads(pickle.dumps(create_mixup(name, **{**COMMON, "saliency": "spectral"})))
    assert copy(x, target)[0].shape == x.shape
    with pytest.raises(ValueError, match="`target` must hold labels in"):
        create_mixup(name, **COMMON)(x, target + 7)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_zero_maps_and_odd_batches(name, dtype):
    x = torch.randn(7, 3, 16, 24, dtype=dtype).contiguous(memory_format=torch.channels_last)
    target = torch.arange(7) % 5
    for maps in (
        torch.zeros(7, 1, 4, 6),
        torch.ones(7, 1, 1, 1),
        torch.rand(7, 1, 40, 3),
        torch.eye(7).view(7, 1, 1, 7),
    ):
        mixup = create_mixup(name, num_classes=5, saliency=lambda *_, maps=maps: maps)
        mixup.planner.checks._warned = True
        for _ in range(3):
            mixed, weights = mixup(x, target)
            assert mixed.dtype == dtype and mixed.isfinite().all()
            assert mixed.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(weights.sum(1), torch.ones(7))


@pytest.mark.parametrize("name", METHODS)
def test_draws_follow_the_seeds(name):
    x, target = torch.randn(8, 3, 16, 16), torch.arange(8) % 7
    mixup = create_mixup(name, **COMMON, **({"search_fraction": 0.3} if name == "sage" else {}))
    results = []
    for seed in (0, 0, 1):
        seeded(seed)
        results.append(mixup(x, target)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", METHODS)
def test_images_that_are_not_drawn_stay(name):
    x, target = torch.randn(64, 3, 8, 8), torch.arange(64)
    mixup = create_mixup(name, mode="elem", prob=0.5, num_classes=64, label_smoothing=0, saliency=bump)
    mixed, weights = mixup(x, target)
    own = weights.diagonal() == 1
    assert 12 < own.sum() < 52
    assert torch.equal(mixed[own], x[own])


def test_nan_images_reach_no_graph_cut():
    x = torch.randn(4, 3, 16, 16)
    x[0] = float("nan")
    mixed, weights = create_mixup("puzzlemix", num_classes=4, saliency=lambda i, t: torch.rand(4, 1, 8, 8))(
        x, torch.arange(4)
    )
    assert weights.isfinite().all() and mixed[1:3].isfinite().all()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_saliency])
def test_saliency_matters_where_a_method_uses_it(name):
    batch = make_batch(8, 16, 16, saliency=blobs(8, 16, 16))
    results = []
    for saliency in (batch.saliency, batch.saliency.flip(-1), batch.saliency):
        torch.manual_seed(0)
        plan = create_method(name)(make_batch(8, images=batch.images, saliency=saliency))
        results.append(plan.mix_images(batch.images))
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_no_saliency_is_made_where_none_is_used(name):
    x, target = torch.randn(4, 3, 8, 8), torch.arange(4)
    create_mixup(name, num_classes=4)(x, target)  # the default source would load weights
    mixup = create_mixup(name, num_classes=4, saliency=lambda *_: pytest.fail("called"))
    mixup(x, target)
    assert mixup.saliency is None


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_shows_in_the_result(name):
    other = dict(
        lam_max=0.2, search_fraction=0.1, n_labels=2, beta=9.0, gamma=0.01, eta=5.0, neigh_size=1, t_eps=0.0,
        t_size=1, block_num=1, part=3, thres=0.05, omega=0.9, niter=1,
    )  # fmt: skip
    batch = make_batch(8, 24, 24, saliency=blobs(8, 24, 24))

    def mixed(**settings):
        torch.manual_seed(0)
        fixed = {} if name != "puzzlemix" else {"block_num": 8}
        return create_method(name, **{**fixed, **settings})(batch).mix_images(batch.images)

    settings = [field for field in inspect.signature(METHODS[name]).parameters]
    for setting in settings:
        assert not torch.equal(mixed(), mixed(**{setting: other[setting]})), setting
        assert setting in METHODS[name].__doc__, setting


def test_authors_settings_are_the_defaults():
    assert create_mixup("comixup", saliency=bump).mixup_alpha == 2.0
    assert create_mixup("puzzlemix", saliency=bump).mixup_alpha == 1.0
    assert create_mixup("comixup", mixup_alpha=0.7, saliency=bump).mixup_alpha == 0.7
    method = create_method("puzzlemix")
    assert (method.n_labels, method.beta, method.gamma, method.eta) == (3, 1.2, 0.5, 0.2)
    assert (method.neigh_size, method.t_eps) == (4, 0.8)
    method = create_method("comixup")
    assert (method.part, method.block_num, method.niter) == (20, 4, 4)
    assert (method.beta, method.gamma, method.thres, method.eta, method.omega) == (0.32, 1.0, 0.83, 0.05, 0.001)


def test_the_dirichlet_of_comixup_has_the_mixups_alpha():
    x, target = torch.randn(8, 3, 16, 16), torch.arange(8)
    weights = {}
    for alpha in (0.05, 50.0):
        seeded()
        mixup = create_mixup("comixup", mixup_alpha=alpha, eta=3.0, gamma=0.0, num_classes=8, saliency=bump)
        weights[alpha] = mixup(x, target)[1].sum(0).max()
    assert weights[0.05] > weights[50.0]


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
        ("puzzlemix", {"mixup_alpha": 0}, ValueError, "`mixup_alpha` must be > 0 for PuzzleMix to mix, got 0"),
        ("cutmix", {"mixup_alpha": 0}, ValueError, "`mixup_alpha` must be > 0 for CutMix to mix, got 0"),
        ("mixup", {"mode": "half"}, ValueError, "`mode` must be one of batch, pair, elem"),
        ("comixup", {"saliency": 3}, TypeError, "`saliency` must be a source's name or a callable"),
    ],
)
def test_errors(name, settings, error, message):
    with pytest.raises(error, match=message):
        create_mixup(name, **{"saliency": bump, **settings})


@pytest.mark.parametrize(("module", "package"), [("maxflow", "PyMaxflow"), ("scipy", "SciPy")])
def test_without_its_libraries_puzzlemix_names_the_extra(module, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else object())
    with pytest.raises(ImportError, match=rf'PuzzleMix needs {package}, .* pip install "sage-timm\[methods\]"'):
        create_mixup("puzzlemix", saliency=bump)
    assert create_mixup("comixup", saliency=bump)


def test_no_process_or_thread_is_left_behind():
    import threading

    x, target = torch.randn(8, 3, 32, 32), torch.arange(8)
    torch.set_num_threads(2)
    mixup = create_mixup("puzzlemix", t_eps=0.0, block_num=4, num_classes=8, saliency=bump)
    before = threading.active_count()
    for _ in range(3):
        mixup(x, target)
    assert threading.active_count() == before


def test_sage_plan_is_that_of_its_function():
    batch = make_batch(4)
    torch.manual_seed(0)
    ours = create_method("sage", lam_max=0.5)(batch)
    expected = sage(batch.saliency, batch.partner, batch.lam * 0.5, batch.size)
    assert torch.equal(ours.mask, expected.mask) and torch.equal(ours.translation, expected.translation)


def test_a_cutmix_span_under_a_pixel_is_refused():
    mixup = create_mixup("cutmix", cutmix_minmax=(0.2, 0.22), num_classes=4)
    with pytest.raises(
        ValueError, match=r"`cutmix_minmax` must span at least a pixel, got \(0.2, 0.22\) for images of 8 x 9"
    ):
        mixup(torch.rand(4, 3, 8, 9), torch.arange(4))
    assert mixup(torch.rand(4, 3, 80, 90), torch.arange(4))[0].shape == (4, 3, 80, 90)


def test_an_absent_image_is_never_shown_however_large_the_costs():
    for settings in (dict(eta=1e5), dict(gamma=1e8), dict(beta=1e8)):
        plan = create_method("comixup", part=3, **settings)(make_batch(7, 16, 16))
        for start, stop in ((0, 3), (3, 5), (5, 7)):
            sources = plan.source[start:stop][plan.lam[start:stop] > 0]
            assert sources.min() >= start and sources.max() < stop


def test_labels_of_any_integer_type():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.uint16):
        _, weights = create_mixup("mixup", num_classes=4)(torch.rand(4, 3, 8, 8), torch.arange(4).to(dtype))
        assert torch.allclose(weights.sum(1), torch.ones(4))
