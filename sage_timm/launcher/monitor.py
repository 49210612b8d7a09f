"""What a run says: its lines and errors, and how many batches were mixed."""

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NoReturn

import torch

PATIENCE = 10  # optimizer steps after which a run without a mixed batch is warned
BY_METHOD, BY_OTHERS, CUTMIX, UNMIXED, OFF = "abcde"


def is_first_rank() -> bool:
    """Tell whether this process speaks for a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def say(message: str) -> None:
    """Print a line, from the first rank alone."""
    if is_first_rank():
        print(f"sage_timm: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """End the run with one line, from any rank, and exit code 2."""
    print(f"sage_timm: error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


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
