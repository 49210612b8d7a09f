"""Every path runs under `torch.use_deterministic_algorithms(True)` on CUDA: nothing it refuses is called.

Here on real tensors of the CPU, gradients and solvers included; on fake CUDA tensors in test_fake_cuda.py.
"""

import pytest
import torch
import torch.nn.functional as F
from nondeterministic import Deterministic

from sage_timm import SageMix, create_mixup, create_saliency
from sage_timm.methods import METHODS
from sage_timm.saliency import SOURCES
from sage_timm.saliency.gradient import ModelSaliency


@pytest.mark.parametrize("label_weight", ["mask", "saliency"])
@pytest.mark.parametrize("method", METHODS)
def test_methods(method, label_weight):
    images, target = torch.randn(6, 3, 24, 40, requires_grad=True), torch.arange(6)
    turns = {"cutmix_alpha": 1.0, "label_weight": label_weight}
    mixups = [create_mixup(method, num_classes=6, mode="elem", saliency="spectral", **turns)]
    if label_weight == "mask":
        mixups.append(SageMix(num_classes=6, saliency="spectral", method=method))
    with Deterministic():
        for mix in mixups:
            for _ in range(3):
                mixed, _ = mix(images, target)
                torch.autograd.grad(mixed.sum(), images)


@pytest.mark.parametrize("size", [32, 112])
@pytest.mark.parametrize("name", SOURCES)
def test_sources(name, size, tiny_model):
    source = create_saliency(name, model=tiny_model if issubclass(SOURCES[name], ModelSaliency) else None)
    for channels in (3, 1)[: 1 if name == "self" else 2]:
        images, target = torch.randn(4, channels, size, size), torch.eye(5)[:4]
        with Deterministic():
            assert source(images, target).amax() > 0


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: x.median(2),
        lambda x: F.interpolate(x[None], (9, 9), mode="bilinear").sum().backward(),
        lambda x: F.adaptive_avg_pool2d(x, (3, 3)).sum().backward(),
        lambda x: F.pad(x, (1, 1), mode="reflect").sum().backward(),
        lambda x: x.histc(),
        lambda x: F.cross_entropy(x[0], torch.zeros(8, dtype=torch.long)),
    ],
)
def test_the_mode_sees_what_is_refused(refused):
    with Deterministic(), pytest.raises(AssertionError, match="not deterministic on CUDA"):
        refused(torch.randn(3, 8, 8, requires_grad=True))
