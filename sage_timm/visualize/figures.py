"""Figures and pages of mixed images."""

import base64
import html
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from ..plan import MixPlan


@dataclass(frozen=True)
class _Column:
    """Pictures [B, C, H, W] in [0, 1] with a title, a caption each, and whether they are heat maps."""

    title: str
    pictures: torch.Tensor
    captions: Sequence[str] = field(default_factory=list)
    heat: bool = False

    def caption(self, row: int) -> str:
        return self.captions[row] if self.captions else ""


def _columns(
    images: torch.Tensor, saliency: torch.Tensor, plans: Mapping[str, MixPlan], names: Sequence[str]
) -> list[_Column]:
    maps = torch.nn.functional.interpolate(saliency, images.shape[-2:], mode="bilinear")
    maps = maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)
    columns = [_Column("image", images, names), _Column("saliency", maps, heat=True)]
    if all(plan.source.shape[1] == 2 for plan in plans.values()):
        partner = next(iter(plans.values())).source[:, 1]
        if all(torch.equal(plan.source[:, 1], partner) for plan in plans.values()):
            columns.append(_Column("partner", images[partner], [names[i] for i in partner.tolist()]))
            columns.append(_Column("partner's saliency", maps[partner], heat=True))
    for title, plan in plans.items():
        if len(plans) == 1 or title == "sage":
            whose = "image, black:\npartner, grey: both" if plan.source.shape[1] == 2 else "first image"
            columns.append(_Column(f"mask (white: {whose})", plan.mask[:, :1], _moves(plan)))
        retained = plan.retained(saliency).tolist()
        captions = [
            f"{weights}\nretained {' + '.join(f'{r:.2f}' for r, share in zip(kept, lam, strict=True) if share > 0)}"
            for weights, kept, lam in zip(label_weights(plan, names), retained, plan.lam.tolist(), strict=True)
        ]
        columns.append(_Column(title, plan.mix_images(images), captions))
    return columns


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
    columns = _columns(images, saliency, plans, names)
    height = images.shape[-2] / images.shape[-1] * 1.9 + 0.45
    figure, grid = _grid(len(images), len(columns), (1.9 * len(columns), height * len(images) + 0.3))
    for index, column in enumerate(columns):
        grid[0][index].set_title(column.title, fontsize=9)
        for row, axes in enumerate(grid):
            show_picture(axes[index], column.pictures[row], column.caption(row), column.heat)
    return figure


def draw_page(
    images: torch.Tensor,
    saliency: torch.Tensor,
    plans: Mapping[str, MixPlan],
    names: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Draw the rows of `draw_plans` as a self-contained HTML page, with lines of text above.

    Args:
        images: [B, C, H, W] in [0, 1], C 1 or 3.
        saliency: [B, 1, h, w], any scale.
        plans: each method's plan of these images.
        names: a label per image.
        notes: lines above the table.
    """
    columns = _columns(images, saliency, plans, names)
    rows = [
        "".join(f"<td>{_inline(c.pictures[row], c.heat)}<br>{_escaped(c.caption(row))}</td>" for c in columns)
        for row in range(len(images))
    ]
    return _PAGE.format(
        notes="".join(f"<p>{html.escape(note)}</p>" for note in notes),
        head="".join(f"<th>{html.escape(column.title)}</th>" for column in columns),
        rows="".join(f"<tr>{row}</tr>" for row in rows),
    )


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
    for index, axis in enumerate(axis for row in grid for axis in row):
        if index < count:
            show_picture(axis, mixed[index], captions[index])
        else:
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
    axis.set_xlabel("\n".join(textwrap.fill(line, 30) for line in caption.split("\n")), fontsize=8, parse_math=False)


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


def _inline(picture: torch.Tensor, heat: bool) -> str:
    """Return an HTML image that holds its pixels."""
    if heat:
        from matplotlib import colormaps

        picture = torch.from_numpy(colormaps["magma"](picture[0].cpu().numpy())[..., :3]).permute(2, 0, 1)
    picture = picture if len(picture) == 3 else picture[:1]
    pixels = transforms.to_pil_image(picture.float().clamp(0, 1).cpu())
    largest = max(pixels.size)
    if largest < 128:  # small images are enlarged, pixel by pixel
        factor = math.ceil(128 / largest)
        pixels = pixels.resize((pixels.width * factor, pixels.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=90)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Mixed images</title><style>
body {{ font: 14px sans-serif; margin: 1em }} td, th {{ padding: 4px; vertical-align: top; max-width: 230px }}
td {{ font-size: 12px }} img {{ max-width: 224px }}
</style></head><body>{notes}<table><tr>{head}</tr>{rows}</table></body></html>
"""
