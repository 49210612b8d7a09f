"""What a run shows of its mixing: that batches are mixed at all, and the first of them as pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..mixup import MethodMixup
from ..plan import MixPlan
from ..tensors import per_channel
from ..visualize import draw_mixed
from .console import say

# Optimizer steps or batches after which training without mixing is an error.
PATIENCE = 10
DRAWN = 32  # images of a picture


class Monitor:
    """Counts the batches of a run and fails where mixing was `asked` for, by that flag, and does not happen."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.batches = self.chances = self.mixed = self.steps = 0
        self.enabled = True

    def batch(self, mixup: MethodMixup, size: int, mixed: bool) -> None:
        """Count a batch of `size` images that came through `mixup`; RuntimeError where mixing does not happen."""
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "sage_timm mixes in the training process, on its device: call Mixup after the DataLoader"
            )
        if self.enabled and not mixup.mixup_enabled:
            say("mixing is switched off from here on")
        self.enabled = mixup.mixup_enabled
        self.batches += 1
        self.chances += self.enabled
        self.mixed += mixed
        improbable = self.chances >= PATIENCE and (1 - mixup.mix_prob) ** self.chances < 1e-9
        if self.chances and not self.mixed and (size == 1 or improbable):
            raise RuntimeError(
                f"none of {self.chances} batches was mixed though {self.asked} was given; the last had "
                f"{size} image(s), and an image needs a partner: set a batch size of at least 2"
            )

    def step(self) -> None:
        """Count an optimizer step; RuntimeError after a few of them without a batch that came through Mixup."""
        self.steps += 1
        if self.batches == 0 and self.steps >= PATIENCE:
            raise RuntimeError(
                f"{self.asked} was given, but {self.steps} optimizer steps gave no batch to timm's Mixup; "
                "the script must call it (`images, target = mixup_fn(images, target)`) or give it to create_loader"
            )

    def end(self) -> None:
        """Say so where none of the run's batches was mixed."""
        if self.batches and not self.mixed:
            say(
                f"none of the {self.batches} batches was mixed: {self.asked} had no effect on this run; see "
                "--mixup-prob, --mixup-off-epoch and --start-epoch"
            )


def unused(folder: Path) -> Path:
    """Return the folder, or where there are pictures of another run, the first of FOLDER-2, FOLDER-3 ... without."""
    number, free = 1, folder
    while any(free.glob("*.png")):
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def save_picture(
    path: Path,
    images: torch.Tensor,
    target: torch.Tensor,
    plan: MixPlan,
    mixers: Sequence[str],
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> None:
    """Draw the first `DRAWN` images of a mixed batch to a file.

    Args:
        path: the file.
        images: [B, C, H, W], before mixing.
        target: [B, N] class weights.
        plan: the plan of the batch.
        mixers: what mixed each image.
        statistics: mean and std that the images are normalised with, if known.
    """
    images = images.float()
    if statistics is not None:
        mean, std = (per_channel(values, images) for values in statistics)
        images = images * std + mean
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"class {label}" for label in target.argmax(1).tolist()]
    draw_mixed(images, plan, names, DRAWN, mixers=mixers).savefig(path, dpi=100)
