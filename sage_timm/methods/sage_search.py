"""The optimal rearrangement: retained saliency of every translation at once, by FFT.

For non-negative maps `own` and `other`, [B, 1, h, w], with m the other map moved by t and 0 outside the frame,

    v(t) = sum over the frame of own * M + m * (1 - M)                    where M = own / (own + m),
         = sum own + visible(t) - 2 overlap(t)                            where overlap = sum of own * m / (own + m).

`visible`, the mass of the other map that stays in the frame, is a cross-correlation with a frame of ones. So is
overlap, summed over a few terms: for any poles p_1 ... p_K > 0, with r_k(x) the product of (p_j - x) / (p_j + x) over
j <= k, and f_k(x) = r_k-1(x) x / (p_k + x),

    a b / (a + b) * (1 - r_K(a) r_K(b)) = sum over k of 2 p_k f_k(a) f_k(b).

With poles that span the larger values of the maps, r_K is small where there is something to overlap, and all
(2h - 1)(2w - 1) translations cost a few FFTs. The approximation only ranks; the best few are computed exactly.

Translations are numbered by the window of the other map, padded by 0, that each puts into the frame: row by row, from
(h - 1, w - 1) = down and right, to (1 - h, 1 - w).
"""

import torch
import torch.nn.functional as F

from ..tensors import made_once, numbers

TERMS = 3  # poles
TYPICAL = 0.1  # no pole lies below this share of a pair's typical value, unless all values are larger
TOP = 10  # translations evaluated exactly, next to the zero translation
TIE = 1e-6  # retained saliency, as a share of the best, below which two translations count as equal
CACHED = 2**19  # numbers that are worked on at once on a CPU: more would leave its cache; elsewhere 128 times as many


