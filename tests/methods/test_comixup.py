"""Co-Mixup: its energy and solver against brute force and graph cuts."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from batches import bump, make_batch, seeded

from sage_timm import create_mixup
from sage_timm.methods import comixup, create_method

GOLDEN = Path(__file__).parent.parent / "golden"


def comixup_part(count, inputs, grid, thres=0.83):
    cost = np.random.rand(count, inputs, *grid) ** 3
    cost = -cost / cost.sum((2, 3), keepdims=True)
    blocks = grid[0] * grid[1]
    eye = np.broadcast_to(np.eye(inputs), (count, inputs, inputs))
    return comixup.Part(cost, eye, 0.32 / blocks, 1 / blocks, thres * blocks)


def random_shares(count, inputs, grid):
    return np.eye(inputs)[np.random.randint(inputs, size=(count, inputs, *grid))]


def test_comixup_energy_against_the_reference():
    part = comixup_part(5, 4, (2, 3), thres=0.5)
    part = comixup.Part(part.cost, np.random.rand(5, 4, 4), part.beta, part.gamma, part.limit)
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
    ours = np.min([part.energy(part.solve(random_shares(count, 2, grid), 4)) for _ in range(10)], 0)
    exact = 0
    for p in range(count):
        cost = np.broadcast_to(part.cost[p], (len(every), 2, *grid))
        energies = comixup.Part(cost, eye, part.beta, part.gamma, part.limit).energy(every)
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


@pytest.mark.parametrize("name", ["b4", "b8"])
def test_the_outputs_have_less_energy_than_the_authors_from_the_same_start(name):
    data = np.load(GOLDEN / f"comixup_energy_{name}.npz")
    blocks = int(data["block_num"]) ** 2
    inputs = len(data["cost"])

    def part(compatibility):
        terms = data["cost"][None].astype(float), compatibility[None].astype(float)
        return comixup.Part(*terms, data["beta"] / blocks, data["gamma"] / blocks, data["thres"] * blocks)

    judge, theirs = part(np.eye(inputs)), data["z"][None].astype(float)
    assert judge.energy(theirs)[0] == pytest.approx(data["energy_thres"].item(), abs=1e-5)
    ours = part(data["compatibility"]).solve(np.eye(inputs)[data["start"]][None], int(data["niter"]))
    assert judge.energy(ours)[0] < data["energy_thres"] - 1
    assert 0.15 < (ours == 0.5).any(-1).mean() < 0.4 or name == "b8", "blocks that two inputs share"


def test_the_terms_are_the_authors(monkeypatch):
    data = np.load(GOLDEN / "comixup_energy_b4.npz")
    saliency = torch.from_numpy(data["saliency"])[:, None]
    batch = make_batch(8, images=torch.from_numpy(data["images"]), saliency=saliency, alpha=2.0)
    drawn = torch.from_numpy(data["dirichlet"])[None]
    monkeypatch.setattr(torch.distributions, "Dirichlet", lambda alpha: SimpleNamespace(sample=lambda: drawn))
    problem = create_method("comixup").problem(batch, np.arange(8)[None], (4, 4))
    assert np.allclose(problem.compatibility[0], data["compatibility"], atol=1e-6)
    assert np.allclose(problem.cost[0], data["cost"], atol=1e-6)


def test_comixup_keeps_the_best_state_it_met():
    """Not the best of the rounds alone: the choice of one output can raise the energy of the next."""
    part = comixup_part(12, 8, (4, 4))
    start = random_shares(12, 8, (4, 4))
    met, shares = [part.energy(start)], start
    for round_ in range(3):
        for j in range(8):
            shares = shares.copy()
            shares[:, j] = part.improved(shares, j, soft=round_ > 0)
            met.append(part.energy(shares))
    assert np.array_equal(part.energy(part.solve(start, 3)), np.min(met, 0))
    assert (np.min(met, 0) < np.min(met[8::8], 0)).sum() > 3


def grid_energy(unary, pairwise, labels):
    energy = sum(unary[y, x, labels[y, x]] for y in range(labels.shape[0]) for x in range(labels.shape[1]))
    return energy + pairwise[labels[1:], labels[:-1]].sum() + pairwise[labels[:, 1:], labels[:, :-1]].sum()


def test_lines_are_labelled_exactly():
    unary, pairwise = np.random.rand(2, 3, 4, 5), np.random.rand(2, 5, 5)
    labels = comixup.best_lines(unary, pairwise)
    for p, line in itertools.product(range(2), range(3)):

        def cost(one, line=line, p=p):
            steps = sum(pairwise[p, one[t], one[t + 1]] for t in range(3))
            return sum(unary[p, line, t, one[t]] for t in range(4)) + steps

        assert cost(labels[p, line]) == pytest.approx(min(map(cost, itertools.product(range(5), repeat=4))))


def test_a_grid_is_labelled_as_well_as_by_graph_cuts(monkeypatch):
    """Co-Mixup's solver against the authors' kind, alpha-beta swap, on the energies it meets: lower on average."""
    swap = pytest.importorskip("maxflow.fastmin").abswap_grid
    part = comixup_part(4, 8, (4, 4))
    seen, solver = [], comixup.label_grid

    def noted(unary, pairwise):
        labels = solver(unary, pairwise)
        seen.extend(zip(unary, pairwise, labels, strict=True))
        return labels

    monkeypatch.setattr(comixup, "label_grid", noted)
    part.solve(random_shares(4, 8, (4, 4)), 4)
    ours, theirs = [], []
    for unary, pairwise, labels in seen[::4]:
        ours.append(grid_energy(unary, pairwise, labels))
        theirs.append(grid_energy(unary, pairwise, swap(np.ascontiguousarray(unary), np.ascontiguousarray(pairwise))))
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


def test_the_dirichlet_of_comixup_has_the_mixups_alpha():
    x, target = torch.randn(8, 3, 16, 16), torch.arange(8)
    weights = {}
    for alpha in (0.05, 50.0):
        seeded()
        mixup = create_mixup("comixup", mixup_alpha=alpha, eta=3.0, gamma=0.0, num_classes=8, saliency=bump)
        weights[alpha] = mixup(x, target)[1].sum(0).max()
    assert weights[0.05] > weights[50.0]


def test_an_absent_image_is_never_shown_however_large_the_costs():
    for settings in (dict(eta=1e5), dict(gamma=1e8), dict(beta=1e8)):
        plan = create_method("comixup", part=3, **settings)(make_batch(7, 16, 16))
        for start, stop in ((0, 3), (3, 5), (5, 7)):
            sources = plan.source[start:stop][plan.lam[start:stop] > 0]
            assert sources.min() >= start and sources.max() < stop


def test_a_part_filled_up_with_absent_images_is_solved_as_it_is_alone():
    alone, start = comixup_part(20, 3, (4, 4), thres=0.3), random_shares(20, 3, (4, 4))
    cost = np.pad(alone.cost, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=comixup.BARRED)
    filled = comixup.Part(cost, np.broadcast_to(np.eye(4), (20, 4, 4)), alone.beta, alone.gamma, alone.limit)
    shares = filled.solve(np.pad(start, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 1))), 3)
    assert np.array_equal(shares[:, :3, ..., :3], alone.solve(start, 3)) and not shares[:, 3].any()
