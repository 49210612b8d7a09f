"""Precision and layout against float64; torch.compile; nothing that makes a host wait for its device."""

import numpy as np
import pytest
import reference
import torch
from torch.overrides import TorchFunctionMode

from sage_timm import SageMixup, create_mixup, create_saliency
from sage_timm.methods.sage import sage

EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float64: 2**-24}


def smooth_maps(images, target):
    return torch.nn.functional.avg_pool2d(images.float().square().mean(1, keepdim=True), 3, 1, 1)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_errors_against_float64(dtype, autocast):
    """The mixed image is right to the rounding of its own dtype, the label weight to float32's, whatever surrounds."""
    images = torch.randn(6, 3, 11, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    mixup = SageMixup(mode="elem", num_classes=6, label_smoothing=0.0, saliency=smooth_maps)
    np.random.seed(0)
    lam = mixup._draw(images.shape).lam
    np.random.seed(0)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        mixed, weights = mixup(images, torch.arange(6))
    assert mixed.dtype == dtype and mixed.is_contiguous(memory_format=torch.channels_last)

    pixels = images.double().numpy()
    maps = smooth_maps(images, None)[:, 0].double().numpy()
    image_error = weight_error = 0.0
    for i in range(6):
        pair = pixels[i], pixels[5 - i], maps[i], maps[5 - i]
        expected, weight, _ = reference.sage(*pair, ratio=float(np.float32(0.6) * lam[i]))
        image_error = max(image_error, np.abs(mixed[i].double().numpy() - expected).max() / np.abs(pixels).max())
        weight_error = max(weight_error, abs(weights[i, i].item() - weight))
    print(
        f"{dtype}, autocast {autocast}: image {image_error:.1e} of the largest pixel, label weight {weight_error:.1e}"
    )
    assert image_error <= EPS[dtype] + 2e-6 and weight_error < 2e-6


@pytest.mark.slow
def test_applying_a_plan_compiles_into_one_graph():
    plan = sage(torch.rand(6, 1, 12, 12), torch.arange(6).flip(0), torch.rand(6), (24, 24))

    def step(images, target):
        return plan.mix_images(images), plan.mix_target(target)

    batch = torch.randn(6, 3, 24, 24), torch.eye(6)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)(*batch)
    for a, b in zip(compiled, step(*batch), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


WAITS = {"tolist", "cpu", "numpy", "item", "__bool__", "__float__", "__int__", "__index__", "__array__"}
WAITS |= {"nonzero", "masked_select", "unique", "allclose", "equal", "repeat_interleave"}


def by_mask(index):
    return any(
        getattr(i, "dtype", None) in (torch.bool, torch.uint8) for i in (index if type(index) is tuple else [index])
    )


class Calls(TorchFunctionMode):
    """Notes calls that would make the host wait for a device: values or shapes that depend on tensors."""

    def __init__(self):
        super().__init__()
        self.waits, self.count = set(), 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", str(function))
        masked = name in ("__getitem__", "__setitem__") and by_mask(args[1])
        if name in WAITS or masked or (name == "to" and "cpu" in args[1:]):
            self.waits.add(name)
        self.count += 1
        return function(*args, **(kwargs or {}))


class NoChecks:
    """In place of the value checks, which act at once on a CPU and one batch late on CUDA."""

    def ignore(self, *args, **settings):
        pass

    labels = weights = saliency = scale = ignore


@pytest.mark.parametrize("name", ["feature", "gradient", "spectral", "self"])
@pytest.mark.parametrize("method", ["sage", "mixup", "cutmix", "saliencymix"])
def test_nothing_that_would_make_the_host_wait(method, name, tiny_model):
    """A stand-in for the CUDA test of the same: no operation whose outcome the host needs. Label checks are apart."""
    saliency = create_saliency(name, **({} if name == "spectral" else {"model": tiny_model}))
    mixup = create_mixup(method, cutmix_alpha=1.0, mode="elem", num_classes=5, saliency=saliency)
    images, target = torch.randn(8, 3, 32, 32), torch.arange(8) % 5
    mixup.planner.checks = NoChecks()
    for _ in range(4):
        with Calls() as calls:
            mixup(images, target)
        assert calls.waits == set() and calls.count > 10


@pytest.mark.parametrize(
    "wait",
    [
        *(lambda x: x.sum().item(), lambda x: x[x > 0.5], lambda x: x.nonzero(), lambda x: x.unique()),
        *(
            lambda x: x.tolist(),
            lambda x: x.cpu(),
            lambda x: x.numpy(),
            lambda x: x.to("cpu"),
            lambda x: bool(x[0] > 1),
        ),
        *(lambda x: torch.allclose(x, x), lambda x: x.masked_select(x > 0.5), lambda x: float(x[0])),
        *(lambda x: x.__setitem__(x > 0.5, 0), lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.long))),
    ],
)
def test_the_stand_in_sees_what_waits(wait):
    with Calls() as calls:
        wait(torch.rand(4))
    assert calls.waits
