"""Saliency from the image's spectrum alone."""

import torch
import torch.nn.functional as F

from ..checks import check_count
from ..tensors import resize
from .base import Saliency


class Spectral(Saliency):
    """Spectral residual: an image's log amplitude spectrum minus its local average; the target is not used.

    With F the Fourier transform of the grey image, A = |F| and R = log A - mean3x3(log A), the map is
    |F^-1(exp(R) F / A)|^2 = |F^-1(F / exp(mean3x3(log A)))|^2.

    Args:
        size: side in pixels that the image is reduced to; smaller images are used as they are.
        blur: see `Saliency`.
        **settings: `grid`, `floor`, `mean` and `std`, see `Saliency`.

    Reference: Hou & Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007; computed at 64 x 64 as there.
    """

    def __init__(self, size: int | None = None, blur: float = 1 / 16, **settings) -> None:
        super().__init__(blur, **settings)
        self.size = 64 if size is None else check_count("size", size, 4)

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        height, width = (min(self.size, side) for side in images.shape[-2:])
        spectrum = torch.fft.fft2(resize(images.mean(1, keepdim=True), (height, width)))
        log = spectrum.abs().clamp_min(torch.finfo(torch.float32).eps).log()
        usual = F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="replicate"), 3, stride=1).exp()
        return torch.fft.ifft2(spectrum / usual).abs().square()

    def __repr__(self) -> str:
        return f"spectral residual at {self.size} px ({self._settings()})"
