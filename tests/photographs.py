"""Photographs of scikit-image, with boxes around what they show, and how much of a map lies there."""

from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F

from sage_timm.visualize import load_images

# Drawn by hand: top, bottom, left, right in the middle 224 x 224 of the photograph.
BOXES = {
    "coffee.png": (12, 125, 35, 190),
    "camera.png": (40, 224, 15, 150),
    "clock_motion.png": (65, 160, 70, 165),
    "rocket.jpg": (55, 220, 90, 140),
    "chelsea.png": (20, 224, 20, 215),
}


def load(names=BOXES) -> torch.Tensor:
    """Load photographs: [B, 3, 224, 224] in [0, 1]."""
    folder = Path(skimage.data.__path__[0])
    return load_images([str(folder / name) for name in names], len(names), 224)[0]


def gains(maps: torch.Tensor, names=BOXES) -> list[float]:
    """Say how many times as much of each map lies in its box as would of a flat one."""
    found = []
    for name, map_ in zip(names, F.interpolate(maps, (224, 224), mode="bilinear")[:, 0], strict=True):
        top, bottom, left, right = BOXES[name]
        inside = map_[top:bottom, left:right].sum() / map_.sum()
        found.append((inside / ((bottom - top) * (right - left) / 224**2)).item())
    return found
