"""What a network is to learn: photographs, each with the map of a large classifier, and the objects' boxes if known."""

import argparse
import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from sage_timm.saliency import Saliency
from sage_timm.tensors import resize

from .teacher import SIZE, teach

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
STORED = 128  # px, the side that photographs are kept at
MASK_CELLS = 56  # per side of the masks of boxes
PART = 512  # photographs between two saves


@dataclass(frozen=True)
class Lesson:
    """Photographs with their maps.

    Attributes:
        images: [N, 3, 128, 128] uint8.
        maps: [N, 14, 14] float16, the teacher's, averaged with the mirror image's; each sums to 1.
        masks: [N, 56, 56] uint8, 1 in the boxes of the objects; 0 everywhere where none are known.
    """

    images: torch.Tensor
    maps: torch.Tensor
    masks: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def target(self, index: torch.Tensor, cells: int) -> torch.Tensor:
        """Return what is to be learnt of some photographs: [B, 1, cells, cells], non-negative, of any scale.

        The teacher's map; where boxes are known, what of it lies in them, unless that is next to nothing.

        Args:
            index: [B] int64, which photographs.
            cells: per side, at most those of the masks.
        """
        maps = resize(self.maps[index].float()[:, None], (cells, cells))
        inside = maps * F.adaptive_avg_pool2d(self.masks[index].float()[:, None], cells)
        known = inside.sum((1, 2, 3), keepdim=True) >= 0.1 * maps.sum((1, 2, 3), keepdim=True)
        return torch.where(known, inside, maps)

    def part(self, which: slice) -> "Lesson":
        """Return the lesson of some of the photographs."""
        return Lesson(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list["Lesson"]) -> "Lesson":
        """Join lessons."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def folder_and_count(text: str) -> tuple[Path, int | None]:
    """Read FOLDER or FOLDER:COUNT; an argparse type."""
    folder, _, count = text.partition(":")
    if count and not (count.isdecimal() and int(count) > 0):
        raise argparse.ArgumentTypeError(f"must be FOLDER or FOLDER:COUNT with a COUNT of at least 1, got {text}")
    return Path(folder), int(count) if count else None


def find_images(folder: Path, count: int | None = None, seed: int = 0) -> list[Path]:
    """List the photographs below a folder; with `count` that many of them, drawn at random.

    Raises:
        SystemExit: there is no such folder, or fewer than two photographs in it.
    """
    if not folder.is_dir():
        raise SystemExit(f"error: {folder} must be a folder of photographs, got none of that name")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise SystemExit(f"error: {folder} must hold at least 2 photographs ({', '.join(SUFFIXES)}), got {len(files)}")
    if count is not None and count < len(files):
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))[:count]
        files = [files[i] for i in order.sort().values.tolist()]
    return files


def read_boxes(folder: Path) -> dict[str, list[list[float]]]:
    """Read a folder's boxes.json: file name -> boxes (left, top, right, bottom) in pixels, inclusive; {} if none.

    Raises:
        SystemExit: it is no such file.
    """
    file = folder / "boxes.json"
    try:
        given = json.loads(file.read_text()) if file.is_file() else {}
        boxes = {n: each if each and isinstance(each[0], list) else [each] for n, each in given.items() if each}
        for box in (box for each in boxes.values() for box in each):
            if len(box) != 4 or not all(isinstance(edge, (int, float)) for edge in box):
                raise ValueError(f"a box is {box}")
    except (AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"error: {file} must map file names to boxes [left, top, right, bottom] ({error}); correct or remove it"
        ) from None
    return boxes


def read(path: Path, boxes: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the middle square of a photograph, and of the mask of its boxes.

    Args:
        path: of the photograph.
        boxes: (left, top, right, bottom) in pixels of the photograph, inclusive.

    Returns:
        [3, 224, 224] and [56, 56] uint8.

    Raises:
        SystemExit: it can't be read.
    """
    try:
        with Image.open(path) as picture:
            image = transforms.pil_to_tensor(picture.convert("RGB"))
    except OSError as error:
        raise SystemExit(
            f"error: {path} must be a whole picture ({error}); remove it, and the same command goes on"
        ) from None
    mask = torch.zeros_like(image[:1], dtype=torch.float32)
    for left, top, right, bottom in boxes:
        mask[:, round(top) : round(bottom) + 1, round(left) : round(right) + 1] = 1
    side = min(image.shape[1:])
    image, mask = (transforms.center_crop(each, [side, side]) for each in (image, mask))
    image = transforms.resize(image, [SIZE, SIZE], antialias=True)
    return image, F.adaptive_avg_pool2d(mask, MASK_CELLS)[0].round().byte()


def prepare(folder: Path, teacher: Saliency, cache: Path, count: int | None = None) -> Lesson:
    """Read a folder of photographs and compute the teacher's maps of them.

    What is done is kept in `cache`, part by part: after an interruption the same call goes on. A file `boxes.json` in
    the folder tells where the objects are: file name -> [left, top, right, bottom], or a list of such boxes, in pixels,
    inclusive.

    Args:
        folder: searched with all its folders.
        teacher: see `teach`.
        cache: a folder for the parts.
        count: how many photographs, drawn at random; None for all.
    """
    files = find_images(folder, count)
    boxes = read_boxes(folder)
    if boxes and not any(file.name in boxes for file in files):
        raise SystemExit(f"error: {folder / 'boxes.json'} must name photographs of its folder, got {next(iter(boxes))}")
    about = json.dumps([repr(teacher), STORED, SIZE, [str(file.relative_to(folder)) for file in files]])
    where = cache / f"{folder.name}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
    where.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, start in enumerate(tqdm(range(0, len(files), PART), f"maps of {folder.name}", unit="part")):
        kept = where / f"{number:04}.pt"
        if not kept.is_file():
            each = [read(file, boxes.get(file.name, [])) for file in files[start : start + PART]]
            images, masks = (torch.stack(values) for values in zip(*each, strict=True))
            maps = torch.cat([teach(teacher, batch.float() / 255) for batch in images.split(32)])
            small = transforms.resize(images, [STORED, STORED], antialias=True)
            partial = kept.with_suffix(f".{os.getpid()}.tmp")
            torch.save({"images": small, "maps": maps.half(), "masks": masks}, partial)
            partial.replace(kept)
        parts.append(Lesson(**torch.load(kept, weights_only=True)))
    return Lesson.joined(parts)
