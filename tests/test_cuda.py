"""What only a GPU can show; skipped without one."""

import numpy as np
import pytest
import torch

from sage_timm import SageMix, SageMixup, create_mixup, create_saliency
from sage_timm.methods import METHODS, create_method
from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency
from sage_timm.plan import Batch
from sage_timm.tensors import unit_mass
from scripts.bench.certify import certify, number_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def make_mixup(name, model, **mixup):
    settings = {"model": model, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    saliency = create_saliency(name, **({} if name == "spectral" else settings))
    return SageMixup(num_classes=5, saliency=saliency, **mixup)


@pytest.mark.parametrize("size", [(32, 32), (61, 47)])
def test_the_search_agrees_with_the_cpu(size):
    own, other = (unit_mass(torch.rand(16, 1, *size) ** 4) / 2 for _ in range(2))
    on_cpu = rearrange(own, other)
    on_gpu = rearrange(own.cuda(), other.cuda())
    certified = certify(own.cuda(), other.cuda(), on_gpu)
    values = [retained_saliency(own, other, number_of(t.cpu(), own)[:, None])[:, 0] for t in (on_cpu, on_gpu)]
    assert (values[0] - values[1]).abs().max() <= 2 * TIE
    assert certified.float().mean() > 0.9


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("name", ["feature", "gradient", "spectral"])
def test_no_call_makes_the_host_wait(name, mode, tiny_model):
    mixup = make_mixup(name, tiny_model, mode=mode, cutmix_alpha=1.0)
    images, target = torch.rand(8, 3, 64, 64, device="cuda"), torch.arange(8, device="cuda") % 5
    for _ in range(4):  # some are CutMix's
        mixup(images, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for seed in range(8):
            np.random.seed(seed)
            mixup(images, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_labels_out_of_range_are_an_error_by_the_next_batch(tiny_model):
    mixup = make_mixup("spectral", tiny_model)
    images, target = torch.randn(8, 3, 32, 32, device="cuda"), torch.arange(8, device="cuda")

    def two_batches():
        mixup(images, target)
        torch.cuda.synchronize()
        mixup(images, target % 5)

    with pytest.raises(ValueError, match=r"labels in \[0, 4\], got 7"):
        two_batches()
    mixup(images, target % 5)


def test_a_full_resolution_search_at_224_stays_under_2_gib():
    own, other = (unit_mass(torch.rand(64, 1, 224, 224, device="cuda")) / 2 for _ in range(2))
    rearrange(own, other)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    rearrange(own, other)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 2 * 2**30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_layout(dtype, tiny_model):
    images = torch.rand(6, 3, 40, 56, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.float16):
        mixed, weights = make_mixup("gradient", tiny_model)(images, torch.arange(6, device="cuda") % 5)
    assert mixed.dtype == dtype and mixed.is_contiguous(memory_format=torch.channels_last) and mixed.isfinite().all()
    assert (weights.sum(1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_the_device(name):
    images, target = torch.rand(6, 3, 40, 56, device="cuda"), torch.arange(6, device="cuda")
    for mix in (
        create_mixup(name, num_classes=6, mode="elem", prob=0.7, cutmix_alpha=1.0, saliency="spectral"),
        SageMix(num_classes=6, saliency="spectral", method=name),
    ):
        for _ in range(4):
            mixed, weights = mix(images, target)
            assert mixed.is_cuda and weights.is_cuda and mixed.isfinite().all()
            assert (weights.sum(1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["sage", "mixup", "saliencymix", "puzzlemix", "comixup"])
def test_methods_plan_on_the_device_as_on_the_cpu(name):
    images, saliency = torch.rand(6, 3, 32, 32), torch.rand(6, 1, 8, 8) ** 3
    lam, mixed = torch.rand(6), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        fields = (tensor.to(device) for tensor in (images, saliency, torch.arange(6).flip(0), lam))
        mixed.append(create_method(name)(Batch(*fields, 1.0)).mix_images(images.to(device)).cpu())
    assert (mixed[0] - mixed[1]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["mixup", "cutmix", "saliencymix"])
def test_methods_without_a_solver_make_nobody_wait(name):
    mixup = create_mixup(name, num_classes=5, saliency="spectral")
    images, target = torch.rand(8, 3, 64, 64, device="cuda"), torch.arange(8, device="cuda") % 5
    mixup(images, target)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixup(images, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loaded_state_repeats_the_devices_draws():
    mixup = create_mixup("cutmix", num_classes=5)
    images, target = torch.randn(8, 3, 32, 32, device="cuda"), torch.arange(8) % 5
    state = mixup.state_dict()
    first = mixup(images, target)
    expected = torch.rand(5, device="cuda")
    mixup.load_state_dict(state)
    again = mixup(images, target)
    assert torch.equal(first[0], again[0]) and torch.equal(torch.rand(5, device="cuda"), expected)


@pytest.mark.parametrize("name", ["feature", "gradient"])
def test_maps_are_close_to_those_of_the_cpu(name, tiny_model):
    source = make_mixup(name, tiny_model).saliency
    images, weights = torch.rand(8, 3, 64, 64), torch.eye(5)[torch.arange(8) % 5]
    on_cpu = source(images, weights)
    on_gpu = source(images.cuda(), weights.cuda()).cpu()
    assert torch.minimum(unit_mass(on_cpu), unit_mass(on_gpu)).sum((1, 2, 3)).min() > 0.95
