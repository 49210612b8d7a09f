import copy
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.v2.functional import gaussian_blur as torchvision_blur

from sage_timm import Saliency, create_saliency
from sage_timm.saliency.gradient import loss_slope
from sage_timm.tensors import gaussian_blur, resize

MODEL_SOURCES = ["feature", "gradient", "self"]
SOURCES = [*MODEL_SOURCES, "spectral"]


def make(name, model, **kwargs):
    return create_saliency(name, **({} if name == "spectral" else {"model": model}), **kwargs)


def raw(**settings):
    return {"blur": 0.0, "grid": None, **settings}


def loss_gradient(model, images, target):
    pixels = images.double().requires_grad_()
    loss = F.cross_entropy(copy.deepcopy(model).double().eval()(pixels), target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient.abs().mean(1, keepdim=True)


def assert_same_up_to_scale(maps, expected):
    """A map has any scale."""
    maps, expected = (m.double() / m.double().amax((1, 2, 3), keepdim=True) for m in (maps, expected))
    assert torch.allclose(maps, expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def images():
    return torch.randn(3, 3, 40, 56)


@pytest.mark.parametrize("name", SOURCES)
def test_contract(name, tiny_model, images):
    maps = make(name, tiny_model)(images, F.one_hot(torch.tensor([0, 1, 2]), 5).float())
    assert maps.ndim == 4 and maps.shape[:2] == (3, 1)
    assert maps.dtype == torch.float32 and not maps.requires_grad
    assert (maps >= 0).all() and maps.isfinite().all()
    assert all(m.std() > 0 for m in maps)


@pytest.mark.parametrize("name", ["gradient", "self"])
def test_gradient_is_that_of_the_true_labels_loss(name, tiny_model, images):
    target = torch.tensor([4, 0, 2])
    maps = make(name, tiny_model, **raw())(images, F.one_hot(target, 5).float())
    assert_same_up_to_scale(maps, loss_gradient(tiny_model, images, target))


@pytest.mark.parametrize(
    ("settings", "classes"),
    [({"use_labels": False}, 5), ({}, 7), ({"own": False}, 5), ({"use_labels": True}, None)],
    ids=["told so", "other classes", "weights of others", "no labels"],
)
def test_gradient_of_the_models_own_top_class(settings, classes, tiny_model, images):
    own = settings.pop("own", True)
    source = make("gradient", tiny_model, **raw(**settings))
    source.auxiliary = replace(source.auxiliary, own=own)
    with torch.no_grad():
        top = copy.deepcopy(tiny_model).eval()(images).argmax(1)
    target = None if classes is None else F.one_hot((top + 1) % classes, classes).float()
    assert_same_up_to_scale(source(images, target), loss_gradient(tiny_model, images, top))
    assert ("own top class" in repr(source)) == (settings == {"use_labels": False} or not own)


def test_labels_of_other_classes_are_an_error_where_they_are_asked_for(tiny_model, images):
    source = make("gradient", tiny_model, use_labels=True)
    with pytest.raises(ValueError, match=r"`use_labels` must be False .* got 7 classes and a model of 5"):
        source(images, torch.eye(7)[:3])


@pytest.mark.parametrize("gap", [0.0, 5.0, 20.0, 100.0])
def test_the_slope_of_the_loss_is_as_large_for_a_sure_model(gap):
    """That of the cross-entropy in float64, up to a factor of each image; never 0."""
    logits, label = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    logits[torch.arange(6), label] += gap
    exact = logits.double().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(exact, label, reduction="sum"), exact)
    found, others = loss_slope(logits, torch.eye(5)[label]), slope.clamp_min(0)
    expected = others / others.sum(1, keepdim=True) - torch.eye(5)[label]
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(loss_slope(logits, None), loss_slope(logits, torch.eye(5)[logits.argmax(1)]))


def test_the_slope_for_several_classes_for_none_and_for_one_logit():
    logits = torch.tensor([[2.0, 0.0, 1.0, 5.0]]).expand(4, 4)
    weights = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0.6, 0.3, 0.1, 0.0]])
    found = loss_slope(logits, weights)
    other = torch.tensor([0.0, 1.0]).softmax(0)
    assert torch.allclose(found[0], torch.tensor([-0.5, other[0], other[1], -0.5]))
    assert torch.equal(found[1], found[2]) and found[1].argmin() == 3, "the model's top class"
    assert found[3].argmin() == 0 and found[3, 3] > 0 and found.sum(1).abs().max() < 1e-6
    assert loss_slope(torch.randn(3, 1), torch.tensor([[0.0], [1.0], [0.5]])).abs().tolist() == [[1.0]] * 3


