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

BARRED = 1e15  # cost of an input that is not there
PAIRS = np.array([[0, 1], [0, 2], [1, 2]])


def best_lines(unary: np.ndarray, pairwise: np.ndarray) -> np.ndarray:
    """Find the labels of least cost along each line, exactly (Viterbi): [P, N, T] int64.

    Args:
        unary: [P, N, T, L], cost of each label at each of T blocks of N lines in P problems.
        pairwise: [P, L, L], cost of labels next to each other.
    """
    reached, came_from = unary[:, :, 0], []
    for t in range(1, unary.shape[2]):
        total = reached[..., None] + pairwise[:, None]
        came_from.append(total.argmin(2))
        reached = total.min(2) + unary[:, :, t]
    labels = [reached.argmin(2)]
    for back in reversed(came_from):
        labels.append(np.take_along_axis(back, labels[-1][..., None], 2)[..., 0])
    return np.stack(labels[::-1], 2)


def label_grid(unary: np.ndarray, pairwise: np.ndarray) -> np.ndarray:
    """Label grids of blocks by moves of whole lines: [P, h, w] int64.

    Every other row at once is labelled anew, exactly, then the rows between, then columns, until nothing changes; from
    the best label of each block and from the best one for all. The result that costs less is taken.

    Args:
        unary: [P, h, w, L], cost of each label at each block.
        pairwise: [P, L, L], symmetric, cost of labels next to each other.
    """
    count, rows, columns, outside = unary.shape
    constant = np.broadcast_to(unary.sum((1, 2)).argmin(1)[:, None, None], unary.shape[:3])
    labels = np.concatenate([unary.argmin(3), constant])
    framed = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=outside)
    unary, pairwise = np.concatenate([unary, unary]), np.concatenate([pairwise, pairwise])
    index = np.arange(len(unary))[:, None, None]
    beside = np.pad(pairwise, ((0, 0), (0, 1), (0, 0)))  # one more label, `outside`, next to which all cost nothing
    for _ in range(rows * columns):
        before = framed.copy()
        for state, cost in ((framed, unary), (framed.swapaxes(1, 2), unary.swapaxes(1, 2))):
            for first in (0, 1):
                above, below = state[:, first:-2:2, 1:-1], state[:, first + 2 :: 2, 1:-1]
                total = cost[:, first::2] + beside[index, above] + beside[index, below]
                state[:, first + 1 : -1 : 2, 1:-1] = best_lines(total, pairwise)
        if (framed == before).all():
            break
    labels = framed[:, 1:-1, 1:-1]
    energy = np.take_along_axis(unary, labels[..., None], 3).sum((1, 2, 3))
    energy += pairwise[index, labels[:, 1:], labels[:, :-1]].sum((1, 2))
    energy += pairwise[index, labels[:, :, 1:], labels[:, :, :-1]].sum((1, 2))
    return np.where((energy[:count] <= energy[count:])[:, None, None], labels[:count], labels[count:])


@dataclass(frozen=True)
class Part:
    """The energy of P parts of n images each. Smaller parts are padded by inputs that cost `BARRED`."""

    cost: np.ndarray  # [P, n, h, w] float64, of showing each input's block
    compatibility: np.ndarray  # [P, n, n], the paper's A
    beta: float  # the paper's, per block
    gamma: float  # likewise
    limit: float  # the paper's tau, in blocks

    def crowding(self, blocks: np.ndarray) -> np.ndarray:
        """Compute the penalty per block of each input in each output, where others take `blocks` [P, n, n] of it."""
        taken = (blocks.sum(1, keepdims=True) - blocks) @ self.compatibility.swapaxes(1, 2)
        return self.gamma * np.where(taken > self.limit, taken, 0)

    def energy(self, shares: np.ndarray) -> np.ndarray:
        """Compute the objective of outputs `shares` [P, n, h, w, n], the share of each input per block: [P]."""
        total = np.einsum("pihw,pohwi->p", self.cost, shares)
        for dim in (2, 3):
            total += self.beta / 2 * (np.diff(shares, axis=dim) ** 2).sum((1, 2, 3, 4))
        blocks = shares.sum((2, 3))
        return total + (self.crowding(blocks) * blocks).sum((1, 2))

    def improved(self, shares: np.ndarray, j: int, soft: bool) -> np.ndarray:
        """Choose output j anew, the others fixed: [P, h, w, n] shares."""
        parts, inputs = self.cost.shape[:2]
        blocks = shares.sum((2, 3))
        unary = self.cost + 2 * self.crowding(blocks)[:, j, :, None, None]
        vectors = np.broadcast_to(np.eye(inputs), (parts, inputs, inputs))
        if soft:  # a block may also be shared evenly by two of the three inputs that the output shows most
            most = np.argsort(-blocks[:, j], axis=1, kind="stable")[:, :3]
            pairs = most[:, PAIRS[PAIRS[:, 1] < inputs]]
            vectors = np.concatenate([vectors, np.eye(inputs)[pairs].mean(2)], 1)
        unary = unary.transpose(0, 2, 3, 1) @ vectors.swapaxes(1, 2)[:, None]
        pairwise = self.beta / 2 * ((vectors[:, :, None] - vectors[:, None]) ** 2).sum(3)
        return vectors[np.arange(parts)[:, None, None], label_grid(unary, pairwise)]

    def solve(self, shares: np.ndarray, niter: int) -> np.ndarray:
        """Choose one output after the other anew, `niter` times; the best ever met, for each part: [P, n, h, w, n].

        The choice of an output can raise the energy: what it takes of an input may lift the others over the threshold.
        An output that starts without any share is not there and stays so.
        """
        shares, best, least = shares.copy(), shares, self.energy(shares)
        present = shares.sum((2, 3, 4), keepdims=True) > 0
        for round_ in range(niter):
            for j in range(shares.shape[1]):
                shares[:, j] = self.improved(shares, j, soft=round_ > 0) * present[:, j]
                energy = self.energy(shares)
                best = np.where((energy < least)[:, None, None, None, None], shares, best)
                least = np.minimum(energy, least)
        return best


