"""The module of swin.py that builds its Mixup."""

from timm.data import Mixup


def build_mixup(config):
    return Mixup(mixup_alpha=config["MIXUP"], cutmix_alpha=0.0, label_smoothing=0.1, num_classes=3)
