"""The transforms of train.py, of v1 or v2."""

import torch


def module(use_v2):
    if use_v2:
        import torchvision.transforms.v2 as found
    else:
        import torchvision.transforms as found
    return found


def train_transform(use_v2):
    T = module(use_v2)  # noqa: N806 (as torchvision)
    normalize = T.Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    return T.Compose([T.PILToTensor(), T.ConvertImageDtype(torch.float), normalize])