@dataclass(frozen=True)
class CoMixup:
    """Fill each output's blocks from all images of its part: salient, smooth, and no input shown too often.

    Minimises, over the shares z of n inputs in the blocks of n outputs, - saliency shown - prior
    + beta / 2 * squared differences of neighbouring blocks + gamma * (A p_j) . o_j summed over outputs j, where o_j
    counts output j's blocks per input, p_j those of all others, and only entries of A p_j over thres count.

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
        count, device = len(batch.images), batch.lam.device
        grid = (min(self.block_num, batch.size[0]), min(self.block_num, batch.size[1]))
        parts = math.ceil(count / self.part)
        member = np.full((parts, math.ceil(count / parts)), -1)
        for row, images in zip(member, np.array_split(np.arange(count), parts), strict=True):
            row[: len(images)] = images
        problem, present, inputs = self.problem(batch, member, grid), member >= 0, member.shape[1]
        drawn = torch.multinomial(torch.from_numpy(present).double(), inputs * math.prod(grid), True).numpy()
        start = np.eye(inputs)[drawn.reshape(parts, inputs, *grid)] * present[:, :, None, None, None]
        shares = problem.solve(start, self.niter)[present].transpose(0, 3, 1, 2)

        # Each output's inputs by their weight, and only as many as any output uses.
        weight = shares.sum((2, 3))
        order = np.argsort(-weight, 1, kind="stable")[:, : (weight > 0).sum(1).max()]
        source = np.take_along_axis(np.repeat(member, present.sum(1), 0), order, 1).clip(0)
        masks = torch.from_numpy(np.take_along_axis(shares, order[..., None, None], 1)).float().to(device)
        masks = expand_tiles(masks, batch.size).expand(-1, -1, *batch.size)
        return MixPlan(torch.from_numpy(source).to(device), masks, masks.mean((2, 3)))

    def problem(self, batch: Batch, member: np.ndarray, grid: tuple[int, int]) -> Part:
        """State the energy of the parts `member` [P, n] of a batch, -1 for none, on a grid of blocks."""
        # What an output gains by an input's block: its saliency, and how much the part's prior favours the input.
        blocks, present = math.prod(grid), member >= 0
        maps = unit_mass(F.adaptive_avg_pool2d(batch.saliency, grid))[:, 0].double().cpu().numpy()
        alpha = torch.full(member.shape, float(batch.alpha), dtype=torch.float64, device="cpu")
        prior = torch.distributions.Dirichlet(alpha).sample().numpy() + 1e-8
        cost = -maps[member] - self.eta / blocks * np.log(prior)[..., None, None]
        cost[~present] = BARRED

        # The paper's A: an input is penalised for what others show of it (identity) and, a little, of those whose
        # most salient window is far from its own (city-block distance; rows sum to 1 on average).
        window = [max(1, side // 4) for side in batch.saliency.shape[-2:]]
        spots = F.avg_pool2d(batch.saliency, window, 1)[:, 0].cpu().numpy()
        spot = np.stack(np.unravel_index(spots.reshape(len(spots), -1).argmax(1), spots.shape[1:]), 1)[member]
        distance = np.abs(spot[:, :, None] - spot[:, None]).sum(3) * (present[:, :, None] & present[:, None])
        mean = distance.sum((1, 2), keepdims=True) / present.sum(1)[:, None, None]
        compatibility = (1 - self.omega) * np.eye(member.shape[1]) + self.omega * distance / np.where(mean > 0, mean, 1)
        return Part(cost, compatibility, self.beta / blocks, self.gamma / blocks, self.thres * blocks)
