"""The images of a study: an image folder of small images as tensors, in balanced parts."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W] uint8 and their labels [N] int64."""

    images: torch.Tensor
    target: torch.Tensor


def load_splits(args, device: torch.device) -> tuple[Split, Split, int]:
    """Load the training and test images that the arguments of study.py ask for; return them and how many classes.

    Raises:
        SystemExit: they can't be had, in one line.
    """
    try:
        folders = [Path(args.data_dir, split) for split in (args.train_split, args.test_split)]
        train, test = (ImageFolder(folder, pil_to_tensor) for folder in folders)
    except FileNotFoundError as error:
        raise SystemExit(f"error: --data-dir must hold both splits, with images of every class; {error}") from None
    if train.classes != test.classes:
        odd = ", ".join(sorted(set(train.classes) ^ set(test.classes))[:3])
        raise SystemExit(f"error: both splits must have the same classes, got {odd} in one alone; mend --data-dir")
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
    splits = _load(train, [i for each in members for i in each], device), _load(test, tested, device)
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise SystemExit("error: the images must be of one size, got another in the test split; resize them")
    return *splits, len(classes)


def _load(folder: ImageFolder, indices, device: torch.device) -> Split:
    images, target = zip(*(folder[i] for i in indices), strict=True)
    if len({image.shape for image in images}) > 1:
        raise SystemExit(f"error: the images must be of one size, got several in {folder.root}; resize them")
    return Split(torch.stack(images).to(device), torch.tensor(target).to(device))