@pytest.mark.parametrize("name", ["feature", "gradient"])
@pytest.mark.parametrize("classes", [1, 5])
def test_no_map_is_empty(name, classes):
    """A single logit, rows without a positive class, and a model that is sure of itself."""
    model = timm.create_model("test_resnet", num_classes=classes)
    with torch.no_grad():
        model.get_classifier().weight.mul_(1000)
    images, target = torch.randn(4, 3, 64, 64), torch.zeros(4, classes)
    target[1, -1] = 1
    maps = make(name, model)(images, target)
    assert (maps.amax((1, 2, 3)) > 0).all() and maps.isfinite().all()


def test_gradient_takes_plain_labels_too(tiny_model, images):
    target = torch.tensor([4, 0, 2])
    source = make("gradient", tiny_model)
    assert torch.equal(source(images, target), source(images, F.one_hot(target, 5).float()))


def test_feature_is_the_gradient_times_what_is_unusual_there(tiny_model, images):
    large, target = F.interpolate(images, (112, 120)), torch.tensor([4, 0, 2])
    model = copy.deepcopy(tiny_model).eval()
    maps = make("feature", tiny_model, **raw(floor=0))(large, target)
    sides = [min(f.shape[-2:]) for f in model.forward_intermediates(large, intermediates_only=True)]
    deepest = max(i for i, side in enumerate(sides) if side >= 10)
    assert 0 < deepest < len(sides) - 1, "neither the first nor the last map, or this test says little"
    final, features = model.forward_intermediates(large)
    loss = F.cross_entropy(model.forward_head(final), target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, features[deepest])
    for image, feature, slope in zip(maps, features[deepest], gradient, strict=True):
        usual = torch.stack([channel.flatten().median() for channel in feature])
        expected = (slope * (feature - usual[:, None, None])).abs().sum(0)
        assert_same_up_to_scale(image[None], expected[None, None])


def test_feature_follows_the_images_size_and_leaves_the_model_alone(tiny_model, images):
    source = make("feature", tiny_model, **raw())
    hooks = [len(module._forward_hooks) for module in source.auxiliary.model.modules()]
    for size, cells in ((112, 14), (48, 12), (160, 10), (112, 14), (16, 10)):
        maps = source(F.interpolate(images, (size, size)))
        assert maps.shape == (3, 1, cells, cells) and maps.std() > 0
        single = source(F.interpolate(images[:1], (size, size)))
        assert torch.allclose(single, maps[:1], rtol=1e-3, atol=1e-6 * maps.max().item())
    assert [len(module._forward_hooks) for module in source.auxiliary.model.modules()] == hooks
    failing = source.auxiliary.model.layer3.register_forward_pre_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="failed on images"):
        source(images)
    failing.remove()
    assert [len(module._forward_hooks) for module in source.auxiliary.model.modules()] == hooks


