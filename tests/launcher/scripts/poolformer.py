"""In the style of PoolFormer, FastViT and VOLO: parsers of the module, star imports, a collate or a mixup_fn."""
# ruff: noqa: F403, F405

import argparse

import torch
import yaml
from timm.data import AugMixDataset, FastCollateMixup, Mixup, create_dataset, create_loader, resolve_data_config  # noqa: F401
from timm.loss import *
from timm.models import create_model, resume_checkpoint, safe_model_name  # noqa: F401
from timm.utils import *

config_parser = parser = argparse.ArgumentParser(description="config", add_help=False)
parser.add_argument("-c", "--config", default="")
parser = argparse.ArgumentParser(description="PyTorch ImageNet Training")
parser.add_argument("data_dir")
parser.add_argument("--mixup", type=float, default=0.0)
parser.add_argument("--cutmix", type=float, default=0.0)
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--no-prefetcher", action="store_true")


def _parse_args():
    args_config, remaining = config_parser.parse_known_args()
    if args_config.config:
        with open(args_config.config) as f:
            config = yaml.safe_load(f)
        parser.set_defaults(**config)
    return parser.parse_args(remaining)


def main():
    args = _parse_args()
    model = create_model("test_resnet", num_classes=3)
    collate_fn, mixup_fn = None, None
    if args.mixup > 0 or args.cutmix > 0.0:
        mixup_args = dict(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, label_smoothing=args.smoothing, num_classes=3
        )
        if args.no_prefetcher:
            mixup_fn = Mixup(**mixup_args)
        else:
            collate_fn = FastCollateMixup(**mixup_args)
    loader = create_loader(
        create_dataset("", root=args.data_dir, split="train", is_training=True),
        input_size=(3, 24, 24),
        batch_size=8,
        is_training=True,
        use_prefetcher=not args.no_prefetcher,
        num_workers=0,
        collate_fn=collate_fn,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), SoftTargetCrossEntropy()
    for input, target in loader:
        if args.no_prefetcher and mixup_fn is not None:
            input, target = mixup_fn(input, target)
        optimizer.zero_grad()
        loss_fn(model(input), target).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
