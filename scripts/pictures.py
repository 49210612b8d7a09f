"""Draw the pictures of the README and of docs/: `python -m scripts.pictures` (needs the extra `dev`).

The photographs are crops of scikit-image's sample images, the saliency is that of the frozen
network of the extra `offline`; nothing is downloaded.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import skimage.data
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from sage_timm.saliency.offline import OFFLINE_MODEL
from torchvision.transforms.v2 import functional as transforms

from sage_timm import create_saliency
from sage_timm.methods import METHODS, create_method
from sage_timm.methods.sage import sage
from sage_timm.methods.sage_search import retained_saliency_map
from sage_timm.plan import Batch
from sage_timm.tensors import unit_mass
from sage_timm.visualize.figures import in_words, label_weights, show_picture

SIZE = 224
RATIO = 0.5  # for every method; in training SAGE's ratio is 0.6 times a Beta draw, 0.3 on average
# A photograph and where its square crop lies: (x, y) as shares of the room there is, and its share of the shorter side.
PHOTOGRAPHS = {
    "coffee": ("coffee.png", 0.0, 0.0, 1.0),
    "astronaut": ("astronaut.png", 0.3, 0.0, 0.75),
    "cat": ("chelsea.png", 0.3, 0.0, 1.0),
    "camera": ("camera.png", 0.0, 0.1, 0.8),
}


def photographs() -> torch.Tensor:
    """Load the crops: [4, 3, 224, 224] in [0, 1]."""
    folder, crops = Path(skimage.data.__path__[0]), []
    for name, across, down, share in PHOTOGRAPHS.values():
        with Image.open(folder / name) as opened:
            picture = opened.convert("RGB")
        side = int(min(picture.size) * share)
        left, top = int((picture.width - side) * across), int((picture.height - side) * down)
        crop = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        crops.append(transforms.to_dtype(transforms.pil_to_tensor(crop), torch.float32, scale=True))
    return torch.stack(crops)


def draw_methods(images: torch.Tensor, saliency: torch.Tensor) -> Figure:
    """Draw two lines per pair: both images, their saliency, SAGE's mask and mix; then the mix of every other method."""
    partner, lam = torch.arange(len(images)).flip(0), torch.full((len(images),), RATIO)
    plans = {}
    for name in METHODS:
        torch.manual_seed(0)
        method = create_method(name, **({"lam_max": 1.0} if name == "sage" else {}))
        plans[name] = method(Batch(images, saliency, partner, lam, method.alpha, (1.0,) * 3))
    maps = F.interpolate(saliency, (SIZE, SIZE), mode="bilinear")
    maps = maps / maps.amax((-2, -1), keepdim=True)
    names, others = list(PHOTOGRAPHS), [name for name in METHODS if name not in ("sage", "mixup")]
    moves = plans["sage"].translation[:, 1, :, 0, 0].tolist()

    pairs, width = len(images) // 2, max(7, len(others))
    figure = Figure(figsize=(1.8 * width, 2.5 * 2 * pairs), layout="constrained")
    axes = figure.subplots(2 * pairs, width)
    for axis in axes.flat:
        axis.set_visible(False)

    def show(axis, title: str, *picture) -> None:
        axis.set_visible(True)
        axis.set_title(title, fontsize=10, fontweight="bold" if title == "SAGE" else "normal")
        show_picture(axis, *picture)

    def mix(axis, title: str, name: str, i: int) -> None:
        plan = plans[name]
        kept = [
            r for r, weight in zip(plan.retained(saliency)[i].tolist(), plan.lam[i].tolist(), strict=True) if weight
        ]
        caption = f"{label_weights(plan, names)[i]}\nretained {' + '.join(f'{share:.2f}' for share in kept)}"
        show(axis, title, plan.mix_images(images)[i], caption)

    for pair in range(pairs):
        i, j = pair, int(partner[pair])
        first, second = axes[2 * pair], axes[2 * pair + 1]
        show(first[0], "image", images[i], names[i])
        show(first[1], "its saliency", maps[i], "", True)
        show(first[2], "partner", images[j], names[j])
        show(first[3], "its saliency", maps[j], "", True)
        show(first[4], "mask", plans["sage"].mask[i, :1], f"white: {names[i]}; partner\n{in_words(*moves[i])}")
        mix(first[5], "SAGE", "sage", i)
        mix(first[6], "mixup", "mixup", i)
        for axis, name in zip(second, others, strict=False):
            mix(axis, name, name, i)
    return figure


