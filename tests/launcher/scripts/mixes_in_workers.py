"""Calls Mixup in the worker processes of a DataLoader."""

import torch
from timm.data import Mixup

mixup = Mixup(num_classes=3)
data = [(torch.rand(3, 8, 8), i % 3) for i in range(8)]


def collate(batch):
    return mixup(*torch.utils.data.default_collate(batch))


list(torch.utils.data.DataLoader(data, 4, collate_fn=collate, num_workers=1, multiprocessing_context="fork"))
