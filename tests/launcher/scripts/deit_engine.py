"""The training loop of deit.py, in a module that imports Mixup for its annotation."""

from typing import Optional

from timm.data import Mixup


def train_one_epoch(model, loader, optimizer, criterion, mixup_fn: Optional[Mixup] = None):  # noqa: UP045 (as DeiT)
    for samples, targets in loader:
        if mixup_fn is not None:
            samples, targets = mixup_fn(samples, targets)
        loss = criterion(model(samples), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
