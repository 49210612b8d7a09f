"""Figures of mixed images."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import torch

from ..plan import MixPlan


def _moves(plan: MixPlan) -> list[str]:
    """Say for each output of a pairwise plan where its partner moves as a whole; nothing for plans that move tiles."""
    if plan.translation is None or plan.translation.shape[-2:] != (1, 1):
        return [""] * len(plan.lam)
    ways = (in_words(dy, dx) for dy, dx in plan.translation[:, -1, :, 0, 0].tolist())
    return [f"partner moves\n{way}" if way else "partner stays" for way in ways]


def in_words(dy: int, dx: int) -> str:
    """Say a translation, as '40 px down, 96 px left'; nothing where it is (0, 0)."""
    ways = ((dy, ("up", "down")), (dx, ("left", "right")))
    return ", ".join(f"{abs(d)} px {way[d > 0]}" for d, way in ways if d)


def draw_plans(images: torch.Tensor, saliency: torch.Tensor, plans: Mapping[str, MixPlan], names: Sequence[str]):
    """Draw a row per image: itself, its saliency, and a column per plan with label weights and retained saliency.

    The mask of SAGE, or of a single plan, is drawn too, with the way its partner moves.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3.
        saliency: [B, 1, h, w], any scale.
        plans: each method's plan of these images.
        names: a label per image.

    Returns:
        A matplotlib figure.
    """
    maps = torch.nn.functional.interpolate(saliency, images.shape[-2:], mode="bilinear")
    maps = maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)
    none = [""] * len(images)
    columns: list[tuple[str, torch.Tensor, Sequence[str], bool]]
    columns = [("image", images, names, False), ("saliency", maps, none, True)]
    partners = [plan.source[:, 1] for plan in plans.values() if plan.source.shape[1] == 2]
    if len(partners) == len(plans) and all(torch.equal(partner, partners[0]) for partner in partners):
        columns.append(("partner", images[partners[0]], [names[i] for i in partners[0].tolist()], False))
        columns.append(("partner's saliency", maps[partners[0]], none, True))
    for title, plan in plans.items():
        if len(plans) == 1 or title == "sage":
            whose = "image, black:\npartner, grey: both" if plan.source.shape[1] == 2 else "first image"
            columns.append((f"mask (white: {whose})", plan.mask[:, :1], _moves(plan), False))
        retained = plan.retained(saliency).tolist()
        captions = [
            f"{weights}\nretained {' + '.join(f'{r:.2f}' for r, share in zip(kept, lam, strict=True) if share > 0)}"
            for weights, kept, lam in zip(label_weights(plan, names), retained, plan.lam.tolist(), strict=True)
        ]
        columns.append((title, plan.mix_images(images), captions, False))
    height = images.shape[-2] / images.shape[-1] * 1.9 + 0.45
    figure, grid = _grid(len(images), len(columns), (1.9 * len(columns), height * len(images) + 0.3))
    for index, (title, shown, texts, heat) in enumerate(columns):
        grid[0][index].set_title(title, fontsize=9)
        for row, axes in enumerate(grid):
            show_picture(axes[index], shown[row], texts[row], heat)
    return figure


def draw_mixed(images: torch.Tensor, plan: MixPlan, names: Sequence[str], most: int, mixers: Sequence[str] = ()):
    """Draw the mixed images of a plan as a grid, under each its labels with their weights, and what mixed it.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3 (of others the first is drawn).
        plan: the plan of these images.
        names: a label per image.
        most: images drawn, the first ones.
        mixers: what mixed each image, where it is to be said.

    Returns:
        A matplotlib figure.
    """
    count = min(most, len(images))
    width = math.ceil(math.sqrt(count))
    height = math.ceil(count / width)
    figure, grid = _grid(height, width, (1.9 * width, (2.4 if mixers else 2.2) * height))
    mixed, captions = plan.mix_images(images)[:count], label_weights(plan, names)
    if mixers:
        captions = [f"{mixer}\n{weights}" for mixer, weights in zip(mixers, captions, strict=True)]
    for axis, picture, caption in zip(grid.flat, mixed, captions, strict=False):
        show_picture(axis, picture, caption)
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    return figure


def _grid(rows: int, columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_picture(axis, picture: torch.Tensor, caption: str, heat: bool = False) -> None:
    """Show a picture [C, H, W] in [0, 1] on a matplotlib axis, with a caption below; `heat` colours a map."""
    picture = picture if len(picture) == 3 else picture[:1]
    pixels = picture.permute(1, 2, 0).float().clamp(0, 1).cpu().numpy()
    axis.imshow(pixels, cmap="magma" if heat else "gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel("\n".join(textwrap.fill(line, 28) for line in caption.split("\n")), fontsize=8, parse_math=False)


def label_weights(plan: MixPlan, names: Sequence[str]) -> list[str]:
    """Say which labels each output has, as 'cat 0.62, dog 0.38'; equal ones are added up."""
    texts = []
    for sources, lam in zip(plan.source.tolist(), plan.lam.tolist(), strict=True):
        total: dict[str, float] = {}
        for source, share in zip(sources, lam, strict=True):
            if share > 0:
                total[names[source]] = total.get(names[source], 0) + share
        texts.append(", ".join(f"{name} {share:.2f}" for name, share in total.items()))
    return texts