def draw_search(images: torch.Tensor, saliency: torch.Tensor, own: int, other: int) -> Figure:
    """Draw the search of one pair: two maps, retained saliency of all translations, and mixes at three of them."""
    pair, maps = images[[own, other]], unit_mass(saliency[[own, other]])
    surface = retained_saliency_map(RATIO * maps[:1], (1 - RATIO) * maps[1:])[0]
    rows, columns = maps.shape[-2:]
    cell = SIZE // rows
    best = divmod(int(surface.argmax()), surface.shape[1])
    near = surface[rows // 2 : -(rows // 2), columns // 2 : -(columns // 2)]
    worst = divmod(int(near.argmin()), near.shape[1])
    worst = (worst[0] + rows // 2, worst[1] + columns // 2)
    places = {"1: the best": best, "2: not moved": (rows - 1, columns - 1), "3: the worst nearby": worst}

    figure = Figure(figsize=(13, 3.5), layout="constrained")
    axes = figure.subplots(1, 6, width_ratios=[1, 1, 1.35, 1, 1, 1])
    names = list(PHOTOGRAPHS)
    for axis, index, name in ((axes[0], 0, names[own]), (axes[1], 1, names[other])):
        axis.imshow(pair[index].permute(1, 2, 0).numpy())
        axis.imshow(
            maps[index, 0].numpy(), cmap="magma", alpha=0.6, extent=(0, SIZE, SIZE, 0), interpolation="bilinear"
        )
        axis.set_title(f"{'image' if index == 0 else 'partner'} and its saliency", fontsize=9)
        axis.set_xlabel(name, fontsize=8)
    reach = SIZE - cell / 2
    drawn = axes[2].imshow((2 * surface).numpy(), cmap="viridis", extent=(-reach, reach, reach, -reach))
    figure.colorbar(drawn, ax=axes[2], shrink=0.75).ax.tick_params(labelsize=7)
    axes[2].set_title(
        f"saliency that the two retain, for all\n{surface.numel():,} translations of the partner", fontsize=9
    )
    partner, ratio = torch.tensor([1, 0]), torch.full((2,), RATIO)
    for number, (axis, (title, place)) in enumerate(zip(axes[3:], places.items(), strict=True), 1):
        candidates = torch.zeros(1, *surface.shape, dtype=torch.bool)
        candidates[0, place[0], place[1]] = True
        plan = sage(saliency[[own, other]], partner, ratio, (SIZE, SIZE), candidates=candidates)
        dy, dx = ((i - (n - 1)) * cell for i, n in zip(place, (rows, columns), strict=True))
        kept = plan.retained(saliency[[own, other]])[0].sum().item()
        axis.imshow(plan.mix_images(pair)[0].permute(1, 2, 0).clamp(0, 1).numpy())
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(
            f"{in_words(dy, dx) or 'partner in its place'}\nthe two retain {kept:.2f} (Mixup 1.00)", fontsize=8
        )
        axes[2].plot(dx, dy, "o", ms=9, mfc="none", mec="white", mew=1.5)
        axes[2].annotate(str(number), (dx, dy), xytext=(7, 5), textcoords="offset points", color="white", fontsize=10)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    axes[2].set(xticks=[-SIZE, 0, SIZE], yticks=[-SIZE, 0, SIZE])
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
    saliency = create_saliency(model=OFFLINE_MODEL, mean=(0.0,) * 3, std=(1.0,) * 3)(images)
    draw_methods(images, saliency).savefig(folder / "mixed.jpg", dpi=80, pil_kwargs={"quality": 85})
    draw_search(images, saliency, 0, 3).savefig(folder / "rearrangement.png", dpi=85)


if __name__ == "__main__":
    main()
