"""A script in the style of Swin: a strict parser without --mixup, whose settings come from a config object."""

import argparse

import torch
from swin_build import build_mixup

parser = argparse.ArgumentParser("swin style")
parser.add_argument("--cfg")
args = parser.parse_args()
assert args.cfg == "x.yaml"
build_mixup({"MIXUP": 0.8})(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
