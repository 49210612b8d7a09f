"""A script in the style of DeiT, ConvNeXt and MAE: a parser made by a function, a loader of torch, an engine module."""

import argparse

import torch
from deit_engine import train_one_epoch
from timm.data import create_transform
from timm.data.mixup import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models import create_model
from torchvision import datasets


def get_args_parser():
    parser = argparse.ArgumentParser("deit style", add_help=False)
    parser.add_argument("--mixup", type=float, default=0.8)
    parser.add_argument("--cutmix", type=float, default=1.0)
    parser.add_argument("--mixup-prob", type=float, default=1.0)
    parser.add_argument("--mixup-switch-prob", type=float, default=0.5)
    parser.add_argument("--data-path")
    parser.add_argument("--late", action="store_true", help="mix in the sixth epoch alone")
    return parser


def main(args):
    transform = create_transform(24, is_training=True, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2))
    dataset = datasets.ImageFolder(args.data_path, transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)
    mixup_fn = Mixup(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        cutmix_minmax=None,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode="batch",
        label_smoothing=0.1,
        num_classes=3,
    )
    model = create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    if args.late:
        for _ in range(5):
            train_one_epoch(model, loader, optimizer, torch.nn.CrossEntropyLoss())
    train_one_epoch(model, loader, optimizer, SoftTargetCrossEntropy(), mixup_fn)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("training", parents=[get_args_parser()])
    main(parser.parse_args())
