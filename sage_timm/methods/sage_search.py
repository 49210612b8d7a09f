"""The optimal rearrangement: retained saliency of every translation at once, by FFT.

For non-negative maps `own` and `other`, with m the other map moved by t and 0 outside the frame,

    v(t) = sum own + visible(t) - 2 overlap(t),    overlap(t) = sum over the frame of own * m / (own + m).

`visible`, the mass of the other map that stays in the frame, is a cross-correlation with a frame of ones. 1 / x is a
short sum of exponentials on [1e-4, 1] (Braess & Hackbusch, IMA J. Numer. Anal. 2005), so overlap becomes a short sum
of cross-correlations: all (2h - 1)(2w - 1) translations cost a few FFTs. The approximation only ranks; the best few
are computed exactly.
"""

import torch
import torch.nn.functional as F

# 1 / x ~ sum of WEIGHTS * exp(-RATES * x) on [1e-4, 1], the largest relative error made smallest (Chebyshev fit).
RATES: tuple[float, ...] = (0.8662136088, 5.204988777, 16.95117603, 49.02192563, 138.939332)
RATES += (392.6233455, 1109.048964, 3132.832924, 8858.768522, 25387.89592)
WEIGHTS: tuple[float, ...] = (2.285116436, 6.940297344, 18.4855388, 51.28484374, 144.4181428)
WEIGHTS += (407.734394, 1151.6089, 3253.721786, 9225.929441, 27405.41475)
# x * sum of WEIGHTS * exp(-RATES * x) is at most 1 + OVERSHOOT for every x in [0, 1].
OVERSHOOT = 9.19e-4

TOP = 8  # translations evaluated exactly, next to the zero translation
TIE = 1e-6  # retained saliency, as a share of the total, below which two translations count as equal


def retained_saliency(own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
    """Compute the saliency that SAGE's mask retains for given translations, exactly.

    v(t) = sum over the frame of own * M + m * (1 - M), with m the other map moved by t and M = own / (own + m).

    Args:
        own: [B, 1, h, w], non-negative.
        other: [B, 1, h, w], non-negative, the map that moves.
        translation: [B, k, 2] int64, (dy, dx) in cells, less than a map's side.

    Returns:
        [B, k] in the dtype of the maps.

    Reference: Ma et al., "SAGE", BMVC 2022, section 3.
    """
    batch, _, height, width = own.shape
    frame = F.pad(other[:, 0], (width - 1, width - 1, height - 1, height - 1))
    windows = frame.unfold(1, height, 1).unfold(2, width, 1)
    image = torch.arange(batch, device=own.device)[:, None]
    moved = windows[image, height - 1 - translation[..., 0], width - 1 - translation[..., 1]]
    overlap = (own * moved).div_((own + moved).clamp_min_(torch.finfo(own.dtype).tiny))
    return own.sum((2, 3)) + moved.sum((2, 3)) - 2 * overlap.sum((2, 3))


def _fast_length(length: int) -> int:
    """Return the smallest even length >= `length` with no prime factor over 7."""
    length += length % 2
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def retained_saliency_map(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Approximate the retained saliency v(t) of every translation.

    Up to float32 rounding, v(t) is at most (1 - g) * approximation + g * (mass of both maps), with
    g = OVERSHOOT / (1 + OVERSHOOT): the overlap is overestimated by the factor 1 + OVERSHOOT at most.

    Args:
        own: [B, 1, h, w] float32, non-negative.
        other: [B, 1, h, w] float32, non-negative, the map that moves.

    Returns:
        [B, 2h - 1, 2w - 1] float32; entry (i, j) belongs to (dy, dx) = (i - h + 1, j - w + 1).
    """
    height, width = own.shape[-2:]
    size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))
    maps = torch.cat([own, other.flip(-2, -1)], dim=1)
    peak = maps.amax((-2, -1), keepdim=True).sum(1, keepdim=True)
    maps = maps / peak.clamp_min(torch.finfo(maps.dtype).tiny)
    spectrum = torch.fft.rfft2(maps[:, 1], s=size) * torch.fft.rfft2(torch.ones_like(maps[:1, 1]), s=size)
    for rate, weight in zip(RATES, WEIGHTS, strict=True):
        terms = torch.fft.rfft2(maps * torch.exp(-rate * maps), s=size)
        spectrum.addcmul_(terms[:, 0], terms[:, 1], value=-2 * weight)
    gained = torch.fft.irfft2(spectrum, s=size)[:, : 2 * height - 1, : 2 * width - 1]
    return own.sum((-2, -1))[..., None] + peak[:, 0] * gained


def rearrange(
    own: torch.Tensor, other: torch.Tensor, candidates: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the translation of the other map that retains most saliency, over all translations.

    All (2h - 1)(2w - 1) translations are ranked by FFT, then the best `TOP` and the zero translation are evaluated
    exactly. Translations within `TIE` of the best (relative to the maps' total mass) count as equal: the shortest wins.

    Args:
        own: [B, 1, h, w] float32, non-negative; its mass includes the mixing ratio.
        other: [B, 1, h, w] float32, non-negative, the map that moves.
        candidates: [B or 1, 2h - 1, 2w - 1] bool, the translations to choose from, entry (i, j) for
            (dy, dx) = (i - h + 1, j - w + 1); at least one each. Default: all.

    Returns:
        The translation [B, 2] int64, (dy, dx) in cells, and whether it is certified [B] bool: proven, by the bound on
        the first translation that was not evaluated exactly, to retain at least as much as any candidate, up to `TIE`.

    Reference: Ma et al., "SAGE", BMVC 2022, section 3.2.
    Differs: the authors try a random 1 % of the translations, shared by the batch.
    """
    height, width = own.shape[-2:]
    columns = 2 * width - 1
    zero = (height - 1) * columns + width - 1
    total = own.sum((2, 3)) + other.sum((2, 3))

    value = retained_saliency_map(own, other).flatten(1)
    if candidates is not None:
        value = value.masked_fill(~candidates.flatten(1), -torch.inf)
    best, index = value.topk(min(TOP + 1, value.shape[1]), dim=1)
    first_left_out = best[:, TOP:]
    index = torch.cat([index[:, :TOP], torch.full_like(index[:, :1], zero)], dim=1)
    translation = torch.stack([index // columns - (height - 1), index % columns - (width - 1)], dim=-1)

    exact = retained_saliency(own, other, translation)
    exact = exact.masked_fill(value.gather(1, index).isneginf(), -torch.inf)
    highest = exact.amax(1, keepdim=True)
    length = translation.square().sum(2) * value.shape[1] + index
    winner = length.masked_fill(exact < highest - TIE * total, torch.iinfo(length.dtype).max).argmin(1)

    bound = (first_left_out + OVERSHOOT * total) / (1 + OVERSHOOT)
    certified = (highest >= bound - TIE * total).all(1)
    return translation[torch.arange(len(winner), device=winner.device), winner], certified
