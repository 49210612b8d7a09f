"""The method as plain float64 loops, a function per step: the specification, for tests and readers.

Every function takes one image or one pair of maps as nested NumPy arrays and spells out the formula.
Reference: Ma et al., "SAGE: Saliency-Guided Mixup with Optimal Rearrangements", BMVC 2022, section 3.
"""

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


def mix(image: np.ndarray, partner: np.ndarray, weight: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Blend M * image + (1 - M) * moved partner, images [C, h, w]."""
    return weight * image + (1 - weight) * translate(partner, dy, dx)


def sage(image, partner, saliency, partner_saliency, ratio: float, candidates=None):
    """Mix one pair of images [C, h, w] by their maps [h, w]; return the mixed image, the label weight and (dy, dx)."""
    own, other = ratio * unit_mass(saliency), (1 - ratio) * unit_mass(partner_saliency)
    dy, dx = rearrange(own, other, candidates)
    weight = mask(own, other, dy, dx, ratio)
    return mix(image, partner, weight, dy, dx), float(weight.mean()), (dy, dx)
