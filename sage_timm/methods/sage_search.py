"""The optimal rearrangement: retained saliency of every translation at once, by FFT.

For non-negative maps `own` and `other`, with m the other map moved by t and 0 outside the frame,

    v(t) = sum own + visible(t) - 2 overlap(t),    overlap(t) = sum over the frame of own * m / (own + m).

`visible`, the mass of the other map that stays in the frame, is a cross-correlation with a frame of ones. So is
overlap, summed over a few terms: for any poles p_1 ... p_K > 0, with r_k(x) the product of (p_j - x) / (p_j + x) over
j <= k, and f_k(x) = r_k-1(x) x / (p_k + x),

    a b / (a + b) * (1 - r_K(a) r_K(b)) = sum over k of 2 p_k f_k(a) f_k(b).

With poles that span the larger values of the maps, r_K is small where there is something to overlap, and all
(2h - 1)(2w - 1) translations cost a few FFTs. The approximation only ranks; the best few are computed exactly.
"""

import torch
import torch.nn.functional as F

TERMS = 3  # poles
SMALLEST = 0.1, 1e-4  # no pole lies below these shares of a map's typical and of its largest value
TOP = 10  # translations evaluated exactly, next to the zero translation
TIE = 1e-6  # retained saliency, as a share of the best, below which two translations count as equal
CACHED = 2**19  # numbers that are worked on at once on a CPU: more would leave its cache; elsewhere 128 times as many


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
    height, width = own.shape[-2:]
    retained = []
    count = _at_once(own, 2 * translation.shape[1] * height * width)
    for own_part, other_part, moves in zip(own.split(count), other.split(count), translation.split(count), strict=True):
        frame = F.pad(other_part[:, 0], (width - 1, width - 1, height - 1, height - 1))
        windows = frame.unfold(1, height, 1).unfold(2, width, 1)
        image = torch.arange(len(frame), device=own.device)[:, None]
        moved = windows[image, height - 1 - moves[..., 0], width - 1 - moves[..., 1]]
        # own * M + m * (1 - M) = (own^2 + m^2) / (own + m); 0 / 0, where both are 0, retains nothing.
        both = own_part + moved
        retained.append(moved.square_().addcmul_(own_part, own_part).div_(both).nansum((2, 3)))
    return torch.cat(retained) if len(retained) > 1 else retained[0]


def _at_once(maps: torch.Tensor, numbers: int) -> int:
    """Return how many images of so many temporary numbers each are worked on at once."""
    return max(1, (CACHED if maps.device.type == "cpu" else 128 * CACHED) // numbers)


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


def poles(maps: torch.Tensor, terms: int) -> torch.Tensor:
    """Choose the poles for pairs of maps [B, 2, 1, h, w]: [B, 1, K, 1, 1].

    They lie at equal ratios from the largest value of a pair to its smallest, or to a share of a typical value (the
    squared mean of the roots, which a few large values hardly raise) where that is more.
    """
    of_typical, of_largest = SMALLEST
    smallest, largest = maps.flatten(1).aminmax(dim=1)
    smallest = torch.maximum(smallest, of_typical * maps.sqrt().mean((1, 2, 3, 4)).square())
    largest = largest.clamp_min(torch.finfo(maps.dtype).tiny)
    span = (smallest / largest).clamp_min(of_largest)
    exponent = torch.linspace(0, 1, terms, device=maps.device).view(-1, 1, 1)
    return largest.view(-1, 1, 1, 1, 1) * span.view(-1, 1, 1, 1, 1) ** exponent


def _lost(own: torch.Tensor, other: torch.Tensor, terms: int) -> torch.Tensor:
    """Approximate 2 overlap - visible for every translation, by maps [B, 1, h, w]: [B, 2h - 1, 2w - 1]."""
    height, width = own.shape[-2:]
    size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))
    maps = torch.stack([own, other.flip(-2, -1)], dim=1)
    count = _at_once(own, 2 * (1 + terms) * size[0] * size[1])

    # What is multiplied and summed: a frame of -1 by the map itself, and for each pole the factors of both maps. Only
    # the corner is written for each part; the frame and the padding stay.
    factors = maps.new_zeros(min(count, len(maps)), 2, 1 + terms, *size)
    factors[:, 0, 0, :height, :width] = -1
    spectra = []
    for part, pole in zip(maps.split(count), poles(maps, terms).split(count), strict=True):
        inside = factors[: len(part), :, :, :height, :width]
        share = part / (pole + part)
        remainder = torch.rsub(share[:, :, :-1], 1, alpha=2).cumprod(2)
        inside[:, 1, 0] = part[:, 1, 0]
        inside[:, :, 1] = share[:, :, 0]
        inside[:, :, 2:] = share[:, :, 1:] * remainder
        inside[:, 0, 1:].mul_(4 * pole[:, 0])
        frame, moving = torch.fft.rfft2(factors[: len(part)]).unbind(1)
        spectra.append((frame * moving).sum(1))
    spectrum = torch.cat(spectra) if len(spectra) > 1 else spectra[0]
    return torch.fft.irfft2(spectrum, s=size)[:, : 2 * height - 1, : 2 * width - 1]


def retained_saliency_map(own: torch.Tensor, other: torch.Tensor, terms: int = TERMS) -> torch.Tensor:
    """Approximate the retained saliency v(t) of every translation.

    Args:
        own: [B, 1, h, w] float32, non-negative.
        other: [B, 1, h, w] float32, non-negative, the map that moves.
        terms: number of poles.

    Returns:
        [B, 2h - 1, 2w - 1] float32; entry (i, j) belongs to (dy, dx) = (i - h + 1, j - w + 1).
    """
    return own.sum((-2, -1))[..., None] - _lost(own, other, terms)


def rearrange(own: torch.Tensor, other: torch.Tensor, candidates: torch.Tensor | None = None) -> torch.Tensor:
    """Find the translation of the other map that retains most saliency, over all translations.

    All (2h - 1)(2w - 1) translations are ranked by FFT, then the best `TOP` and the zero translation are evaluated
    exactly. Translations within `TIE` of the best count as equal: the shortest wins.

    Args:
        own: [B, 1, h, w] float32, non-negative; its mass includes the mixing ratio.
        other: [B, 1, h, w] float32, non-negative, the map that moves.
        candidates: [B or 1, 2h - 1, 2w - 1] bool, the translations to choose from, entry (i, j) for
            (dy, dx) = (i - h + 1, j - w + 1); at least one each. Default: all.

    Returns:
        [B, 2] int64, (dy, dx) in cells.

    Reference: Ma et al., "SAGE", BMVC 2022, section 3.2.
    Differs: the authors try a random 1 % of the translations, shared by the batch.
    """
    height, width = own.shape[-2:]
    columns = 2 * width - 1
    value = retained_saliency_map(own, other).flatten(1)
    value[:, (height - 1) * columns + width - 1] = torch.inf
    if candidates is not None:
        value = value.masked_fill(~candidates.flatten(1), -torch.inf)
    best, index = value.topk(min(TOP + 1, value.shape[1]), dim=1)
    translation = torch.stack([index // columns - (height - 1), index % columns - (width - 1)], dim=-1)
    exact = retained_saliency(own, other, translation)
    if candidates is not None:
        exact = exact.masked_fill(best.isneginf(), -torch.inf)
    worse = exact < (1 - TIE) * exact.amax(1, keepdim=True)
    length = translation.square().sum(2).masked_fill(worse, torch.iinfo(torch.int64).max)
    winner = length.argmin(1, keepdim=True)
    return translation.gather(1, winner[..., None].expand(-1, -1, 2)).squeeze(1)
