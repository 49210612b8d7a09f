"""What a run shows of its mixing: how many batches were mixed, and the first of them as pictures."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..plan import MixPlan
from ..tensors import per_channel
from ..visualize import draw_mixed
from .console import refuse, say

PATIENCE = 10  # optimizer steps after which a run without a mixed batch is warned
DRAWN = 32  # images of a picture
BY_METHOD, BY_OTHERS, CUTMIX, UNMIXED, OFF = "abcde"


class Monitor:
    """Counts the batches of a run; `asked` is the flag that turned mixing on, for messages.

    All its processes count in one file, the workers of a DataLoader included: each batch adds a letter.
    """

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.steps = 0
        self.off = False
        handle, self.path = tempfile.mkstemp(prefix="sage_timm-")
        os.close(handle)

    def counts(self, until: int | None = None) -> Counter[str]:
        """Count the batches so far, or the first ones `until` a number, by letter."""
        return Counter(Path(self.path).read_text()[:until])

    def mixed(self) -> int:
        """Count the mixed batches so far."""
        counts = self.counts()
        return counts[BY_METHOD] + counts[BY_OTHERS] + counts[CUTMIX]

    def batch(self, letter: str) -> int:
        """Count a batch; return its number among those of all processes."""
        if letter == OFF and not self.off:
            say("mixing is switched off from here on")
        self.off = letter == OFF
        with open(self.path, "a") as file:
            file.write(letter)
            return file.tell()

    def step(self) -> None:
        """Count an optimizer step; warn where a few of them saw no mixed batch."""
        self.steps += 1
        if self.steps == PATIENCE and not self.mixed():
            say(f"warning: {self.asked} was given, but {PATIENCE} optimizer steps saw no mixed batch so far")

    def end(self, built: bool) -> None:
        """Say how many batches were mixed; exit where none was that should have been; the script `built` a mixer."""
        counts, mixed = self.counts(), self.mixed()
        total = counts.total()
        idle = built and not self.steps and not total
        if mixed or idle or counts[OFF] == total > 0:
            why = ": the script made no optimizer step" if idle else ""
            say(f"{mixed} of {total} batches were mixed, {counts[BY_METHOD]} of them by {self.asked}{why}")
        elif total:
            refuse(
                f"{self.asked} was given, but none of the {total} batches was mixed; they must hold at least 2 images, "
                "and be mixed more often"
            )
        elif built:
            refuse(
                f"{self.asked} was given, but {self.steps} optimizer steps gave no batch to the mixer; the script must "
                "call it, `images, target = mixup_fn(images, target)`, or give it to its loader"
            )
        else:
            refuse(
                f"{self.asked} was given, but the script never built timm's Mixup nor torchvision's v2.MixUp: nothing "
                "was mixed; turn mixing on in the script, or put SageMixup or SageMix into it, see docs/training.md"
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
    """Draw the first `DRAWN` images [B, C, H, W] of a batch, before it is mixed, to a file.

    `target` holds class weights [B, N], `mixers` what mixed each image, `statistics` the mean and std that
    floating-point images are normalised with, if known.
    """
    pixels = images.float() if images.is_floating_point() else images / 255
    if statistics is not None and images.is_floating_point():
        mean, std = (per_channel(values, pixels) for values in statistics)
        pixels = pixels * std + mean
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"class {label}" for label in target.argmax(1).tolist()]
    draw_mixed(pixels, plan, names, DRAWN, mixers=mixers).savefig(path, dpi=100)