def test_feature_of_a_stage_that_the_next_layer_writes_into(images):
    class InPlace(nn.Module):
        feature_info: ClassVar = [dict(module="stage", num_chs=4, reduction=1)]

        def __init__(self):
            super().__init__()
            self.stage, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.act(self.stage(x)).mean((2, 3)))

    model = InPlace()
    a = model.stage(images)
    loss = F.cross_entropy(model.head(F.relu(a).mean((2, 3))), torch.tensor([4, 0, 2]), reduction="sum")
    (slope,) = torch.autograd.grad(loss, a)
    expected = (slope * (a - a.flatten(2).median(2).values[..., None, None])).abs().sum(1, keepdim=True)
    maps = make("feature", model, **raw(floor=0))(images, torch.tensor([4, 0, 2]))
    assert_same_up_to_scale(maps, expected)


class Unused(nn.Module):
    """A model whose stage has nothing to do with its logits."""

    feature_info: ClassVar = [dict(module=name, num_chs=4, reduction=1) for name in ("stage", "nowhere")]

    def __init__(self):
        super().__init__()
        self.stage, self.head = nn.Conv2d(3, 4, 3), nn.Linear(3 * 16 * 16, 5)

    def forward(self, x):
        self.stage(x)
        return self.head(x.flatten(1))


@pytest.mark.parametrize("side", [9, 16, 32])
def test_feature_enlarges_small_images_and_says_so(side, tiny_model):
    """The stem is no stage, and neither is one of a few cells."""
    source, images = make("feature", tiny_model, **raw(floor=0), size=side), torch.randn(2, 3, side, side)
    seen = []
    source.auxiliary.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    maps = source(images)
    assert min(maps.shape[-2:]) >= 10 and seen[-1] >= 37
    large = make("feature", tiny_model, **raw(floor=0))(resize(images, (seen[-1],) * 2))
    assert torch.allclose(maps, large, rtol=1e-4, atol=1e-6)
    assert f"stage layer1, enlarged to {seen[-1]} x {seen[-1]} px" in repr(source)


def test_the_stage_of_feature_is_known_before_the_first_batch_where_the_size_is(tiny_model):
    assert repr(create_saliency("feature", model=tiny_model, size=112)).endswith("stage layer2")
    assert "deepest of 10 x 10 cells" in repr(create_saliency("feature", model=tiny_model))


@pytest.mark.parametrize("kind", ["module", "unused stage", "transformer", "channels last"])
def test_feature_refuses_models_without_feature_maps(kind):
    model, images = Unused(), torch.randn(2, 3, 16, 16)
    if kind == "module":
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    if kind == "transformer":
        model, images = timm.create_model("test_vit", num_classes=5), torch.randn(2, 3, 160, 160)
    if kind == "channels last":  # [B, H, W, C]
        model = timm.create_model("swin_s3_tiny_224", num_classes=5, img_size=160, window_size=5, depths=(1, 1, 1, 1))
        images = torch.randn(2, 3, 160, 160)
    with pytest.raises(ValueError, match=r"`model` must have stages that are maps .* take 'gradient'") as caught:
        make("feature", model)(images)
    assert "\n" not in str(caught.value)
    assert make("gradient", model)(images).amax() > 0


@pytest.mark.parametrize("name", SOURCES)
def test_floor_is_a_multiple_of_the_mean(name, tiny_model, images):
    maps = make(name, tiny_model, floor=0)(images)
    expected = (maps - 0.8 * maps.mean((2, 3), keepdim=True)).clamp_min(0)
    assert torch.allclose(make(name, tiny_model, floor=0.8)(images), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3, 7.0])
def test_of_a_map_with_nothing_above_its_floor_nothing_is_left(value):
    class Flat(Saliency):
        def raw(self, images, target):
            return torch.full((2, 1, 9, 7), value)

    assert not Flat(floor=1.0)(torch.rand(2, 3, 9, 7)).any()
    assert not Flat(floor=3.0)(torch.rand(2, 3, 9, 7)).any()


