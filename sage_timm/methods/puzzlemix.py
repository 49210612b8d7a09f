"""Puzzle Mix (Kim et al., ICML 2020): a mask by graph cut, then each image's salient blocks moved under it."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from ..checks import check_count, check_library, check_number
from ..plan import Batch, MixPlan
from ..tensors import expand_tiles, per_channel, unit_mass

IMAGENET_DEFAULT_STD = (0.229, 0.224, 0.225)
CHUNK = 8  # images that share one graph: larger graphs leave the processor's cache


def smoothness(images: torch.Tensor, partner: torch.Tensor, grid: tuple[int, int], neigh_size: int):
    """Compute how far pixels differ across the border of neighbouring blocks, by which image lies on either side.

    Images [B, C, H, W] are averaged over `neigh_size` pixels first.

    Returns:
        [2, 2, B, rows - 1, columns] for vertical and [2, 2, B, rows, columns - 1] for horizontal neighbours: entry
        (p, q) is the mean absolute difference with image p (1 own, 0 partner) above or left and image q below or right.
    """
    cells = [max(1, side // blocks // neigh_size) for side, blocks in zip(images.shape[-2:], grid, strict=True)]
    pooled = F.adaptive_avg_pool2d(images, (grid[0] * cells[0], grid[1] * cells[1]))
    both = torch.stack([pooled[partner], pooled])

    def across(both: torch.Tensor, cell: int, other: int) -> torch.Tensor:
        above, below = both[:, None, :, :, cell - 1 : -1 : cell], both[:, :, :, cell::cell]
        return (above - below).abs().mean(3).unflatten(-1, (-1, other)).mean(-1)

    return across(both, cells[0], cells[1]), across(both.mT, cells[1], cells[0]).mT


def minimum_cut(cost: np.ndarray, vertical: np.ndarray, horizontal: np.ndarray) -> np.ndarray:
    """Minimise a sum of label costs and squared differences of neighbouring labels, exactly.

    E(l) = sum over blocks of cost[l] + sum over neighbours of weight * (l - l')^2 / (L - 1)^2. The labels are ordered
    and the square is convex, so that one cut through L - 1 nodes per block finds the minimum (Ishikawa, PAMI 2003):
    node k of a block lies on the far side where its label is greater than k. Between neighbours every pair of nodes
    is joined by the same weight w, which makes w (L - 1)(l + l') - 2 w l l'; the rest of w (l - l')^2 is added to cost.

    Args:
        cost: [B, h, w, L] float64, finite.
        vertical: [B, h - 1, w] float64, the weights between a block and the one below, >= 0.
        horizontal: [B, h, w - 1] float64, those between a block and the one to its right.

    Returns:
        [B, h, w] int64 labels.

    Differs: the authors swap pairs of labels until nothing improves.
    """
    import maxflow

    top = cost.shape[-1] - 1
    label = np.arange(top + 1)
    vertical, horizontal = vertical / top**2, horizontal / top**2
    down, right = np.pad(vertical, ((0, 0), (1, 1), (0, 0))), np.pad(horizontal, ((0, 0), (0, 0), (1, 1)))
    weights = down[:, 1:] + down[:, :-1] + right[:, :, 1:] + right[:, :, :-1]
    step = np.diff(cost + weights[..., None] * label * (label - top))

    graph = maxflow.GraphFloat(step.size, 2 * step.size * (top + 1))
    node = graph.add_grid_nodes(step.shape)
    graph.add_grid_tedges(node, np.maximum(step, 0), np.maximum(-step, 0))
    never = np.full(node[..., 1:].size, np.abs(step).sum() + 1)
    graph.add_edges(node[..., :-1].ravel(), node[..., 1:].ravel(), never, 0 * never)
    for weight, a, b in ((vertical, node[:, :-1], node[:, 1:]), (horizontal, node[:, :, :-1], node[:, :, 1:])):
        edges = np.broadcast_arrays(a[..., None], b[..., None, :], weight[..., None, None])
        a, b, weight = (values.ravel() for values in edges)
        graph.add_edges(a, b, weight, weight)
    graph.maxflow()
    return graph.get_grid_segments(node).sum(-1)


def transport(saliency: np.ndarray, wanted: np.ndarray, t_eps: float) -> np.ndarray:
    """Find the best order of an image's blocks: salient ones where they are wanted, none from far away.

    Maximises the sum over wanted places of the saliency of the block there - t_eps * squared distance it has moved (the
    grid's sides being 1), exactly, over all ways to give each wanted place a block of its own (linear assignment).

    Args:
        saliency: [B, h, w], sums to 1.
        wanted: [B, h, w] bool.
        t_eps: cost of moving a block across the grid.

    Returns:
        [B, h * w] int64: which block goes to each place; unwanted places keep their own.

    Differs: the authors' plan is a heuristic; its value never exceeds this one's.
    """
    from scipy.optimize import linear_sum_assignment

    y, x = np.indices(saliency.shape[1:]).reshape(2, -1) / np.maximum(1, np.array(saliency.shape[1:]) - 1)[:, None]
    distance = t_eps * ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2)
    saliency, wanted = saliency.reshape(len(saliency), -1), wanted.reshape(len(wanted), -1)

    order = np.tile(np.arange(len(y)), (len(saliency), 1))
    # Only a hidden block can add saliency, and a block that moves pays for one step at least.
    shortest = distance[~np.eye(len(distance), dtype=bool)].min(initial=np.inf)
    gain = np.where(wanted, -np.inf, saliency).max(1) - np.where(wanted, saliency, np.inf).min(1)

    def solve(i: int) -> None:
        order[i, wanted[i]] = linear_sum_assignment(distance[wanted[i]] - saliency[i])[1]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(solve, np.flatnonzero(gain > shortest)))
    return order


def block_moves(order: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Express an order of blocks as translations: [B, h * w] to [B, 2, h, w] int64, (dy, dx) in pixels.

    Where `size` is no multiple of `grid`, blocks differ by a pixel; a place is then filled from its block's first pixel
    on, or from the frame's last ones.
    """
    moves = []
    for side, blocks, place, shown in zip(size, grid, np.indices(grid), np.unravel_index(order, grid), strict=True):
        edge = -(np.arange(blocks + 1) * -side // blocks)
        first, length = edge[place.ravel()], np.diff(edge)[place.ravel()]
        moves.append(first - np.minimum(edge[shown], side - length))
    return np.stack(moves, 1).reshape(-1, 2, *grid)


@dataclass(frozen=True)
class PuzzleMix:
    """Cut a mask of blocks that keeps both images' saliency and hides seams, then move salient blocks under it.

    The mask z, with values k / (n_labels - 1) on blocks, minimises the sum of three terms:

        saliency hidden    sum over blocks of z * (saliency of the partner) + (1 - z) * (saliency of the own image)
        seams              beta * sum over neighbours of (z - z')^2, with gamma * (how far the images differ there)
        prior              - eta * mean over blocks of log Binomial(k; n_labels - 1, lam)

    Args:
        n_labels: values that the mask takes between 0 and 1, from 2 to 32.
        beta: smoothness of the mask, >= 0.
        gamma: share of the images' own differences in it, in [0, 1].
        eta: weight of the prior that keeps the mask's mean near lam, >= 0.
        neigh_size: side in pixels of the cells over which images are averaged before they are compared; None for the
            authors' 4 px in images of up to 64 px, 2 px in larger ones.
        t_eps: cost of moving a block across the image, >= 0; inf for no moves.
        t_size: side in pixels of the blocks that move: at most that of the mask's blocks, at least 1/16 of the image's;
            None for the authors' 4 px in images of up to 32 px, whole blocks of the mask in larger ones.
        block_num: blocks per side of the mask; None draws 2, 4, 8 or 16 for each batch from torch's generator.

    Differences between images are measured in [0, 1], by `Batch.std` or, where that is unknown, ImageNet's. Where they
    exceed 1, seams that attract each other count as 0. The shorter side of an image is its size.

    Reference: Kim et al., "Puzzle Mix", ICML 2020; their saliency: root mean square of the gradient over channels. The
    sizes are those of their programs for CIFAR (32 px), Tiny-ImageNet (64 px) and ImageNet (224 px).
    Differs: mask and moves are exact minima. Blocks are never more than the image's pixels, nor need they divide it.
    """

    n_labels: int = 3
    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    neigh_size: int | None = None
    t_eps: float = 0.8
    t_size: int | None = None
    block_num: int | None = None
    alpha: ClassVar[float] = 1.0
    uses_saliency: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_library("maxflow", "PuzzleMix", "PyMaxflow", "methods")
        check_library("scipy", "PuzzleMix", "SciPy", "methods")
        check_number("n_labels", check_count("n_labels", self.n_labels, 2), 2, 32)
        check_number("gamma", self.gamma, 0, 1)
        check_number("beta", self.beta, 0, 1e9)
        check_number("eta", self.eta, 0, 1e9)
        check_number("t_eps", self.t_eps, 0, math.inf)
        for name in ("neigh_size", "t_size", "block_num"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1)

    def __call__(self, batch: Batch) -> MixPlan:
        blocks = self.block_num or 2 ** int(torch.randint(1, 5, ()))
        level = self.mask_levels(batch, (min(blocks, batch.size[0]), min(blocks, batch.size[1])))
        return self.moved(batch, torch.from_numpy(level).to(batch.lam) / (self.n_labels - 1))

    def energy(self, batch: Batch, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute the terms of the mask's energy, as `minimum_cut` takes them, for masks level / (n_labels - 1)."""
        # The cost of each label at each block: the saliency that it hides, and how unlikely it is under the prior.
        own = unit_mass(F.adaptive_avg_pool2d(batch.saliency, grid))[:, 0]
        level = torch.arange(self.n_labels, device=own.device, dtype=own.dtype)
        mask = level / (self.n_labels - 1)
        ways = torch.tensor([math.comb(self.n_labels - 1, k) for k in range(self.n_labels)], device=own.device)
        lam = batch.lam[:, None]
        prior = -(ways * lam**level * (1 - lam) ** (self.n_labels - 1 - level) + 1e-8).log()
        cost = mask * own[batch.partner, ..., None] + (1 - mask) * own[..., None]
        cost = cost + self.eta / (grid[0] * grid[1]) * prior[:, None, None]

        # Seams. Undo the normalisation, so that differences between images are on the paper's scale, [0, 1].
        images = batch.images.float().nan_to_num(0, 0, 0)
        images = images * per_channel(batch.std or IMAGENET_DEFAULT_STD, images)
        weights, beta = [], self.beta / math.sqrt(grid[0] * grid[1]) / 16
        neigh_size = self.neigh_size or (4 if min(batch.size) <= 64 else 2)
        for dim, seam in enumerate(smoothness(images, batch.partner, grid, neigh_size), 1):
            seam = beta * self.gamma * seam
            # The four seam[z, z'] for neighbours' masks z, z' of 0 or 1 fix a form that the cut can take:
            # constant + (rise + twist) z + (rise - twist) z' + weight (z - z')^2. The linear part joins the costs.
            rise, twist = (seam[1, 1] - seam[0, 0]) / 2, (seam[1, 0] - seam[0, 1]) / 2
            cost.narrow(dim, 0, grid[dim - 1] - 1).add_((rise + twist)[..., None] * mask)
            cost.narrow(dim, 1, grid[dim - 1] - 1).add_((rise - twist)[..., None] * mask)
            weights.append((beta + (seam[1, 0] + seam[0, 1] - seam[1, 1] - seam[0, 0]) / 2).clamp_min(0))
        return tuple(term.double().cpu().numpy() for term in (cost, *weights))

    def mask_levels(self, batch: Batch, grid: tuple[int, int]) -> np.ndarray:
        """Cut the masks of a batch: [B, rows, columns] int64, mask = level / (n_labels - 1)."""
        terms = self.energy(batch, grid)
        chunks = range(0, len(batch.lam), CHUNK)
        return np.concatenate([minimum_cut(*(term[i : i + CHUNK] for term in terms)) for i in chunks])

    def moved(self, batch: Batch, mask: torch.Tensor) -> MixPlan:
        """Make the plan for a mask [B, rows, columns] in [0, 1]: move both images' blocks, then apply it."""
        size, grid = batch.size, mask.shape[1:]
        full = expand_tiles(mask, size).expand(-1, *size)[:, None]
        plan = MixPlan.of_pairs(batch.partner, full, full.mean((1, 2, 3)))
        if self.t_eps == math.inf:
            return plan
        most = 16 // max(grid)
        t_size = self.t_size or (4 if min(size) <= 32 else max(size))
        parts = [max(1, min(most, side // count // t_size)) for side, count in zip(size, grid, strict=True)]
        tiles = (grid[0] * parts[0], grid[1] * parts[1])
        maps = unit_mass(F.adaptive_avg_pool2d(batch.saliency, tiles))[:, 0]
        moves = []
        for own, weight in ((maps, mask), (maps[batch.partner], 1 - mask)):
            wanted = expand_tiles(weight > 0, tiles).expand(-1, *tiles)
            order = transport(own.double().cpu().numpy(), wanted.cpu().numpy(), self.t_eps)
            moves.append(torch.from_numpy(block_moves(order, tiles, size)))
        return replace(plan, translation=torch.stack(moves, 1).to(mask.device), own=False)
