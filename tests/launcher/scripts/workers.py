"""Mixes behind a loader with a worker; the collate goes to the worker with --prefetcher."""

import argparse

import timm.data.loader
import torch
from timm.data import FastCollateMixup, Mixup


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.full((3, 8, 8), 6 * i, dtype=torch.uint8), i % 3


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixup", type=float, default=1.0)
    parser.add_argument("--prefetcher", action="store_true")
    parser.add_argument("--start", choices=("fork", "spawn", "forkserver"))
    args = parser.parse_args()
    mixup = (FastCollateMixup if args.prefetcher else Mixup)(mixup_alpha=args.mixup, num_classes=3)
    collate = mixup if args.prefetcher else None
    loader = torch.utils.data.DataLoader(
        Data(), 4, num_workers=1, multiprocessing_context=args.start, collate_fn=collate
    )
    if args.prefetcher:
        batches = timm.data.loader.PrefetchLoader(loader, device=torch.device("cpu"))
    else:
        batches = (mixup(x.float(), y) for x, y in loader)
    rows = [((target > 0.04).sum(1) > 1).sum().item() for _, target in batches]
    print("BATCHES", len(rows), "MIXED", sum(rows) > 0)
