"""Co-Mixup (Kim et al., ICLR 2021): all images of a part of the batch at once, each output a puzzle of several."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..checks import check_count, check_number
from ..plan import Batch, MixPlan
from ..tensors import expand_tiles, unit_mass

BARRED = 1e15  # cost of a label that is not to be used
PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


def best_lines(unary: np.ndarray, pairwise: np.ndarray) -> np.ndarray:
    """Find the labels of least cost along each line, exactly (Viterbi).

    Args:
        unary: [N, P, T, L], cost of each label at each of T blocks of N lines in P problems.
        pairwise: [P, L, L], cost of labels next to each other.

    Returns:
        [N, P, T] int64.
    """
    length = unary.shape[2]
    reached, came_from = unary[:, :, 0], []
    for t in range(1, length):
        total = reached[..., None] + pairwise
        came_from.append(total.argmin(2))
        reached = total.min(2) + unary[:, :, t]
    labels = [reached.argmin(2)]
    for back in reversed(came_from):
        labels.append(np.take_along_axis(back, labels[-1][..., None], 2)[..., 0])
    return np.stack(labels[::-1], 2)


def label_grid(unary: np.ndarray, pairwise: np.ndarray) -> np.ndarray:
    """Label grids of blocks: from the best label of each block and from the best one for all, by moves of whole lines.

    Every other row at once is labelled anew, exactly, then the rows between, then columns, until nothing changes.

    Args:
        unary: [P, h, w, L], cost of each label at each block.
        pairwise: [P, L, L], symmetric, cost of labels next to each other.

    Returns:
        [P, h, w] int64, of the two results the one that costs less.
    """
    problem, (rows, columns) = np.arange(len(unary)), unary.shape[1:3]
    constant = np.broadcast_to(unary.sum((1, 2)).argmin(1)[:, None, None], unary.shape[:3])
    labels = np.concatenate([unary.argmin(3), constant])
    unary, pairwise, problem = (np.concatenate([v, v]) for v in (unary, pairwise, problem))
    index = np.arange(len(unary))[:, None, None]
    for _ in range(rows * columns):
        before = labels.copy()
        for state, cost in ((labels, unary), (labels.swapaxes(1, 2), unary.swapaxes(1, 2))):
            for lines in (np.arange(0, state.shape[1], 2), np.arange(1, state.shape[1], 2)):
                total = cost[:, lines]
                for neighbour in (lines - 1, lines + 1):
                    inside = (neighbour >= 0) & (neighbour < state.shape[1])
                    total[:, inside] += pairwise[index, state[:, neighbour[inside]]]
                if len(lines):
                    state[:, lines] = best_lines(total.swapaxes(0, 1), pairwise).swapaxes(0, 1)
        if (labels == before).all():
            break
    energy = np.take_along_axis(unary, labels[..., None], 3).sum((1, 2, 3))
    energy += pairwise[index, labels[:, 1:], labels[:, :-1]].sum((1, 2))
    energy += pairwise[index, labels[:, :, 1:], labels[:, :, :-1]].sum((1, 2))
    second = energy.reshape(2, -1).argmin(0)
    return labels.reshape(2, -1, rows, columns)[second, problem[: len(second)]]


@dataclass(frozen=True)
class Part:
    """The energy of P parts of n images each, smaller ones filled up with `present` False.

    Attributes:
        cost: [P, n, h, w] float64, of showing each input's block.
        present: [P, n] bool.
        compatibility: [P, n, n], the paper's A.
        beta, gamma, limit: the paper's beta and gamma per block, and tau in blocks.
    """

    cost: np.ndarray
    present: np.ndarray
    compatibility: np.ndarray
    beta: float
    gamma: float
    limit: float

    def crowding(self, others: np.ndarray) -> np.ndarray:
        """Compute, from the blocks [P, m, n] that the others of m outputs take of each input, its penalty per block."""
        taken = others @ self.compatibility.swapaxes(1, 2)
        return self.gamma * np.where(taken > self.limit, taken, 0)

    def energy(self, shares: np.ndarray) -> np.ndarray:
        """Compute the objective of outputs `shares` [P, n, h, w, n], the share of each input per block: [P]."""
        shares = shares * self.present[:, :, None, None, None]
        total = np.einsum("pihw,pohwi->p", self.cost, shares)
        for dim in (2, 3):
            total += self.beta / 2 * (np.diff(shares, axis=dim) ** 2).sum((1, 2, 3, 4))
        blocks = shares.sum((2, 3))
        others = blocks.sum(1, keepdims=True) - blocks
        return total + (self.crowding(others) * blocks).sum((1, 2))

    def improved(self, shares: np.ndarray, j: int, soft: bool) -> np.ndarray:
        """Choose output j anew, the others fixed: [P, h, w, n] shares."""
        parts, inputs = self.present.shape
        blocks = shares.sum((2, 3)) * self.present[..., None]
        others = blocks.sum(1, keepdims=True) - blocks[:, j : j + 1]
        unary = self.cost + 2 * self.crowding(others)[:, 0, :, None, None]
        unary = np.where(self.present[..., None, None], unary, BARRED).transpose(0, 2, 3, 1)
        vectors = np.broadcast_to(np.eye(inputs), (parts, inputs, inputs))
        if soft and inputs > 1:
            most = np.argsort(-blocks[:, j], axis=1, kind="stable")[:, :3]
            pairs = most[:, PAIRS[: 3 if inputs > 2 else 1]]
            halves = np.eye(inputs)[pairs].mean(2)
            unary = np.concatenate([unary, np.einsum("phwi,pei->phwe", unary, halves)], 3)
            vectors = np.concatenate([vectors, halves], 1)
        square = (vectors**2).sum(2)
        gram = vectors @ vectors.transpose(0, 2, 1)
        pairwise = self.beta / 2 * (square[:, :, None] + square[:, None] - 2 * gram)
        return vectors[np.arange(parts)[:, None, None], label_grid(unary, pairwise)]

    def solve(self, shares: np.ndarray, niter: int) -> np.ndarray:
        """Choose one output after the other anew, `niter` times; the best ever met, for each part: [P, n, h, w, n].

        The choice of an output can raise the energy: what it takes of an input may lift the others over the threshold.
        """
        best, least = shares, self.energy(shares)
        for round_ in range(niter):
            for j in range(shares.shape[1]):
                shares = shares.copy()
                shares[:, j] = self.improved(shares, j, soft=round_ > 0)
                energy = self.energy(shares)
                better = energy < least
                best = np.where(better[:, None, None, None, None], shares, best)
                least = np.where(better, energy, least)
        return best


@dataclass(frozen=True)
class CoMixup:
    """Fill each output's blocks from all images of its part: salient, smooth, and no input shown too often.

    Minimises, over the shares z of n inputs in the blocks of n outputs, - saliency shown - prior
    + beta / 2 * squared differences of neighbouring blocks + gamma * (A p_j) . o_j summed over outputs j, where o_j
    counts output j's blocks per input, p_j those of all others, and only entries of A p_j over thres count.

    Example:
        >>> from sage_timm.plan import Batch
        >>> images, saliency = torch.rand(4, 3, 32, 32), torch.rand(4, 1, 32, 32)
        >>> batch = Batch(images, saliency, torch.arange(3, -1, -1), torch.full((4,), 0.5), alpha=2.0)
        >>> plan = CoMixup()(batch)
        >>> torch.allclose(plan.lam.sum(1), torch.ones(4))
        True

    Args:
        block_num: blocks per side.
        part: images that are mixed together, at least 2; a batch is cut into parts of nearly equal size, at most this.
        beta: smoothness, >= 0.
        gamma: weight of the diversity of outputs, >= 0.
        thres: share of an image's blocks up to which other outputs may show an input, >= 0.
        eta: weight of the prior, a Dirichlet(alpha) draw per part, >= 0.
        omega: share of compatibility (distance of the inputs' salient spots) in A, in [0, 1].
        niter: rounds over all outputs.

    Reference: Kim et al., "Co-Mixup", ICLR 2021, section 4; saliency as in Puzzle Mix.
    Differs: each output is chosen by exact moves of whole rows and columns instead of alpha-beta swap; the best state
    met is taken; equal outputs are not told apart afterwards. A block that two inputs share costs beta / 4 beside one
    of the two and 3/4 beta beside a third, as the paper's objective has it (the authors' cut: beta / 4 and beta, less
    5e-4 per block). Draws come from torch's generator. `partner` and the drawn lam are not used.
    """

    block_num: int = 4
    part: int = 20
    beta: float = 0.32
    gamma: float = 1.0
    thres: float = 0.83
    eta: float = 0.05
    omega: float = 0.001
    niter: int = 4
    alpha: ClassVar[float] = 2.0
    uses_saliency: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("block_num", self.block_num, 1)
        check_count("part", self.part, 2)
        check_count("niter", self.niter, 1)
        for name in ("beta", "gamma", "thres", "eta"):
            check_number(name, getattr(self, name), 0, 1e9)
        check_number("omega", self.omega, 0, 1)

    def __call__(self, batch: Batch) -> MixPlan:
        """Make the plan of a batch."""
        count = len(batch.images)
        grid = (min(self.block_num, batch.size[0]), min(self.block_num, batch.size[1]))
        parts = math.ceil(count / self.part)
        member = np.full((parts, math.ceil(count / parts)), -1)
        for row, images in zip(member, np.array_split(np.arange(count), parts), strict=True):
            row[: len(images)] = images
        problem = self.problem(batch, member, grid)
        start = torch.multinomial(torch.from_numpy(problem.present).double(), member.shape[1] * math.prod(grid), True)
        start = np.eye(member.shape[1])[start.numpy()].reshape(parts, member.shape[1], *grid, -1)
        shares = problem.solve(start, self.niter)
        return _as_plan(torch.from_numpy(shares), torch.from_numpy(member), batch)

    def problem(self, batch: Batch, member: np.ndarray, grid: tuple[int, int]) -> Part:
        """State the energy of the parts `member` [P, n] of a batch, -1 for none, on a grid of blocks."""
        # What an output gains by an input's block: its saliency, and how much the part's prior favours the input.
        blocks, present = math.prod(grid), member >= 0
        maps = unit_mass(F.adaptive_avg_pool2d(batch.saliency, grid))[:, 0].double().cpu().numpy()
        alpha = torch.full((len(member), member.shape[1]), float(batch.alpha), dtype=torch.float64)
        prior = torch.distributions.Dirichlet(alpha).sample().numpy() + 1e-8
        cost = -maps[member] - self.eta / blocks * np.log(prior)[..., None, None]

        # The paper's A: an input is penalised for what others show of it (identity) and, a little, of those whose
        # most salient window is far from its own (city-block distance; rows sum to 1 on average).
        window = [max(1, side // 4) for side in batch.saliency.shape[-2:]]
        spots = F.avg_pool2d(batch.saliency, window, 1)
        spot = spots.flatten(1).argmax(1).cpu().numpy()[member]
        y, x = spot // spots.shape[-1], spot % spots.shape[-1]
        distance = np.abs(y[:, :, None] - y[:, None]) + np.abs(x[:, :, None] - x[:, None])
        distance = distance * (present[:, :, None] & present[:, None])
        mean = distance.sum((1, 2), keepdims=True) / present.sum(1)[:, None, None]
        far = distance / np.where(mean > 0, mean, 1)
        compatibility = (1 - self.omega) * np.eye(member.shape[1]) + self.omega * far
        return Part(cost, present, compatibility, self.beta / blocks, self.gamma / blocks, self.thres * blocks)


def _as_plan(shares: torch.Tensor, member: torch.Tensor, batch: Batch) -> MixPlan:
    """Turn shares [P, n, h, w, n] into the plan of the batch; only as many sources as an output uses."""
    device = batch.lam.device
    present = member >= 0
    masks = shares.permute(0, 1, 4, 2, 3)[present].float()
    inputs = member[:, None].expand(-1, member.shape[1], -1)[present]
    weight, order = masks.sum((2, 3)).sort(dim=1, descending=True, stable=True)
    used = int((weight > 0).sum(1).max())
    order = order[:, :used]
    source = inputs.gather(1, order).clamp_min(0).to(device)
    masks = masks.gather(1, order[..., None, None].expand(-1, -1, *masks.shape[2:])).to(device)
    masks = expand_tiles(masks, batch.size).expand(-1, -1, *batch.size)
    return MixPlan(source, masks, masks.mean((2, 3)))
