"""Ways to hold timm's Mixup before the config file is read; --by says which one builds it."""

import argparse
import functools

import timm.data as data
import torch
import yaml
from timm.data import Mixup
from timm.data.mixup import Mixup as InnerMixup


def build(kind=Mixup, **settings):
    return kind(**settings)


class OwnMixup(Mixup):
    pass


class OwnInit(data.FastCollateMixup):
    def __init__(self, **settings):
        super().__init__(**settings)


BY = {
    "name": InnerMixup,
    "module": lambda **settings: data.Mixup(**settings),
    "partial": functools.partial(Mixup, mode="batch"),
    "default argument": build,
    "subclass": OwnMixup,
    "subclass with __init__": OwnInit,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixup", type=float, default=1.0)
    parser.add_argument("--config")
    parser.add_argument("--by", choices=tuple(BY))
    if config := parser.parse_known_args()[0].config:
        with open(config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    args = parser.parse_args()
    mixer = BY[args.by](mixup_alpha=args.mixup, num_classes=3)
    mixer(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
