"""The CUDA paths without a GPU: fake CUDA tensors, which have a device and a shape but no values.

An operation on tensors of two devices, one whose outcome the host needs, or one that is not deterministic, raises.
Values, streams and events are not simulated: an event never arrives. Autograd asks for a real CUDA context; where a
gradient is taken, the call runs on 'meta' tensors instead, which have no values either and mix with no other device.
Puzzle Mix, Co-Mixup and GuidedMixup solve on the host and wait for their maps by design: they run up to that point.
"""

import traceback
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import timm
import torch
from nondeterministic import Deterministic
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sage_timm import create_mixup, create_saliency
from sage_timm.methods.sage_search import rearrange, steps, translations
from sage_timm.saliency import SOURCES
from sage_timm.saliency.auxiliary import Auxiliary
from sage_timm.tensors import numbers
from scripts.bench.measure import operations

try:
    with FakeTensorMode():
        torch.rand(1).to("cuda")
except RuntimeError as error:
    if "driver" not in str(error):
        raise
    pytest.skip("fake CUDA tensors of this torch ask for a driver", allow_module_level=True)


@pytest.fixture(autouse=True)
def no_streams(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # as without a GPU, where there is one
    monkeypatch.setattr(torch.cuda, "Event", lambda: Mock(query=lambda: False))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    forget_constants()
    yield
    forget_constants()


def forget_constants():
    """Those made here are fake, too."""
    for made in (numbers, steps, translations):
        made.cache_clear()


class NoCopyWaits(TorchDispatchMode):
    """Refuses copies to the host or from it that make it wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        to = (kwargs or {}).get("device")
        if function is torch.ops.aten._to_copy.default and to is not None and args[0].device.type != to.type:
            assert kwargs.get("non_blocking"), "a copy that makes the host wait"
        return function(*args, **(kwargs or {}))


def fake_weights(model, device):
    """Give a model weights that are fake: to be called inside a FakeTensorMode."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for key, value in values.items():
                if value is not None:
                    fake = torch.zeros(value.shape, dtype=value.dtype, device=device)
                    values[key] = torch.nn.Parameter(fake, False) if values is module._parameters else fake
    return model


def source(name, device):
    """Make a source whose model is fake: to be called inside a FakeTensorMode."""
    model = fake_weights(timm.create_model("test_resnet").eval().requires_grad_(False), device)
    return SOURCES[name](Auxiliary(model, None, (112, 112), "a fake model"))


@pytest.fixture
def network(monkeypatch):
    """The default source, whose file can't be read inside a FakeTensorMode; there its weights are to become fake."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # of a real device alone
    return create_saliency("network")


def call(method, saliency=None, device="cuda", batch=8, soft=False, **settings):
    """Make a call on fake tensors, inside a FakeTensorMode, and return it to be made again."""
    mixup = create_mixup(method, num_classes=1000, saliency=saliency, **settings)
    images = torch.rand(batch, 3, 224, 224, device=device)
    target = torch.zeros(batch, 1000, device=device) if soft else torch.zeros(batch, dtype=torch.long, device=device)

    def mix():
        with Deterministic(), NoCopyWaits():
            mixed, weights = mixup(images, target)
        assert mixed.device == images.device and mixed.shape == images.shape
        assert weights.device == images.device and weights.shape == (batch, 1000)

    mixup(images, target)  # makes the constants
    mix()
    return mix, mixup


@pytest.mark.parametrize(("mode", "label_weight"), [("batch", "mask"), ("elem", "saliency")])
@pytest.mark.parametrize("method", ["sage", "mixup", "cutmix", "saliencymix", "resizemix"])
def test_no_wrong_device_and_no_wait(method, mode, label_weight):
    """CutMix's share included: of single images both mix in one call."""
    with FakeTensorMode():
        for switch_prob in (0.0, 1.0) if mode == "batch" else (0.5,):
            settings = dict(cutmix_alpha=1.0, switch_prob=switch_prob, batch=7, label_weight=label_weight)
            _, mixup = call(method, "spectral", mode=mode, **settings)
            assert all(not host.is_cuda for _, host, _ in mixup.planner.checks._pending)


def test_class_weights_are_checked_without_a_wait():
    with FakeTensorMode():
        call("mixup", soft=True)


@pytest.mark.parametrize("device", ["cuda:0", "meta"])
@pytest.mark.parametrize("name", ["feature", "gradient", "self"])
def test_sources_with_a_model(name, device, monkeypatch):
    """On 'cuda' with a stand-in for the backward pass, on 'meta' with autograd's own."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **settings: nullcontext())  # of a real device alone
    if device == "cuda:0":
        monkeypatch.setattr(torch.autograd, "grad", lambda logits, inputs, slope: (torch.zeros_like(inputs),))
    else:
        monkeypatch.setattr("sage_timm.device.ValueChecks._submit", lambda self, outcome, act: None)
    with FakeTensorMode() if device != "meta" else nullcontext():
        call("sage", source(name, device), device)


@pytest.mark.parametrize("method", ["puzzlemix", "comixup", "guidedmixup"])
def test_methods_with_a_solver_wait_for_their_maps_alone(method):
    """They run up to where they hand their maps to the host, and nothing on the way asks for a value."""
    settings = {"block_num": 8} if method == "puzzlemix" else {}
    with FakeTensorMode(), pytest.raises(RuntimeError, match="numpy") as error:
        call(method, "spectral", **settings)
    (last,) = [entry for entry in traceback.extract_tb(error.value.__traceback__) if "sage_timm" in entry.filename][-1:]
    assert ".cpu().numpy()" in last.line


@pytest.mark.parametrize(
    "mistake", [lambda x: x + torch.ones(8), lambda x: x.sum().item(), lambda x: x[x > 0], torch.Tensor.cpu]
)
def test_the_stand_in_sees_mistakes(mistake):
    with FakeTensorMode(), NoCopyWaits(), pytest.raises(Exception, match=r"device|local_scalar_dense|nonzero|wait"):
        mistake(torch.rand(8, device="cuda"))


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_the_default_source(mode, network):
    with FakeTensorMode():
        fake_weights(network.network, "cuda")
        call("sage", network, mode=mode, batch=7)


def test_operations_per_call(network):
    """Limits a little above what is counted today, so that a call grows no dearer unseen."""
    with FakeTensorMode():
        fake_weights(network.network, "cuda")
        own, other = (torch.rand(8, 1, 56, 56, device="cuda") for _ in range(2))
        rearrange(own, other)  # makes the constants
        counts = {"rearrange": operations(lambda: rearrange(own, other))}
        for method in ("mixup", "sage"):
            counts[method] = operations(call(method, network)[0])
    assert counts["rearrange"] <= 40
    assert counts["mixup"] <= 24
    assert counts["sage"] <= 129
