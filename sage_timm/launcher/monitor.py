"""What a run shows of its mixing: that batches are mixed at all, and the first of them as pictures."""

from pathlib import Path

import torch

from ..mixup import MethodMixup
from ..plan import MixPlan
from ..visualize import draw_mixed
from .flags import is_first_rank, say

# Optimizer steps or batches after which training without mixing is an error.
PATIENCE = 10


class Watch:
    """Counts the batches of a run and fails where mixing was asked for and does not happen."""

    def __init__(self) -> None:
        self.mean = self.std = None
        self.enabled = True
        self.calls = self.chances = self.mixed = self.steps = 0

    def tell(self, asked: str, save_mixed: int, folder: Path) -> None:
        """Set the flag that asked for mixing, how many mixed batches to write as pictures, and where to."""
        self.asked, self.save_mixed, self.folder = asked, save_mixed, folder

    def batch(self, mixup: MethodMixup, images: torch.Tensor, target: torch.Tensor, plan: MixPlan | None) -> None:
        """Count a batch; fail where mixing was due so often that its absence is no chance."""
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "sage_timm mixes in the training process, on its device: call Mixup after the DataLoader"
            )
        if self.calls == 0:
            size = " x ".join(map(str, images.shape))
            statistics = f", normalised with mean {self.mean}, std {self.std}" if self.mean else ""
            if not self.mean and mixup.saliency:
                statistics = ", normalised with the saliency model's statistics, it is taken"
            say(f"first batch {size}, {images.dtype} on {images.device}{statistics}")
        if self.enabled and not mixup.mixup_enabled:
            say("mixing is switched off from here on")
        self.enabled = mixup.mixup_enabled
        self.calls += 1
        self.chances += mixup.mixup_enabled
        self.mixed += plan is not None
        due = len(images) == 1 or (self.chances >= PATIENCE and (1 - mixup.mix_prob) ** self.chances < 1e-9)
        if due and self.chances and not self.mixed:
            raise RuntimeError(
                f"sage_timm: none of {self.chances} batches was mixed though {self.asked} was given; the last had "
                f"{len(images)} image(s), and an image needs a partner: set a batch size of at least 2"
            )
        if plan is not None and self.mixed <= self.save_mixed and is_first_rank():
            self._save(images, target, plan)

    def step(self) -> None:
        """Fail after a few optimizer steps without a batch that came through Mixup."""
        self.steps += 1
        if self.calls == 0 and self.steps >= PATIENCE:
            raise RuntimeError(
                f"sage_timm: {self.asked} was given, but {self.steps} optimizer steps gave no batch to timm's Mixup; "
                "the script must call it (`images, target = mixup_fn(images, target)`) or give it to create_loader"
            )

    def _save(self, images: torch.Tensor, target: torch.Tensor, plan: MixPlan) -> None:
        labels = target if target.ndim == 1 else target.argmax(1)
        images = images.float()
        if self.mean:
            mean, std = (torch.tensor(s, device=images.device).view(1, -1, 1, 1) for s in (self.mean, self.std))
            images = images * std + mean
        path = self.folder / f"mixed-{self.mixed:03d}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draw_mixed(images, plan, [str(label) for label in labels.tolist()]).savefig(path, dpi=100)
            say(f"{path}: a mixed batch, each image with its labels and their weights")
        except OSError as error:
            self.save_mixed = 0
            say(f"can't write {path} ({error.strerror}); the training goes on without pictures")
