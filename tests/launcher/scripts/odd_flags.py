"""Flags --mixup that are no number, and a flag whose name begins as one of the launcher's."""

import argparse
import sys

import torch
from timm.data import Mixup

KINDS = {"none": {"default": None}, "switch": {"action": "store_true"}, "text": {"default": "0.8"}}
parser = argparse.ArgumentParser()
parser.add_argument("kind")
parser.add_argument("--mixup", **KINDS[sys.argv[1]])
parser.add_argument("--sagemaker-dir")
args = parser.parse_args()
assert not isinstance(args.mixup, float)
Mixup(num_classes=3)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
