"""An installed wheel without the extras mixes by every method: `cd ENVIRONMENT && bin/python .../tests/smoke.py`."""

import sys

import torch

import sage_timm
from sage_timm.methods import METHODS


def main():
    if not sage_timm.__file__.startswith(sys.prefix):
        sys.exit(f"not the installed package: {sage_timm.__file__}")
    images, target = torch.randn(4, 3, 24, 24), torch.arange(4)
    for method in METHODS:
        try:
            mixed, weights = sage_timm.create_mixup(method, num_classes=4, saliency="spectral")(images, target)
        except ImportError as error:
            if 'pip install ".[methods]"' not in str(error):
                raise
            continue
        if mixed.shape != images.shape or not torch.allclose(weights.sum(1), torch.ones(4)):
            sys.exit(f"{method} mixes wrongly")
    if loaded := {"matplotlib", "scipy", "maxflow"} & sys.modules.keys():
        sys.exit(f"the package loads {', '.join(sorted(loaded))} without need")


if __name__ == "__main__":
    main()
