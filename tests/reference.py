"""The method as plain float64 loops, a function per step: the specification, for tests and readers.

Every function takes one image or one pair of maps as nested NumPy arrays and spells out the formula.
Reference: Ma et al., "SAGE: Saliency-Guided Mixup with Optimal Rearrangements", BMVC 2022, section 3.
"""

import math

import numpy as np


def unit_mass(saliency: np.ndarray) -> np.ndarray:
    """Scale a map [h, w] to sum 1; a map of zeros becomes uniform."""
    saliency = saliency.astype(np.float64)
    if saliency.sum() == 0:
        saliency = np.ones_like(saliency)
    return saliency / saliency.sum()


def translate(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Move the content of [..., h, w] down by dy and right by dx; what comes from outside is 0."""
    height, width = image.shape[-2:]
    moved = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                moved[..., y, x] = image[..., y - dy, x - dx]
    return moved


def mask(own: np.ndarray, other: np.ndarray, dy: int, dx: int, ratio: float) -> np.ndarray:
    """Compute M = own / (own + moved) [h, w]: 1 where the partner is absent, `ratio` where both are 0 in the frame."""
    moved = translate(other, dy, dx)
    present = translate(np.ones_like(other), dy, dx)
    result = np.ones_like(own)
    for y in range(own.shape[0]):
        for x in range(own.shape[1]):
            if own[y, x] + moved[y, x] > 0:
                result[y, x] = own[y, x] / (own[y, x] + moved[y, x])
            elif present[y, x]:
                result[y, x] = ratio
    return result


def retained_saliency(own: np.ndarray, other: np.ndarray, dy: int, dx: int) -> float:
    """Sum own * M + moved * (1 - M) over the frame."""
    weight = mask(own, other, dy, dx, 0.0)
    return float((own * weight + translate(other, dy, dx) * (1 - weight)).sum())


def rearrange(own: np.ndarray, other: np.ndarray, candidates=None) -> tuple[int, int]:
    """Try every translation (or those of `candidates`) and return the (dy, dx) that retains most saliency."""
    height, width = own.shape
    if candidates is None:
        candidates = [(dy, dx) for dy in range(1 - height, height) for dx in range(1 - width, width)]
    return max(candidates, key=lambda t: retained_saliency(own, other, *t))


def sage(image, partner, saliency, partner_saliency, ratio: float, candidates=None):
    """Mix one pair of images [C, h, w] by their maps [h, w]; return the mixed image, the label weight and (dy, dx)."""
    own, other = ratio * unit_mass(saliency), (1 - ratio) * unit_mass(partner_saliency)
    dy, dx = rearrange(own, other, candidates)
    weight = mask(own, other, dy, dx, ratio)
    return weight * image + (1 - weight) * translate(partner, dy, dx), float(weight.mean()), (dy, dx)


def mix_images(images, plan) -> np.ndarray:
    """Sum, pixel by pixel, what a plan says: images [B, C, H, W] and plan as of `sage_timm.plan`; float64."""
    images = images.double().numpy()
    height, width = images.shape[-2:]
    y, x = np.mgrid[:height, :width]
    mixed = np.zeros_like(images)
    for i, sources in enumerate(plan.source.tolist()):
        for k, source in enumerate(sources):
            image, from_y, from_x = images[source], y, x
            if plan.box is not None and k == 1:
                image = shrink(image, *plan.box[i].tolist())
            if plan.translation is not None:
                move = plan.translation.numpy()
                move = move[min(i, len(move) - 1), min(k, move.shape[1] - 1)]
                tile_y, tile_x = y * move.shape[1] // height, x * move.shape[2] // width
                from_y, from_x = y - move[0, tile_y, tile_x], x - move[1, tile_y, tile_x]
            mask = plan.mask[i, k].double().numpy()
            seen = (mask > 0) & (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
            mixed[i][:, seen] += mask[seen] * image[:, from_y[seen], from_x[seen]]
    return mixed


def shrink(image: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Show the whole image [C, h, w] in a box of the frame, 0 outside: each pixel a mean under a triangle."""
    frame, (height, width) = np.zeros_like(image), image.shape[1:]
    rows = np.array([triangle(y, bottom - top, height) for y in range(bottom - top)]).reshape(-1, height)
    columns = np.array([triangle(x, right - left, width) for x in range(right - left)]).reshape(-1, width)
    frame[:, top:bottom, left:right] = np.einsum("yh,chw,xw->cyx", rows, image, columns)
    return frame


def triangle(place: int, count: int, side: int) -> np.ndarray:
    """Weigh the `side` cells that `count` pixels cover for one of these: 1 at its middle, 0 a pixel's width away."""
    width = side / count
    weights = np.array([max(0, 1 - abs(cell + 0.5 - (place + 0.5) * width) / width) for cell in range(side)])
    return weights / weights.sum()


def mix_target(weights, plan) -> np.ndarray:
    """Sum each output's class weights [B, N], each times its label weight; float64."""
    weights, lam = weights.double().numpy(), plan.lam.double().numpy()
    return np.array(
        [sum(lam[i, k] * weights[j] for k, j in enumerate(row)) for i, row in enumerate(plan.source.tolist())]
    )


def puzzle_energy(
    images: tuple[np.ndarray, np.ndarray],
    maps: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    lam: float,
    n_labels: int,
    beta: float,
    gamma: float,
    eta: float,
) -> float:
    """Compute the energy that Puzzle Mix's mask [h, w] minimises, up to the seams of the partner with itself.

    `images` and `maps` are (partner, own): images [C, h, w] averaged over blocks, maps [h, w] of sum 1. A mask between
    0 and 1 shows both images; the shares of the four ways to meet at a seam then follow from m m' = (m + m' - d) / 2
    with d = (m - m')^2, which is exact for masks of 0 and 1.

    Reference: Kim et al., "Puzzle Mix", ICML 2020, section 4.1, and the authors' code.
    """
    height, width = mask.shape
    scale = beta / math.sqrt(height * width) / 16
    energy = 0.0
    for y in range(height):
        for x in range(width):
            m = mask[y, x]
            level = round(m * (n_labels - 1))
            ways = math.comb(n_labels - 1, level) * lam**level * (1 - lam) ** (n_labels - 1 - level)
            energy += m * maps[0][y, x] + (1 - m) * maps[1][y, x] - eta / (height * width) * math.log(ways + 1e-8)
            for below, right in ((y + 1, x), (y, x + 1)):
                if below < height and right < width:
                    n = mask[below, right]
                    square = (m - n) ** 2
                    both = (m + n - square) / 2
                    shares = {(1, 1): both, (1, 0): m - both, (0, 1): n - both, (0, 0): -m - n + both}
                    energy += scale * square
                    for (p, q), share in shares.items():
                        seam = np.abs(images[p][:, y, x] - images[q][:, below, right]).mean()
                        energy += scale * gamma * share * seam
    return energy


def comixup_energy(
    cost: np.ndarray, shares: np.ndarray, compatibility: np.ndarray, beta: float, gamma: float, limit: float
) -> float:
    """Compute the energy that Co-Mixup's outputs `shares` [n, h, w, n] minimise, for costs [n, h, w].

    Reference: Kim et al., "Co-Mixup", ICLR 2021, section 4, and the authors' code; beta, gamma and limit per block.
    """
    outputs, height, width, inputs = shares.shape
    energy = 0.0
    for j in range(outputs):
        for y in range(height):
            for x in range(width):
                energy += sum(cost[i, y, x] * shares[j, y, x, i] for i in range(inputs))
                if y + 1 < height:
                    energy += beta / 2 * ((shares[j, y, x] - shares[j, y + 1, x]) ** 2).sum()
                if x + 1 < width:
                    energy += beta / 2 * ((shares[j, y, x] - shares[j, y, x + 1]) ** 2).sum()
        taken = compatibility @ sum(shares[k].sum((0, 1)) for k in range(outputs) if k != j)
        energy += gamma * sum(taken[i] * shares[j, ..., i].sum() for i in range(inputs) if taken[i] > limit)
    return energy
