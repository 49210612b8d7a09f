"""Whatever comes in: the right answer, and never a changed input. Errors: test_mixup.py, test_transforms.py.

Examples are the same each time; `--hypothesis-profile nightly` draws new ones.
"""

import functools
import warnings

import numpy as np
import pytest
import reference
import timm.data
import torch
from batches import bits, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_timm import create_mixup, create_saliency
from sage_timm.methods import METHODS
from sage_timm.surfaces.timm import MODES

CLASSES = 9
FIT = set()


def constant(value):
    return lambda images, target: torch.full((len(images), 1, 5, 6), value)


SOURCES = {name: name for name in ("feature", "gradient", "spectral", "self")}
SOURCES |= {"zero map": constant(0.0), "constant map": constant(0.3), "NaN map": constant(torch.nan)}
SOURCES |= {"inf map": constant(torch.inf), "negative map": constant(-1.0), "tiny map": constant(1e-38)}
SOURCES |= {"huge map": constant(3e38), "one-cell map": lambda images, target: torch.rand(len(images), 1, 1, 1)}

TARGETS = {f"labels, {name}": getattr(torch, name) for name in ("int64", "int32", "int16", "uint8")}
TARGETS |= {"soft, float32": torch.float32, "soft, float16": torch.float16, "multi-label, float32": torch.float32}
TARGETS |= {"multi-label, int64": torch.int64}

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every other image of a batch": lambda x: x.repeat_interleave(2, 0)[::2],
    "cut out of larger images": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1))[:, :, 3:-1, 1:-2],
    "one image expanded": lambda x: x[:1].expand_as(x),
}
PIXELS = {
    "random": lambda x: x,
    "constant": lambda x: torch.ones_like(x),
    "zero": lambda x: torch.zeros_like(x),
    "huge": lambda x: x * 1e4,
    "one NaN": lambda x: x.index_fill(0, torch.tensor([0]), torch.nan),
    "one inf": lambda x: x.index_fill(0, torch.tensor([0]), torch.inf),
}
HALF = (torch.float16, torch.bfloat16)
DTYPES = {str(dtype)[6:]: dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}

# Every value of these must have been tried.
CHOICES = {"method": METHODS, "mode": MODES, "saliency": SOURCES, "target": TARGETS, "dtype": DTYPES}
CHOICES |= {"layout": LAYOUTS, "pixels": PIXELS, "batch": range(1, 10), "channels": range(1, 6)}
CHOICES |= {"prob": [1.0, 0.6, 0.0], "mixup_alpha": [1.0, 0.2, 1e-3, 1e6], "cutmix_alpha": [0.0, 1.0]}
CHOICES |= {"label_smoothing": [0.0, 0.1]}


@functools.cache
def source(name, channels):
    if name not in ("feature", "gradient", "self"):
        return SOURCES[name]
    torch.manual_seed(0)
    built_for = channels if name == "self" else 3
    model = timm.create_model("test_resnet", num_classes=CLASSES, in_chans=built_for)
    statistics = {} if name == "self" else {"mean": [0.5] * channels, "std": [0.2] * channels}
    return create_saliency(name, model=model, **statistics)


DRAWN = {what: st.sampled_from(list(choices)) for what, choices in CHOICES.items()}
DRAWN |= {"height": st.integers(1, 97), "width": st.integers(1, 33), "seed": st.integers(0, 2**31)}


def build(case):
    """Return the images, the target and the mixer's arguments of a case."""
    seeded(case["seed"])
    batch = case["batch"]
    images = PIXELS[case["pixels"]](torch.randn(batch, case["channels"], case["height"], case["width"]))
    images = LAYOUTS[case["layout"]](images.to(DTYPES[case["dtype"]]))
    target = torch.randperm(CLASSES)[:batch]
    if case["target"].startswith("soft"):
        target = torch.eye(CLASSES)[target]
    elif case["target"].startswith("multi-label"):
        target = torch.rand(batch, CLASSES) < 0.4
    names = ("mode", "prob", "mixup_alpha", "cutmix_alpha", "label_smoothing")
    arguments = {name: case[name] for name in names} | {"num_classes": CLASSES}
    arguments |= {"saliency": source(case["saliency"], case["channels"]), "multi_label": "multi" in case["target"]}
    return images, target.to(TARGETS[case["target"]]), arguments


@settings(max_examples=600)
@given(case=st.fixed_dictionaries(DRAWN))
def check_fit(case):
    images, target, arguments = build(case)
    before = bits(images), bits(target)
    mixup = create_mixup(case["method"], **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seeded(case["seed"])
        mixed, weights = mixup(images, target)
        seeded(case["seed"])
        plan = mixup.plan(images, target)
    assert torch.equal(bits(images), before[0]) and torch.equal(bits(target), before[1]), "the input was changed"
    assert mixed.shape == images.shape and mixed.dtype == images.dtype
    assert weights.shape == (len(images), CLASSES) and weights.dtype == torch.float32

    rows = torch.eye(CLASSES)[target.long()] if target.ndim == 1 else target.float()
    smoothing = arguments["label_smoothing"]
    smooth = rows * (1 - smoothing) + smoothing * (0.5 if arguments["multi_label"] else 1 / CLASSES)
    count = len(images)
    seeded(case["seed"])
    draw = mixup._draw(images.shape)
    drawn = draw.by_method | draw.by_cutmix
    assert (plan is None) == (not drawn.any())
    if plan is None:
        assert torch.equal(bits(mixed), bits(images)) and torch.allclose(weights, smooth, atol=1e-6)
    else:
        expected = torch.from_numpy(reference.mix_images(images, plan))
        slack = float(torch.finfo(images.dtype).eps) if images.dtype in HALF else 1e-5
        error = (mixed.double() - expected).abs()
        fit = images.double().nan_to_num(0, 0, 0).abs().amax()
        assert (error[expected.isfinite()] <= slack * fit).all(), "the images are not the plan's"
        assert (mixed.isfinite() | ~expected.isfinite()).all()
        assert np.abs(weights.double().numpy() - reference.mix_target(smooth, plan)).max() < 1e-5
        assert torch.allclose(plan.mask.sum(1), torch.ones(count, *images.shape[2:]), atol=1e-5)
        own = (plan.lam * (plan.source == torch.arange(count)[:, None])).sum(1)
        unmixed = torch.from_numpy(~drawn)
        assert (own[unmixed] == 1).all(), "an image that was not drawn is mixed"
    FIT.update((what, case[what]) for what in CHOICES)


@pytest.mark.slow
def test_fit_batches_are_mixed_right_and_never_changed():
    FIT.clear()
    check_fit()
    for what, choices in CHOICES.items():
        assert {value for name, value in FIT if name == what} == set(choices), what
