"""Batches and saliency maps that tests of several folders share."""

import numpy as np
import torch

from sage_timm.plan import Batch


def bump(images, target):
    return images.float().mean(1, keepdim=True).abs() ** 4


def blobs(count, height, width):
    """A few salient spots in every map."""
    return torch.nn.functional.interpolate(torch.rand(count, 1, 6, 6) ** 6, (height, width), mode="bilinear")


def make_batch(count=6, height=12, width=18, lam=0.4, **changes):
    images = torch.rand(count, 3, height, width)
    fields = dict(
        images=images, saliency=bump(images, None), partner=torch.arange(count).flip(0), lam=torch.full((count,), lam)
    )
    return Batch(**{**fields, "alpha": 1.0, "std": (1.0,), **changes})


def seeded(seed=0):
    np.random.seed(seed)
    torch.manual_seed(seed)


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).clone()
