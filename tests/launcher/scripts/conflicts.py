"""Knows arguments of timm's script that can't be combined with a mixer, and parses nothing else."""

import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--mixup", type=float, default=0.0)
parser.add_argument("--naflex-loader", action="store_true")
parser.add_argument("--jsd-loss", action="store_true")
parser.add_argument("--aug-splits", type=int, default=0)
parser.parse_args()
raise RuntimeError("went on")