def test_spectral_residual_against_numpy():
    images = torch.randn(2, 3, 64, 64)
    maps = create_saliency("spectral", **raw())(images)
    for image, result in zip(images.double().numpy(), maps, strict=True):
        spectrum = np.fft.fft2(image.mean(0))
        log = np.log(np.abs(spectrum))
        padded = np.pad(log, 1, mode="edge")
        average = sum(padded[y : y + 64, x : x + 64] for y in range(3) for x in range(3)) / 9
        expected = np.abs(np.fft.ifft2(np.exp(log - average + 1j * np.angle(spectrum)))) ** 2
        assert np.allclose(result[0], expected, rtol=1e-3)


def test_spectral_finds_the_odd_one_out():
    stripes = torch.sin(torch.arange(64) * 0.8) + 0.05 * torch.randn(1, 3, 64, 64)
    stripes[:, :, 40:48, 12:20] = 2
    y, x = divmod(int(create_saliency("spectral")(stripes).argmax()), 64)
    assert 36 <= y < 52 and 8 <= x < 24


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
@pytest.mark.parametrize("size", [(9, 14), (20, 20)])
def test_blur_against_torchvision(sigma, size):
    maps = torch.rand(2, 1, *size)
    kernel = 2 * int(np.ceil(2 * sigma)) + 1
    assert torch.allclose(
        gaussian_blur(maps, sigma), torchvision_blur(maps, [kernel, kernel], [sigma, sigma]), atol=1e-6
    )


