"""The optimal rearrangement: retained saliency of every translation at once, by FFT.

For non-negative maps `own` and `other`, with m the other map moved by t and 0 outside the frame,

    v(t) = sum own + visible(t) - 2 overlap(t),    overlap(t) = sum over the frame of own * m / (own + m).

`visible`, the mass of the other map that stays in the frame, is a cross-correlation with a frame of ones. So is
overlap, summed over a few terms: for any poles p_1 ... p_K > 0, with r_k(x) the product of (p_j - x) / (p_j + x) over
j <= k,

    a b / (a + b) * (1 - r_K(a) r_K(b)) = sum over k of p_k / 2 * (r_k-1(a) - r_k(a)) * (r_k-1(b) - r_k(b)),

and with Zolotarev's poles (Wachspress, J. SIAM 1962) |r_K| is small on all of [SMALLEST, 1]. All (2h - 1)(2w - 1)
translations cost a few FFTs. The approximation only ranks; the best few are computed exactly.
"""

import torch
import torch.nn.functional as F

# Poles that make the largest |r_K(x)| on [SMALLEST, 1] smallest: K = 8 to search with, K = 12 to certify with. Each
# pole times its mirror image in the list is SMALLEST.
SMALLEST = 1e-4
POLES = (0.8146982, 0.2691867, 0.07282985, 0.01939058, 0.005157143, 0.001373063, 0.0003714894, 0.0001227448)
FINE_POLES = (0.909863, 0.4967071, 0.217294, 0.09075397, 0.03759281, 0.01555001)
FINE_POLES += (0.006430863, 0.002660083, 0.00110188, 0.0004602059, 0.0002013259, 0.0001099067)
FINE_ERROR = 7.49e-3  # largest |r_K(x)| of FINE_POLES on [SMALLEST, 1]

TOP = 8  # translations evaluated exactly, next to the zero translation
TIE = 1e-6  # retained saliency, as a share of the best, below which two translations count as equal
CACHED = 2**20  # numbers that are transformed at once on a CPU: more would leave its cache; 128 times as many elsewhere


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
    both = (own + moved).clamp_min_(torch.finfo(own.dtype).tiny)
    return own.sum((2, 3)) + (moved - own).mul_(moved).div_(both).sum((2, 3))


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


def _spectrum(own: torch.Tensor, other: torch.Tensor, poles: tuple[float, ...], size: tuple[int, int]) -> torch.Tensor:
    """Compute the transform of visible - 2 overlap, for `other` turned by 180 degrees: [B, *, *] complex64."""
    maps = torch.stack([own, other], dim=1)
    peak = maps.amax((-2, -1), keepdim=True).sum(1, keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    pole = torch.tensor(poles).to(maps.device, non_blocking=True).view(-1, 1, 1) * peak
    terms = maps.new_zeros(len(maps), 2, 1 + len(poles), *size)
    inside = terms[..., : maps.shape[-2], : maps.shape[-1]]
    r = ((pole - maps) / (pole + maps)).cumprod(2)
    inside[:, 0, 0], inside[:, 1, 0] = 1, other[:, 0]
    torch.sub(r[:, :, 0], 1, out=inside[:, :, 1])
    torch.sub(r[:, :, 1:], r[:, :, :-1], out=inside[:, :, 2:])
    inside[:, 0, 1:].mul_(-pole[:, 0])
    frame, moving = torch.fft.rfft2(terms).unbind(1)
    return (frame * moving).sum(1)


def retained_saliency_map(own: torch.Tensor, other: torch.Tensor, poles: tuple[float, ...] = POLES) -> torch.Tensor:
    """Approximate the retained saliency v(t) of every translation.

    Args:
        own: [B, 1, h, w] float32, non-negative.
        other: [B, 1, h, w] float32, non-negative, the map that moves.
        poles: see this module, for maps whose largest values sum to 1.

    Returns:
        [B, 2h - 1, 2w - 1] float32; entry (i, j) belongs to (dy, dx) = (i - h + 1, j - w + 1).
    """
    height, width = own.shape[-2:]
    size = (_fast_length(2 * height - 1), _fast_length(2 * width - 1))
    numbers = CACHED if own.device.type == "cpu" else 128 * CACHED
    part = max(1, numbers // (2 * (1 + len(poles)) * size[0] * size[1]))
    pairs = zip(own.split(part), other.flip(-2, -1).split(part), strict=True)
    spectrum = torch.cat([_spectrum(*pair, poles, size) for pair in pairs])
    gained = torch.fft.irfft2(spectrum, s=size)[:, : 2 * height - 1, : 2 * width - 1]
    return own.sum((-2, -1))[..., None] + gained


def _ranked(own: torch.Tensor, other: torch.Tensor, candidates: torch.Tensor | None, poles: tuple[float, ...]):
    """Rank the candidates by FFT and evaluate the zero translation and the best `TOP` exactly.

    Returns:
        These translations [B, k, 2], what they retain [B, k], -inf where one is no candidate, and the approximate value
        of the first one left out [B, 1], or [B, 0] where none was.
    """
    height, width = own.shape[-2:]
    columns = 2 * width - 1
    value = retained_saliency_map(own, other, poles).flatten(1)
    value[:, (height - 1) * columns + width - 1] = torch.inf
    if candidates is not None:
        value = value.masked_fill(~candidates.flatten(1), -torch.inf)
    best, index = value.topk(min(TOP + 2, value.shape[1]), dim=1)
    index = index[:, : TOP + 1]
    translation = torch.stack([index // columns - (height - 1), index % columns - (width - 1)], dim=-1)
    exact = retained_saliency(own, other, translation)
    if candidates is not None:
        exact = exact.masked_fill(best[:, : TOP + 1].isneginf(), -torch.inf)
    return translation, exact, best[:, TOP + 1 :]


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
    translation, exact, _ = _ranked(own, other, candidates, POLES)
    worse = exact < (1 - TIE) * exact.amax(1, keepdim=True)
    length = translation.square().sum(2).masked_fill(worse, torch.iinfo(torch.int64).max)
    winner = length.argmin(1, keepdim=True)
    return translation.gather(1, winner[..., None].expand(-1, -1, 2)).squeeze(1)


def certify(
    own: torch.Tensor, other: torch.Tensor, translation: torch.Tensor, candidates: torch.Tensor | None = None
) -> torch.Tensor:
    """Try to prove that translations are best: that each retains as much as any candidate, up to `TIE`.

    The candidates are ranked by `FINE_POLES` and the best evaluated exactly; the others are bounded. At a cell where
    both maps are at least SMALLEST of their peak, the approximate overlap is too large by the factor 1 + e^2 at most,
    e being FINE_ERROR; where one is smaller, by e times that one. Rounding in float32 is left to `TIE`.

    Args:
        own, other, candidates: see `rearrange`.
        translation: [B, 2] int64, (dy, dx) in cells.

    Returns:
        [B] bool; False where the bound cannot tell.
    """
    _, exact, left_out = _ranked(own, other, candidates, FINE_POLES)
    maps = torch.cat([own, other], dim=1)
    least = SMALLEST * maps.amax((2, 3), keepdim=True).sum(1, keepdim=True)
    small = maps.masked_fill(maps >= least, 0).sum((1, 2, 3))[:, None]
    total = maps.sum((1, 2, 3))[:, None]
    bound = (left_out + 2 * FINE_ERROR * small + FINE_ERROR**2 * total) / (1 + FINE_ERROR**2)
    reached = retained_saliency(own, other, translation[:, None])
    return (reached >= torch.cat([exact, bound], dim=1) - TIE * total).all(1)
