"""In the style of torchvision's reference: mixes in a collate_fn, in the workers of its loader."""

import argparse

import torch
from presets import module, train_transform
from torch.utils.data.dataloader import default_collate
from torchvision.datasets import ImageFolder


def get_mixup_cutmix(mixup_alpha, cutmix_alpha, num_classes):
    mixers, T = [], module(use_v2=True)  # noqa: N806
    if mixup_alpha > 0:
        mixers.append(T.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha > 0:
        mixers.append(T.CutMix(alpha=cutmix_alpha, num_classes=num_classes))
    return T.RandomChoice(mixers)


def main(args):
    dataset = ImageFolder(args.data_path, train_transform(args.use_v2))
    mixup_cutmix = get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, len(dataset.classes)) if args.use_v2 else None

    def collate_fn(batch):
        return mixup_cutmix(*default_collate(batch)) if mixup_cutmix else default_collate(batch)

    loader = torch.utils.data.DataLoader(dataset, 2, shuffle=True, num_workers=args.workers, collate_fn=collate_fn)
    model = torch.nn.Linear(3 * 24 * 24, len(dataset.classes))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for images, target in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images.flatten(1)), target).backward()
        optimizer.step()


def get_args_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-path")
    parser.add_argument("-j", "--workers", type=int, default=0)
    parser.add_argument("--mixup-alpha", type=float, default=0.0)
    parser.add_argument("--cutmix-alpha", type=float, default=0.0)
    parser.add_argument("--use-v2", action="store_true")
    return parser


if __name__ == "__main__":
    main(get_args_parser().parse_args())
