"""The training of a saliency network on photographs with maps; weights come out with their norms folded in."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sage_timm.saliency.network import SaliencyNetwork, standardized

from .lessons import Lesson
from .views import coloured, parts, pick, small

BATCH = 64
SIDES = (64, 80, 96, 96, 112)  # px, of which each batch has one
GROUP = 8  # images that are put on backgrounds of one kind, at one size


def with_norms(network: SaliencyNetwork) -> SaliencyNetwork:
    """Put a batch norm behind the convolution of each layer; the network's output in eval mode stays what it is."""
    for layer in layers(network):
        norm = nn.BatchNorm2d(layer[0].out_channels)
        layer.insert(1, norm)
    return network


def layers(network: SaliencyNetwork) -> list[nn.Sequential]:
    """List the layers, each a convolution, perhaps a norm, and a ReLU."""
    return [
        module for module in network.modules() if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d)
    ]


def folded(network: SaliencyNetwork) -> SaliencyNetwork:
    """Return a copy of a network, its norms folded into its convolutions."""
    network = copy.deepcopy(network).eval()
    for layer in layers(network):
        layer[0] = fuse_conv_bn_eval(layer[0], layer[1])
        del layer[1]
    return network


def divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the mean over images of KL(target || softmax of the logits), both over all cells."""
    target, logs = target.flatten(1), logits.float().flatten(1).log_softmax(1)
    return (torch.xlogy(target, target) - target * logs).sum(1).mean()


class Trainer:
    """Trains a network on a lesson, step by step; everything that changes can be saved and loaded."""

    def __init__(
        self, network: SaliencyNetwork, lesson: Lesson, steps: int, lr: float, small_share: float, bf16: bool, seed: int
    ) -> None:
        """Start a training.

        Args:
            network: without norms.
            lesson: what it is to learn.
            steps: of 64 images each.
            lr: highest learning rate, of AdamW under a one-cycle schedule.
            small_share: the share of images that are shown small on another background.
            bf16: run the network's convolutions in bfloat16.
            seed: of every random draw.
        """
        self.network = with_norms(network).to(memory_format=torch.channels_last)
        self.lesson, self.small_share, self.bf16 = lesson, small_share, bf16
        self.steps, self.done = steps, 0
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr, weight_decay=0.02)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, steps, pct_start=0.15)
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict:
        """Return all that changes."""
        kept = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "schedule")}
        return kept | {"done": self.done, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state."""
        for name in ("network", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.done = state["done"]
        self.generator.set_state(state["generator"])

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a batch: parts of photographs, the last of them small on backgrounds of others."""
        generator, side, few = self.generator, pick(SIDES, self.generator), round(self.small_share * BATCH)
        images, target = parts(self.lesson, self.chosen(BATCH), side, generator)
        if few:
            others = parts(self.lesson, self.chosen(few), side, generator)
            groups = zip(*(each.split(GROUP) for each in (images[-few:], target[-few:], *others)), strict=True)
            shown = [small(image, find, (other, quiet), generator) for image, find, other, quiet in groups]
            images, target = (
                torch.cat([whole[:-few], *each])
                for whole, each in zip((images, target), zip(*shown, strict=True), strict=True)
            )
        return standardized(coloured(images, generator))[0], target

    def chosen(self, count: int) -> torch.Tensor:
        """Choose photographs at random."""
        return torch.randint(len(self.lesson), (count,), generator=self.generator)

    def step(self) -> float:
        """Train on a batch and return the loss."""
        self.network.train()
        images, target = self.batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = divergence(logits, target)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.done += 1
        return loss.item()
