"""Checks of values that do not wait for the GPU."""

import threading
import warnings
from collections.abc import Callable, Sequence

import torch

from .tensors import per_channel

FAR_OUT = 20.0  # an absolute pixel value that no image on a scale of [0, 1] has
SLACK = 0.01  # by which class weights may leave [0, 1]: the rounding of half precision
_LOCK = threading.Lock()  # of all checks that are on their way


class ValueChecks:
    """Checks of tensor values that never make the host wait for a CUDA device.

    On CUDA the outcome of a check travels to the host in the background, and the check acts at the first call after it
    has arrived, usually one batch later; elsewhere at once.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[torch.cuda.Event, torch.Tensor, Callable[[torch.Tensor], None]]] = []
        self._warned = False

    def labels(self, target: torch.Tensor, num_classes: int, name: str = "target") -> None:
        """Raise ValueError where an integer label [B] lies outside [0, num_classes)."""

        def act(found: torch.Tensor) -> None:
            low, high = (int(extreme) for extreme in found.long().aminmax())
            if low < 0 or high >= num_classes:
                got, hint = (low, "drop images without a label") if low < 0 else (high, "check `num_classes`")
                raise ValueError(f"`{name}` must hold labels in [0, {num_classes - 1}], got {got}; {hint}")

        self._submit(target, act)

    def weights(self, target: torch.Tensor, name: str = "target") -> None:
        """Raise ValueError where a class weight [B, N] is not finite or lies outside [0, 1], up to `SLACK`."""
        if not target.numel():
            return
        weights = target.detach().float().flatten()
        unfit = ~((weights >= -SLACK) & (weights <= 1 + SLACK))
        first = unfit.int().argmax(0, keepdim=True)

        def act(found: torch.Tensor) -> None:
            unfit, row, value = found.tolist()
            if unfit:
                raise ValueError(
                    f"`{name}` must hold finite class weights in [0, 1], got {value:g} in row {row:.0f}; "
                    "give such an image weights of 0, or drop it"
                )

        self._submit(torch.cat([unfit[first], first // target.shape[1], weights[first]]), act)

    def scale(self, images: torch.Tensor, mean: Sequence[float], std: Sequence[float], assumed: bool) -> None:
        """Warn where images [B, C, H, W] are not in [0, 1] once their normalisation, per channel, is undone.

        Statistics that are `assumed`, not given by the user, are doubted sooner.
        """

        def act(found: torch.Tensor) -> None:
            lowest, far, outside, smallest, largest = found.tolist()
            if far > FAR_OUT:
                said = "scale them, or give create_saliency their own `mean` and `std`"
            elif assumed and (outside > 0.05 or lowest > 0.3):
                said = (
                    "these statistics are the saliency model's: give create_saliency the images' own `mean` and `std`"
                )
            elif min(mean) > 0 and smallest >= 0 and largest <= 1:
                said = "as if not normalised: normalise them, or give create_saliency a `mean` of 0 and a `std` of 1"
            else:
                return
            warnings.warn(
                f"images must be in [0, 1], then normalised by mean {tuple(mean)} and std {tuple(std)}, for their "
                f"saliency; got values from {smallest:.3g} to {largest:.3g}; {said}",
                stacklevel=2,
            )

        pixels = images * per_channel(std, images) + per_channel(mean, images)
        outside = ((pixels - 0.5).abs() > 0.55).float().mean()
        self._submit(torch.stack([pixels.amin(), pixels.abs().amax(), outside, *images.aminmax()]), act)

    def saliency(self, images: torch.Tensor, maps: torch.Tensor) -> None:
        """Warn once of maps [B, 1, h, w] with negative or non-finite values, counted as 0, or that are 0 everywhere.

        If the image itself is not finite, warn of that instead.
        """

        def act(found: torch.Tensor) -> None:
            mean, lowest, highest = found.unbind()
            finite, unfit, empty, said = mean.isfinite(), ~((lowest >= 0) & highest.isfinite()), highest <= 0, []
            if which := (~finite & (unfit | empty)).nonzero().flatten().tolist():
                more = ", ..." if len(which) > 5 else ""
                said.append(
                    f"`images` must be finite, got NaN or infinite pixels in number {', '.join(map(str, which[:5]))}"
                    f"{more} of a batch of {len(finite)}; drop or mend them"
                )
            if count := int((finite & unfit).sum()):
                said.append(f"{count} of {len(finite)} saliency maps have negative or non-finite values, counted as 0")
            if count := int((finite & empty).sum()):
                said.append(f"{count} of {len(finite)} saliency maps are 0 everywhere and count as uniform")
            if said and not self._warned:
                self._warned = True
                warnings.warn("; ".join(said) + " (shown once)", stacklevel=2)

        mean = images.mean((1, 2, 3), dtype=torch.float32)
        self._submit(torch.stack([mean, *maps.flatten(1).aminmax(dim=1)]), act)

    def _submit(self, outcome: torch.Tensor, act: Callable[[torch.Tensor], None]) -> None:
        if not outcome.is_cuda:
            act(outcome)
            return
        host = outcome.to("cpu", non_blocking=True)  # into pinned memory
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(outcome.device))
        self._pending.append((arrived, host, act))
        while True:
            with _LOCK:
                if not (self._pending and self._pending[0][0].query()):
                    return
                _, host, act = self._pending.pop(0)
            act(host)

    def __getstate__(self) -> dict:
        return {**vars(self), "_pending": []}