def test_default_blur_is_the_authors_on_cifar(tiny_model):
    images = torch.randn(2, 3, 32, 32)
    plain, blurred = make("gradient", tiny_model, **raw())(images), make("gradient", tiny_model)(images)
    assert torch.allclose(blurred, torchvision_blur(plain, [5, 5], [1.0, 1.0]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("grid", "shape"), [(None, (40, 56)), (64, (40, 56)), (28, (20, 28)), (20, (20, 19)), (1, (1, 1))]
)
def test_grid_averages_whole_cells(tiny_model, images, grid, shape):
    plain = make("gradient", tiny_model, grid=None)(images)
    maps = make("gradient", tiny_model, grid=grid)(images)
    assert maps.shape[-2:] == shape
    assert torch.allclose(maps, F.adaptive_avg_pool2d(plain, shape))


@pytest.mark.parametrize("name", ["feature", "gradient"])
def test_statistics_of_the_run_are_turned_into_the_models(name, tiny_model):
    pixels = torch.rand(2, 3, 32, 32)
    config = tiny_model.pretrained_cfg
    own = [(pixels[:, c] - config["mean"][c]) / config["std"][c] for c in range(3)]
    run_mean, run_std = (0.1, 0.2, 0.3), (0.9, 0.5, 0.7)
    run = [(pixels[:, c] - run_mean[c]) / run_std[c] for c in range(3)]
    expected = make(name, tiny_model)(torch.stack(own, 1))
    source = make(name, tiny_model, mean=run_mean, std=run_std)
    assert torch.allclose(source(torch.stack(run, 1)), expected, rtol=1e-3, atol=1e-5)
    later = make(name, tiny_model)
    later.normalized_with(run_mean, run_std)
    assert torch.allclose(later(torch.stack(run, 1)), expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(make(name, tiny_model)(torch.stack(run, 1)), expected, rtol=1e-3, atol=1e-5)


def test_the_model_sees_size_pixels_whatever_the_images(tiny_model):
    seen = []
    source = create_saliency("gradient", model=tiny_model, size=24)
    source.auxiliary.model.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    for size in ((48, 64), (24, 24), (17, 90)):
        assert source(torch.randn(2, 3, *size)).shape == (2, 1, 24, 24)
    assert seen == [(2, 3, 24, 24)] * 3


def test_resizing_is_antialiased():
    columns = (torch.arange(64) % 4 == 0).float().expand(1, 1, 64, 64)
    assert torch.allclose(resize(columns, (16, 16))[..., 1:-1], torch.tensor(0.25))


def state(model):
    return {
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
    }


def assert_same_state(before, after):
    for name, value in before["weights"].items():
        assert torch.equal(value, after["weights"][name]), name
    for a, b in zip(before["gradients"], after["gradients"], strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
    for key in ("modes", "requires_grad", "hooks"):
        assert before[key] == after[key], key


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_leaves_no_trace(name, fails, tiny_model, images, monkeypatch):
    model = copy.deepcopy(tiny_model).train()
    model.layer1.eval()
    model(images).sum().backward()
    source = make(name, model)
    models = [model] if name == "spectral" else [model, source.auxiliary.model]

    def failing(*_):
        raise KeyError("from within")

    if fails and name == "spectral":
        monkeypatch.setattr(torch.fft, "ifft2", failing)
    elif fails:
        models[-1].conv1.register_forward_pre_hook(failing)
    target = F.one_hot(torch.tensor([0, 1, 2]), 5).float()
    before, images_before, random = [state(m) for m in models], images.clone(), torch.get_rng_state()
    version = images._version
    if fails:
        with pytest.raises(KeyError, match="from within"):
            source(images, target)
    else:
        source(images, target)
    for was, now in zip(before, models, strict=True):
        assert_same_state(was, state(now))
    assert torch.equal(images, images_before) and images._version == version and images.grad is None
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_the_auxiliary_model_is_a_frozen_copy(tiny_model):
    model = copy.deepcopy(tiny_model).train()
    source = create_saliency("gradient", model=model)
    frozen = source.auxiliary.model
    assert frozen is not model and model.training and all(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    images = torch.randn(2, 3, 32, 32)
    before = source(images)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert torch.equal(before, source(images))
    assert all(p.grad is None for p in frozen.parameters())


def test_self_follows_the_model_in_training(tiny_model):
    model, images = copy.deepcopy(tiny_model), torch.randn(2, 3, 32, 32)
    source = create_saliency("self", model=model)
    before = source(images)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert not torch.allclose(before, source(images), rtol=1e-2)


@pytest.mark.parametrize("name", SOURCES)
def test_surrounding_modes_do_not_matter(name, tiny_model, images):
    source = make(name, tiny_model)
    expected = source(images)
    with torch.no_grad():
        assert torch.equal(source(images), expected)
    with torch.inference_mode():
        assert torch.equal(source(images.clone(), torch.zeros(3, 7)), expected)
        assert torch.equal(make(name, tiny_model)(images), expected)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(source(images), expected)
    wanting = images.clone().requires_grad_()
    assert torch.equal(source(wanting), expected) and wanting.grad is None
    assert torch.allclose(source(images.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_computed_in_float32(name, dtype, tiny_model, images):
    maps = make(name, tiny_model)(images.to(dtype))
    assert maps.dtype == torch.float32
    assert torch.allclose(maps, make(name, tiny_model)(images.to(dtype).float()), rtol=1e-4)


@pytest.mark.parametrize("name", ["feature", "gradient"])
def test_half_precision_modules_are_frozen_in_float32(name, tiny_model, images):
    half = copy.deepcopy(tiny_model).bfloat16()
    assert make(name, half)(images).isfinite().all()
    assert next(half.parameters()).dtype == torch.bfloat16


def test_self_runs_in_the_dtype_of_the_model(tiny_model, images):
    assert make("self", copy.deepcopy(tiny_model).bfloat16())(images).isfinite().all()


@pytest.mark.parametrize("name", SOURCES)
def test_the_default_dtype_changes_nothing(name, tiny_model, images):
    target = F.one_hot(torch.tensor([0, 1, 2]), 5).float()
    settings = {} if name == "self" else {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    expected = make(name, tiny_model, **settings)(images, target)
    torch.set_default_dtype(torch.float64)
    try:
        maps = make(name, tiny_model, **settings)(images, target)
    finally:
        torch.set_default_dtype(torch.float32)
    assert maps.dtype == torch.float32 and torch.equal(maps, expected)


@pytest.mark.parametrize("name", SOURCES)
def test_images_of_changing_size(name, tiny_model):
    source = make(name, tiny_model)
    for size in ((32, 32), (47, 33), (32, 32), (8, 9)):
        assert source(torch.randn(2, 3, *size)).shape[0] == 2


@pytest.mark.parametrize("name", MODEL_SOURCES)
def test_other_channel_counts(name):
    model = timm.create_model("test_resnet", num_classes=5, in_chans=2)
    source = make(name, model, mean=(0.5, 0.4), std=(0.2, 0.3))
    assert source(torch.randn(2, 2, 32, 32)).isfinite().all()


@pytest.mark.parametrize("known", [True, False], ids=["statistics given", "statistics assumed"])
@pytest.mark.parametrize("name", ["feature", "gradient"])
@pytest.mark.parametrize(("channels", "built_for"), [(1, 3), (4, 3), (7, 3), (3, 1), (2, 1)])
def test_channels_that_a_model_was_not_built_for_reach_it_by_their_mean(channels, built_for, name, known):
    """Its statistics, and those of the images where they are of another number, count by their mean, as in timm."""
    model = timm.create_model("test_resnet", num_classes=5, in_chans=built_for)
    pixels, own = torch.rand(2, channels, 48, 48), torch.tensor(model.pretrained_cfg["mean"]).mean()
    mean, std = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)) if known else ((own,) * 3, (0.5,) * 3)
    given = {"mean": mean, "std": std} if known else {}
    per_image = mean if channels == 3 else (sum(mean) / 3,) * channels
    images = torch.stack(
        [(pixels[:, c] - per_image[c]) / (std[c] if channels == 3 else sum(std) / 3) for c in range(channels)], 1
    )
    grey = ((pixels.mean(1, keepdim=True) - own) / 0.5).repeat(1, built_for, 1, 1)
    maps = make(name, model, **given)(images)
    assert_same_up_to_scale(maps, make(name, model)(grey))


def test_stems_that_fold_pixels_into_channels_are_left_alone():
    class Folds(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, x):
            assert x.shape[1] == 3
            return self.stem(x)

    for channels in (1, 3, 4):
        assert make("gradient", Folds())(torch.randn(2, channels, 16, 16)).amax() > 0


@pytest.mark.parametrize("channels", [5, 27])
def test_models_of_other_channels_take_their_own_and_no_others(channels):
    model = timm.create_model("test_resnet", num_classes=5, in_chans=channels)
    assert make("feature", model, size=64)(torch.randn(2, channels, 32, 32)).amax() > 0
    with pytest.raises(RuntimeError, match=r"failed on images of shape \([23], 32, 32\) .* channels"):
        make("gradient", model)(torch.randn(2, 2, 32, 32))


def test_models_built_for_a_size_get_that_size():
    vit = timm.create_model("test_vit", num_classes=3, img_size=64)
    assert create_saliency("gradient", model=vit)(torch.randn(2, 3, 40, 40)).shape == (2, 1, 64, 64)


def test_models_of_fixed_size_get_it():
    vit = timm.create_model("test_vit", num_classes=3)
    assert create_saliency("gradient", model=vit)(torch.randn(2, 3, 40, 40)).isfinite().all()
    with pytest.raises(RuntimeError, match="check `size`"):
        create_saliency("gradient", model=vit, size=40)(torch.randn(2, 3, 40, 40))


class Bright(Saliency):
    def raw(self, images, target):
        return images.mean(1, keepdim=True)


def test_a_source_of_ones_own_gets_the_settings():
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(Bright(blur=0)(images), images.mean(1, keepdim=True))
    assert torch.allclose(Bright(blur=0, grid=8)(images - 0.5).amin(), torch.tensor(0.0))
    assert Bright(blur=0.1, grid=4)(images).shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "grad"}, "must be one of network, feature, gradient, spectral, self"),
        ({"name": "spectral", "model": "resnet18"}, "uses no model"),
        ({"name": "spectral", "size": 0}, "`size` must be at least 4, got 0"),
        ({"name": "spectral", "size": 2.5}, "`size` must be a whole number"),
        ({"name": "spectral", "floor": float("nan")}, "`floor` must lie in"),
        ({"name": "spectral", "blur": -1}, r"`blur` must lie in \[0, 1\], got -1"),
        ({"name": "spectral", "grid": 0}, "`grid` must be at least 1"),
        ({"name": "spectral", "floor": -0.1}, r"`floor` must lie in \[0, 100\], got -0.1"),
        ({"name": "spectral", "sigma": 3}, "settings are blur, grid and floor, got sigma"),
        ({"name": "self"}, "needs the module in training, got None"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create_saliency(**arguments)


OUTPUTS = [lambda y: (y, y), lambda y: {"logits": y}, lambda y: y.detach(), lambda y: y[..., None]]


@pytest.mark.parametrize("output", OUTPUTS)
def test_models_without_logits_are_told(output, tiny_model):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(tiny_model)

        def forward(self, x):
            return output(self.model(x))

    with pytest.raises(ValueError, match=r"must return logits \[B, N\] that depend on the pixels, got"):
        create_saliency("gradient", model=Wrapped())(torch.randn(2, 3, 32, 32))


def test_a_model_without_weights_works():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert create_saliency("gradient", model=pool)(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": (0.5, 0.5), "std": (0.2, 0.2, 0.2)}, "`std` must hold a positive number for each"),
        ({"mean": (0.5,), "std": (0.0,)}, "`std` must hold a positive number for each"),
        ({"mean": "abc", "std": (1, 1, 1)}, "`mean` must be a number"),
        ({"mean": (0.5, 123.7), "std": (0.2, 58.4)}, r"`mean` must lie in \[0, 1\].*got 123.7; .* divided by 255"),
        ({"mean": (0.5,), "std": (58.4,)}, r"`std` must lie in \[0, 1\].*got 58.4"),
        ({"mean": 0.5, "std": (0.5,)}, r"`mean` must hold a number per channel, got 0.5; write \(0.5,\)"),
    ],
)
def test_wrong_statistics(statistics, message, tiny_model):
    with pytest.raises((TypeError, ValueError), match=message):
        make("gradient", tiny_model, **statistics)


@pytest.mark.parametrize("kind", [lambda v: torch.tensor(v).view(3, 1, 1), np.array, list])
def test_statistics_of_any_kind(kind, tiny_model):
    source = make("gradient", tiny_model, mean=kind([0.5, 0.25, 0.5]), std=kind([0.25, 0.5, 0.125]))
    assert source.statistics == ((0.5, 0.25, 0.5), (0.25, 0.5, 0.125))


def test_mean_and_std_come_together(tiny_model):
    with pytest.raises(ValueError, match="given together"):
        make("gradient", tiny_model, mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", MODEL_SOURCES)
def test_threads_may_share_a_source(name, tiny_model):
    source = make(name, copy.deepcopy(tiny_model))
    batches = [torch.randn(2, 3, 40 + 8 * i, 48) for i in range(4)]
    expected, found = [source(images) for images in batches], {}

    def work(i):
        found[i] = [source(batches[i]) for _ in range(8)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(each, expected[i], rtol=1e-4, atol=1e-7) for i in range(4) for each in found[i])


def test_a_source_of_ones_own_may_take_gradients(tiny_model):
    model, images = copy.deepcopy(tiny_model).eval(), torch.randn(2, 3, 32, 32)

    class Own(Saliency):
        def raw(self, images, target):
            pixels = images.requires_grad_()
            return torch.autograd.grad(model(pixels).sum(), pixels)[0].abs().mean(1, keepdim=True)

    with torch.no_grad():
        maps = Own()(images)
    assert maps.amax() > 0 and not maps.requires_grad and not images.requires_grad
