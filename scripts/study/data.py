"""The images of a study: an image folder of small images as tensors, in balanced parts, whole or small in a frame."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8, their labels [N] int64 and the true masks of their objects [N, 1, H, W] uint8, 0 or 1.

    `mask` is None where nobody knows where the objects are. `digest` tells data sets apart, whatever their folders are
    called: of the images and boxes as loaded, before `place` and its rounding.
    """

    images: torch.Tensor
    target: torch.Tensor
    digest: str
    mask: torch.Tensor | None = None


def load_splits(args, device: torch.device) -> tuple[Split, Split, int]:
    """Load the training and test images that the study's flags ask for; return them and the number of classes.

    Raises:
        SystemExit: they can't be loaded, in one line.
    """
    try:
        folders = [Path(args.data_dir, split) for split in (args.train_split, args.test_split)]
        to_size = (v2.Resize(args.size, antialias=True), v2.CenterCrop(args.size)) if args.size else ()
        transform = v2.Compose([*to_size, v2.PILToTensor()])
        train, test = (ImageFolder(folder, transform) for folder in folders)
    except FileNotFoundError as error:
        there = sorted(path.name for path in Path(args.data_dir).glob("*/"))
        raise SystemExit(
            f"error: --data-dir must hold the folders {args.train_split} and {args.test_split} with a folder for each "
            f"class ({error}); it holds {', '.join(there) or 'none'}: set --train-split and --test-split"
        ) from None
    if train.classes != test.classes:
        odd = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:3])
        raise SystemExit(f"error: both splits must have the same classes, got {odd} in one alone; correct --data-dir")
    classes = range(len(train.classes))
    members = [[i for i, label in enumerate(train.targets) if label == c] for c in classes]
    tested = range(len(test))
    if args.held_out:
        cut = max(1, args.held_out // len(classes))
        test, tested = train, [i for each in members for i in each[-cut:]]
        members = [each[:-cut] for each in members]
    count = 0
    if args.train_images:
        count = max(1, args.train_images // len(classes))
        members = [each[args.part * count : (args.part + 1) * count] for each in members]
    left, needed = sum(map(len, members)), max(args.batch_size, len(classes) * count)
    if left < needed or not all(members):
        raise SystemExit(
            f"error: --held-out, --train-images, --part and --batch-size must fit into the training images, got {left} "
            f"left where {needed} are needed, some of each class; ask for less"
        )
    boxes = json.loads(args.boxes.read_text()) if args.boxes else None
    splits = []
    for number, (folder, indices) in enumerate(((train, [i for each in members for i in each]), (test, tested))):
        images, target, mask = _load(folder, indices, boxes if number == 0 else None)
        loaded = [each.numpy().tobytes() for each in (images, target, mask) if each is not None]
        digest = hashlib.sha256(b"".join(loaded)).hexdigest()[:8]
        if args.object_share:
            generator = torch.Generator().manual_seed(2 * args.part + number)
            images, mask = place(images, args.object_share, args.frame, generator)
        mask = None if mask is None else mask.to(device)
        splits.append(Split(images.to(device), target.to(device), digest, mask))
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise SystemExit("error: the images must be of one size, got another in the test split; set --size N")
    return *splits, len(classes)


def place(
    images: torch.Tensor, share: tuple[float, ...], frame: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put each image, shrunk or enlarged to a square, at a random place of a frame with a cluttered background.

    The background is white noise convolved with another of the images at the object's size: it has that image's
    colours, spectrum and sharpness, but none of its shapes (spot noise; Galerne et al., "Random Phase Textures", 2011).

    Args:
        images: [N, C, h, w] uint8, more than one.
        share: the objects' share of the frame's area, in (0, 1]; one number, where sides vary by a sixth in both
            directions, or the smallest and the largest share. Sides are drawn uniformly.
        frame: the frame's side in pixels.
        generator: on the CPU.

    Returns:
        The framed images [N, C, frame, frame] uint8 and the masks of their objects [N, 1, frame, frame] uint8, 0 or 1.
    """
    count = len(images)
    low, high = (edge**0.5 * frame for edge in (share[0], share[-1]))
    if len(share) == 1:
        low, high = low * 5 / 6, high * 7 / 6
    side = low + (high - low) * torch.rand(count, generator=generator)
    side = side.round().long().clamp(1, frame)
    corner = (torch.rand((count, 2), generator=generator) * (frame - side + 1)[:, None]).long()
    donor = torch.randperm(count, generator=generator)
    framed = torch.empty((count, images.shape[1], frame, frame), dtype=torch.uint8)
    mask = torch.zeros((count, 1, frame, frame), dtype=torch.uint8)
    for length in side.unique().tolist():
        for image in (side == length).nonzero()[:, 0].split(1000):
            objects, donors = (
                F.interpolate(images[index].float(), (length, length), mode="bilinear", antialias=True)
                for index in (image, donor[image])
            )
            framed[image] = _texture(donors, frame, generator)
            y, x = (corner[image, axis, None] + torch.arange(length) for axis in (0, 1))
            there = image[:, None, None], slice(None), y[:, :, None], x[:, None]
            framed[there] = objects.round().byte().permute(0, 2, 3, 1)
            mask[there] = 1
    return framed, mask


def _texture(donors: torch.Tensor, frame: int, generator: torch.Generator) -> torch.Tensor:
    """Return textures [N, C, frame, frame] uint8 with the means and spectra of the donors [N, C, h, w] in 0 to 255."""
    mean = donors.mean((-2, -1), keepdim=True)
    noise = torch.fft.rfft2(torch.randn((len(donors), 1, frame, frame), generator=generator))
    spot = torch.fft.rfft2(donors - mean, s=(frame, frame)) / donors[0, 0].numel() ** 0.5
    return (mean + torch.fft.irfft2(spot * noise, s=(frame, frame))).round().clamp(0, 255).byte()


def _load(folder: ImageFolder, indices, boxes: dict | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return images, labels and, of boxes by file name, the masks, resized along with their images."""
    images, target, masks = [], [], []
    for path, label in (folder.samples[i] for i in indices):
        image, name = folder.loader(path), Path(path).name
        mask = torch.zeros((1, image.height, image.width), dtype=torch.uint8)
        if boxes is not None:
            box = boxes.get(name)
            try:
                left, top, right, bottom = map(int, box)
                if not (0 <= left <= right < image.width and 0 <= top <= bottom < image.height):
                    raise ValueError
            except (TypeError, ValueError):
                raise SystemExit(
                    f"error: --boxes must give [left, top, right, bottom] inside {name} of {image.width} x "
                    f"{image.height} px, got {box}; correct the file"
                ) from None
            mask[:, top : bottom + 1, left : right + 1] = 1
        image, mask = folder.transform(image, tv_tensors.Mask(mask))
        images.append(image)
        target.append(label)
        masks.append(mask.as_subclass(torch.Tensor))
    if len({image.shape for image in images}) > 1:
        raise SystemExit(f"error: the images must be of one size, got several in {folder.root}; set --size, such as 64")
    return torch.stack(images), torch.tensor(target), None if boxes is None else torch.stack(masks)