@made_once
def translations(
    grid: tuple[int, int], size: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """List all translations of a grid (h, w).

    Returns:
        [N, 2] int64, (dy, dx) of each in pixels of an image of `size`, rounded; and [N] int64, its squared length in
        cells.
    """
    cells = torch.cartesian_prod(*(torch.arange(side - 1, -side, -1) for side in grid))
    pixels = (cells.double() * torch.tensor(size) / torch.tensor(grid)).round().long()
    return pixels.to(device), cells.square().sum(1).to(device)


@made_once
def steps(count: int, device: torch.device) -> torch.Tensor:
    """Return `count` equal steps from 0 to 1, [count] float32."""
    return torch.linspace(0, 1, count, dtype=torch.float32).to(device)


def retained_saliency(own: torch.Tensor, other: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Compute v of given translations, [B, k] int64, by their number, exactly: [B, k] in the dtype of the maps."""
    height, width = own.shape[-2:]
    pitch, retained = 2 * width - 1, []
    count = _at_once(own, 2 * number.shape[1] * height * width)
    for own_part, other_part, part in zip(own.split(count), other.split(count), number.split(count), strict=True):
        # What lies left of a row is what lies right of the one above, so that a window's number is where it begins.
        frame = F.pad(other_part[:, 0], (width - 1, 0, height - 1, height))
        windows = frame.as_strided((len(part), (2 * height - 1) * pitch, height, width), (frame.stride(0), 1, pitch, 1))
        moved = windows[numbers(len(part), part.device)[:, None], part]
        # own * M + m * (1 - M) = (own^2 + m^2) / (own + m); 0 / 0, where both are 0, retains nothing.
        both = own_part + moved
        retained.append(moved.square_().addcmul_(own_part, own_part).div_(both).nansum((2, 3)))
    return torch.cat(retained) if len(retained) > 1 else retained[0]


def _at_once(maps: torch.Tensor, count: int) -> int:
    """Return how many images of so many temporary numbers each are worked on at once."""
    return max(1, (CACHED if maps.device.type == "cpu" else 128 * CACHED) // count)


def poles(maps: torch.Tensor, terms: int) -> torch.Tensor:
    """Choose the poles for pairs of maps [B, 2, 1, h, w]: [B, 1, K, 1, 1].

    They lie at equal ratios from the largest value of a pair to its smallest, or to a share of a typical value (the
    squared mean of the roots, which a few large values hardly raise) where that is more.
    """
    values = maps.flatten(1)
    smallest, largest = values.aminmax(dim=1)
    roots = torch.linalg.vector_norm(values, 0.5, dim=1)  # the squared sum of the roots
    smallest = torch.maximum(smallest, roots * (TYPICAL / values.shape[1] ** 2))
    ratio = (smallest / largest).view(-1, 1, 1, 1, 1)
    return largest.view(-1, 1, 1, 1, 1) * ratio ** steps(terms, maps.device).view(-1, 1, 1)


def lost_saliency(own: torch.Tensor, other: torch.Tensor, terms: int = TERMS) -> torch.Tensor:
    """Approximate (2 overlap - visible) / 4 of every translation, by number: [B, (2h - 1)(2w - 1)] float32."""
    height, width = own.shape[-2:]
    size = [-(-(2 * side - 1) // 8) * 8 for side in (height, width)]  # a length that an FFT is quick at
    maps = torch.stack([own.flip(-2, -1), other], dim=1)
    count = _at_once(own, 2 * (1 + terms) * size[0] * size[1])

    # What is multiplied and summed: a frame of -1/4 by the map itself, and for each pole the factors of both maps. Only
    # the corner is written for each part; the frame and the padding stay.
    factors = maps.new_zeros(min(count, len(maps)), 2, 1 + terms, *size)
    factors[:, 0, 0, :height, :width].fill_(-0.25)
    spectra = []
    for part, pole in zip(maps.split(count), poles(maps, terms).split(count), strict=True):
        inside = factors[: len(part), :, :, :height, :width]
        inside[:, 1, 0] = part[:, 1, 0]
        share = torch.div(part, pole + part, out=inside[:, :, 1:])
        remainder = torch.rsub(share[:, :, :-1], 1, alpha=2).cumprod(2)
        share[:, :, 1:].mul_(remainder)
        share[:, 0].mul_(pole[:, 0])
        frame, moving = torch.fft.rfft2(factors[: len(part)]).unbind(1)
        spectra.append((frame * moving).sum(1))
    spectrum = torch.cat(spectra) if len(spectra) > 1 else spectra[0]
    return torch.fft.irfft2(spectrum, s=size)[:, : 2 * height - 1, : 2 * width - 1].flatten(1)


def rearrange(own: torch.Tensor, other: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Find the translation of the other map that retains most saliency, over all translations.

    All (2h - 1)(2w - 1) translations are ranked by FFT, then the best `TOP` and the zero translation are evaluated
    exactly. Translations within `TIE` of the best count as equal: the shortest wins.

    Args:
        own: [B, 1, h, w] float32, non-negative; its mass includes the mixing ratio.
        other: [B, 1, h, w] float32, non-negative, the map that moves; not 0 everywhere where the own map is.
        size: (H, W) of the images that the maps cover. Default: (h, w).

    Returns:
        [B, 2] int64, (dy, dx) in pixels of `size`, rounded.

    Reference: Ma et al., "SAGE", BMVC 2022, section 3.2.
    Differs: the authors try a random 1 % of the translations, shared by the batch.
    """
    height, width = own.shape[-2:]
    pixels, length = translations((height, width), size or (height, width), own.device)
    lost = lost_saliency(own, other)
    lost[:, len(length) // 2].fill_(-torch.inf)  # the zero translation
    number = lost.topk(min(TOP + 1, len(length)), dim=1, largest=False).indices
    retained = retained_saliency(own, other, number)
    worse = retained < (1 - TIE) * retained.amax(1, keepdim=True)
    winner = length[number].masked_fill_(worse, torch.iinfo(torch.int64).max).argmin(1, keepdim=True)
    return pixels[number.gather(1, winner)[:, 0]]
