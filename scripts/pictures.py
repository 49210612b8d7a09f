"""Draw the pictures of the README and of docs/: `python -m scripts.pictures` (needs the extra `dev`).

The photographs come with scikit-image, the saliency is that of the network that comes with the package.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torchvision.transforms.v2 import functional as transforms

from sage_timm import create_saliency
from sage_timm.methods import METHODS, create_method
from sage_timm.methods.sage import sage
from sage_timm.plan import Batch
from sage_timm.tensors import unit_mass
from sage_timm.visualize.figures import in_words, label_weights, show_picture
from scripts.bench.certify import retained_saliency_map
from scripts.objects import photograph

SIZE = 200, 300  # px, H x W
RATIO = 0.5  # for every method; in training SAGE's ratio is 0.6 times a Beta draw, 0.3 on average
PAIR = {"rocket": ("rocket.jpg", 190, 75, 360, 240), "cameraman": ("camera.png", 0, 60, 512, 341)}


def photographs() -> torch.Tensor:
    """Load the pair: [2, 3, H, W] in [0, 1]."""
    crops = [transforms.resize(photograph(*where), list(SIZE), antialias=True) for where in PAIR.values()]
    return transforms.to_dtype(torch.stack(crops), torch.float32, scale=True)


def draw_methods(images: torch.Tensor, saliency: torch.Tensor) -> Figure:
    """Draw both images, their saliency, SAGE's mask and mix; then the mix of every other method."""
    lam, plans = torch.full((2,), RATIO), {}
    for name in METHODS:
        torch.manual_seed(0)
        method = create_method(name, **({"lam_max": 1.0} if name == "sage" else {}))
        plans[name] = method(Batch(images, saliency, torch.tensor([1, 0]), lam, method.alpha, (1.0,) * 3))
    maps = F.interpolate(saliency, SIZE, mode="bilinear")
    maps = maps / maps.amax((-2, -1), keepdim=True)
    (first, second), move = PAIR, plans["sage"].translation[0, 1, :, 0, 0].tolist()

    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = iter(figure.subplots(-(-len(plans) // 5) + 1, 5).flat)

    def show(title: str, *picture) -> None:
        axis = next(axes)
        axis.set_title(title, fontsize=10, fontweight="bold" if title == "SAGE" else "normal")
        show_picture(axis, *picture)

    for i, (title, name) in enumerate((("image", first), ("partner", second))):
        show(title, images[i], name)
        show("its saliency", maps[i], "", True)
    show("mask", plans["sage"].mask[0, :1], f"white: {first}; partner\n{in_words(*move)}")
    for name, plan in plans.items():
        kept = " + ".join(f"{share:.2f}" for share in plan.retained(saliency)[0, plan.lam[0] > 0].tolist())
        caption = f"{label_weights(plan, list(PAIR))[0]}\nretained {kept}"
        show("SAGE" if name == "sage" else name, plan.mix_images(images)[0], caption)
    for axis in axes:
        axis.set_visible(False)
    return figure


def draw_search(images: torch.Tensor, saliency: torch.Tensor) -> Figure:
    """Draw the search: two maps, retained saliency of all translations, and mixes at three of them."""
    (height, width), (rows, columns), maps = SIZE, saliency.shape[-2:], unit_mass(saliency)
    surface = retained_saliency_map(RATIO * maps[:1], (1 - RATIO) * maps[1:])[0]
    near = surface[rows // 2 : -(rows // 2), columns // 2 : -(columns // 2)]
    down, across = divmod(int(near.argmin()), near.shape[1])
    places = {
        "1: the best": divmod(int(surface.argmax()), surface.shape[1]),
        "2: not moved": (rows - 1, columns - 1),
        "3: the worst nearby": (down + rows // 2, across + columns // 2),
    }

    figure = Figure(figsize=(15, 2.9), layout="constrained")
    axes = figure.subplots(1, 6, width_ratios=[1, 1, 1.35, 1, 1, 1])
    for i, (axis, title) in enumerate(zip(axes, ("image", "partner"), strict=False)):
        axis.imshow(images[i].permute(1, 2, 0).numpy())
        axis.imshow(maps[i, 0].numpy(), cmap="magma", alpha=0.6, extent=(0, width, height, 0), interpolation="bilinear")
        axis.set_title(f"{title} and its saliency", fontsize=9)
        axis.set_xlabel(list(PAIR)[i], fontsize=8)
    right, bottom = (1 - 0.5 / columns) * width, (1 - 0.5 / rows) * height
    drawn = axes[2].imshow((2 * surface).numpy(), cmap="viridis", extent=(-right, right, bottom, -bottom))
    figure.colorbar(drawn, ax=axes[2], shrink=0.75).ax.tick_params(labelsize=7)
    axes[2].set_title(
        f"saliency that the two retain, for all\n{surface.numel():,} translations of the partner", fontsize=9
    )
    for axis, (title, place) in zip(axes[3:], places.items(), strict=True):
        dy, dx = round((place[0] - rows + 1) * height / rows), round((place[1] - columns + 1) * width / columns)
        move = torch.tensor([[dy, dx]]).expand(2, -1)
        plan = sage(saliency, torch.tensor([1, 0]), torch.full((2,), RATIO), SIZE, move)
        axis.imshow(plan.mix_images(images)[0].permute(1, 2, 0).clamp(0, 1).numpy())
        axis.set_title(title, fontsize=9)
        kept = f"the two retain {plan.retained(saliency)[0].sum().item():.2f} (Mixup 1.00)"
        axis.set_xlabel(f"{in_words(dy, dx) or 'partner in its place'}\n{kept}", fontsize=8)
        axes[2].plot(dx, dy, "o", ms=9, mfc="none", mec="white", mew=1.5)
        axes[2].annotate(title[0], (dx, dy), xytext=(7, 5), textcoords="offset points", color="white", fontsize=10)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    axes[2].set(xticks=[-width, 0, width], yticks=[-height, 0, height])
    axes[2].tick_params(labelsize=7)
    axes[2].set_xlabel("px to the right", fontsize=8)
    axes[2].set_ylabel("px down", fontsize=8)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(prog="python -m scripts.pictures", description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", default="docs", metavar="FOLDER", help="folder to write to (default: docs)")
    folder = Path(parser.parse_args(argv).output)
    folder.mkdir(parents=True, exist_ok=True)
    images = photographs()
    saliency = create_saliency()(images)
    draw_methods(images, saliency).savefig(folder / "mixed.jpg", dpi=110, pil_kwargs={"quality": 85})
    draw_search(images, saliency).savefig(folder / "rearrangement.png", dpi=85)


if __name__ == "__main__":
    main()
