"""Saliency by a small network that comes with the package: one forward pass, no labels, no statistics."""

import copy
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import check_count
from ..tensors import resize
from .base import Saliency
from .loading import read_checkpoint

WEIGHTS = Path(__file__).with_name("network.safetensors")
STRIDE = 16  # of the coarsest features
SMALLEST = 16  # px per side that the network can look at
FIRST = "fine.0.0.weight"  # the first layer's
EPSILON = 1e-10  # variance that counts as none


class SaliencyNetwork(nn.Module):
    """Predict where the object of an image is: images [B, 3, h, w] -> logits [B, 1, ceil(h / 4), ceil(w / 4)].

    The softmax over the cells is the map. Features of stride 4, 8 and 16 are joined on the way back; every layer is a
    convolution with a ReLU, the first of `width` channels.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        fine, middle, coarse = 2 * width, 4 * width, 6 * width
        self.fine = nn.Sequential(_layer(3, width, stride=2), _layer(width, fine, stride=2))
        self.middle = nn.Sequential(_layer(fine, middle, stride=2), _layer(middle, middle))
        self.coarse = nn.Sequential(_layer(middle, coarse, stride=2), _layer(coarse, coarse), _layer(coarse, coarse))
        self.to_middle, self.join = _layer(coarse, middle, kernel=1), _layer(middle, middle)
        self.to_fine, self.head = _layer(middle, fine, kernel=1), _layer(fine, fine)
        self.out = nn.Conv2d(fine, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        fine = self.fine(images)
        middle = self.middle(fine)
        middle = self.join(middle + _enlarged(self.to_middle(self.coarse(middle)), middle))
        return self.out(self.head(fine + _enlarged(self.to_fine(middle), fine)))


def _layer(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.ReLU(inplace=True))


def _enlarged(features: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear")


def standardized(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring images [B, C, h, w] to mean 0 per channel and deviation 1 over all channels, as the network sees them.

    So the maps don't depend on how the images are normalised, as long as all channels are scaled alike, as nearly they
    are by ImageNet's statistics. Of any number of channels but 3, the mean over them is repeated.

    Returns:
        The pixels [B, 3, h, w], and which images have no contrast [B, 1, 1, 1], bool.
    """
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    centred = images - images.mean((-2, -1), keepdim=True)
    pixels, _, scale = torch.native_layer_norm(centred, centred.shape[1:], None, None, EPSILON)
    return pixels, scale > (4 / 3 * EPSILON) ** -0.5


class Network(Saliency):
    """Saliency predicted from the image alone by a small frozen network.

    It has learnt the maps of a large classifier and the boxes of objects (docs/saliency-model.md). It looks at no label
    and needs no statistics, as it removes each image's own mean and contrast. Images of any number of channels but 3
    (RGBA, multispectral) are grey to it, the mean over all; to have it see three of them, give a callable:
    `lambda images, target: network(images[:, :3], target)`.

    Args:
        checkpoint: weights of `python -m scripts.saliency`; default: those that come with the package.
        size: side in pixels of the square whose area images are resized to; their aspect ratio stays.
        floor: see `Saliency`.
        **settings: `blur` and `grid`, likewise.

    Raises:
        ValueError: the checkpoint is no file of such weights.
    """

    def __init__(
        self, checkpoint: str | os.PathLike | None = None, size: int | None = None, floor: float = 1.0, **settings
    ) -> None:
        super().__init__(floor=floor, **settings)
        self.size = 96 if size is None else check_count("size", size, SMALLEST)
        self.origin = "the package's weights" if checkpoint is None else f"weights of {os.fspath(checkpoint)}"
        self.network = load_network(WEIGHTS if checkpoint is None else checkpoint)
        self._elsewhere: dict[torch.device, SaliencyNetwork] = {}

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Predict the maps, each of sum 1, flat for an image without contrast."""
        pixels, blank = standardized(resize(images, self.seen(*images.shape[-2:])))
        logits = self.network_on(images.device)(pixels).masked_fill(blank, 0)
        return logits.flatten(2).softmax(2).view_as(logits)

    def seen(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (h, w) in pixels at which the network sees images of a size."""
        scale = self.size / (height * width) ** 0.5
        rows, columns = (max(SMALLEST, round(scale * side / 4) * 4) for side in (height, width))
        return rows, columns

    def network_on(self, device: torch.device) -> SaliencyNetwork:
        """Return the network on a device: the one that was loaded, or a copy of it that is kept."""
        if device == self.network.out.weight.device:
            return self.network
        if device not in self._elsewhere:
            self._elsewhere[device] = copy.deepcopy(self.network).to(device)
        return self._elsewhere[device]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_elsewhere": {}}

    def __repr__(self) -> str:
        return f"network ({self.origin}), at {self.size} px ({self._settings()})"


def is_network(path: str | os.PathLike) -> bool:
    """Whether a file holds weights of a saliency network, and not of a classifier."""
    return FIRST in read_checkpoint(path)[0]


@torch.inference_mode(False)
def load_network(path: str | os.PathLike) -> SaliencyNetwork:
    """Load a saliency network, frozen; torch's random state is left as found."""
    weights = read_checkpoint(path)[0]
    try:
        with torch.device("meta"):
            network = SaliencyNetwork(len(weights[FIRST]))
        network.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
        if not all(weight.isfinite().all() for weight in network.parameters()):
            raise RuntimeError("a weight is not finite")
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"`checkpoint` must hold the weights of a saliency network, got {os.fspath(path)!r} "
            f"({' '.join(str(error).split())[:200]}); for a classifier's weights use 'feature' saliency"
        ) from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
