"""What every saliency source shares: post-processing of its maps, and the normalisation of the images it is given."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..checks import check_count, check_number
from ..tensors import gaussian_blur, per_channel

Source = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std, each per channel


class Saliency:
    """A saliency source: a raw map of the images, then blur, grid and floor.

    Subclasses implement `raw`. With s the raw map and p = pool(blur(s)), the result is max(0, p - floor * mean(p)), of
    any scale: every method normalises the maps it gets.

    Args:
        blur: standard deviation of a Gaussian blur, as a share of the map's shorter side; 0 for none.
        grid: largest number of cells per side; larger maps are averaged over whole cells. None for no limit.
        floor: this many times the map's mean is subtracted, >= 0, to remove the background; 0 keeps it. Of a map with
            nothing above its floor nothing is left, and it counts as uniform.
        mean, std: per-channel statistics the images are normalised with, for images in [0, 1]; None where unknown.

    Example:
        >>> class Contrast(Saliency):
        ...     def raw(self, images, target):
        ...         return images.std(1, keepdim=True)
        >>> Contrast(blur=1 / 16, grid=16)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        blur: float = 0.0,
        grid: int | None = 64,
        floor: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.blur = check_number("blur", blur, 0, 1)
        self.grid = None if grid is None else check_count("grid", grid, 1)
        self.floor = check_number("floor", floor, 0, 100)
        self.normalized_with(mean, std)

    def normalized_with(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Set the per-channel mean and std of the images to come, sequences, tensors or arrays; None where unknown.

        Raises:
            ValueError: one without the other, of another length, or not those of images in [0, 1].
        """
        if (mean is None) != (std is None):
            raise ValueError(f"`mean` and `std` must be given together, got mean={mean!r}, std={std!r}")
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        if self.mean and self.std and (len(self.mean) != len(self.std) or 0 in self.std):
            raise ValueError(f"`std` must hold a positive number for each of `mean`, got mean={mean!r}, std={std!r}")

    @property
    def statistics(self) -> Statistics | None:
        """The mean and std that images are expected to be normalised with; None where unknown."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise images [B, C, H, W] in [0, 1] as this source expects the images it is given."""
        if self.statistics is None:
            return pixels
        mean, std = (per_channel(values, pixels) for values in self.statistics)
        return (pixels - mean) / std

    def raw(self, images: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Compute a non-negative map [B, 1, h, w], with gradients enabled.

        Images [B, C, H, W] in float32, and target as in `__call__`, are cut off from any graph.
        """
        raise NotImplementedError

    def __call__(self, images: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the saliency maps of a batch.

        Args:
            images: [B, C, H, W], floating point, normalised as in training. Not changed.
            target: [B, N] class weights (one-hot for plain labels), [B] labels of the model's own classes, or None.

        Returns:
            [B, 1, h, w] float32, non-negative, any scale; free of gradient history.
        """
        with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
            images, target = _cut_off(images).float(), None if target is None else _cut_off(target)
            with torch.enable_grad():
                maps = self.raw(images, target)
            with torch.no_grad():
                return self._finished(maps.detach())

    def _finished(self, maps: torch.Tensor) -> torch.Tensor:
        """Blur raw maps, average them down to the grid and subtract the floor."""
        maps = maps.float()
        if self.blur:
            maps = gaussian_blur(maps, self.blur * min(maps.shape[-2:]))
        rows, columns = (math.ceil(side / math.ceil(side / (self.grid or side))) for side in maps.shape[-2:])
        if (rows, columns) != maps.shape[-2:]:
            maps = F.adaptive_avg_pool2d(maps, (rows, columns))
        if self.floor:
            # A little more than the floor, since rounding leaves specks of a flat map.
            usual = maps.mean((-2, -1), keepdim=True)
            maps = maps.sub(usual, alpha=self.floor * (1 + 1e-4)).clamp_min_(0)
        return maps

    def _settings(self) -> str:
        return f"blur {self.blur:.3g}, grid {self.grid}, floor {self.floor:g}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings()})"


def _numbers(name: str, values: Any) -> tuple[float, ...] | None:
    """Return statistics as plain numbers."""
    if values is None:
        return None
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(0 <= value <= 1 for value in numbers):
        raise ValueError(
            f"`{name}` must hold numbers in [0, 1], as of images in [0, 1], got {values!r}; divide those of images in "
            "[0, 255] by 255"
        )
    return tuple(numbers)


def _cut_off(tensor: torch.Tensor) -> torch.Tensor:
    """Detach a tensor; clone it if it is an inference tensor, which autograd refuses."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


class Custom(Saliency):
    """Any callable `(images, target) -> [B, 1, h, w]` as a source; its maps are used as they are."""

    def __init__(self, function: Source) -> None:
        super().__init__()
        self.function = function

    def __call__(self, images: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Call the function on the batch itself, with gradients enabled."""
        with torch.inference_mode(False), torch.enable_grad():
            return self.function(_cut_off(images), None if target is None else _cut_off(target))

    def __repr__(self) -> str:
        return repr(self.function)
