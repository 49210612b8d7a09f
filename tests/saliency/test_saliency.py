"""Every source: its maps against the formula, its settings, and that it leaves models, images and modes as found."""

import copy
from concurrent.futures import ThreadPoolExecutor
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
from sage_timm.saliency import SOURCES
from sage_timm.saliency.gradient import Gradient, loss_slope
from sage_timm.saliency.loading import load_auxiliary
from sage_timm.tensors import gaussian_blur, resize

MODEL_SOURCES = ["feature", "gradient", "self"]
LABELS = torch.tensor([4, 0, 2])


def make(name, model, **kwargs):
    return create_saliency(name, **({"model": model} if name in MODEL_SOURCES else {}), **kwargs)


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


@pytest.mark.parametrize("name", ["gradient", "self"])
def test_gradient_is_that_of_the_true_labels_loss(name, tiny_model, images):
    source = make(name, tiny_model, **raw())
    maps = source(images, F.one_hot(LABELS, 5).float())
    assert_same_up_to_scale(maps, loss_gradient(tiny_model, images, LABELS))
    assert torch.equal(source(images, LABELS), maps)


@pytest.mark.parametrize(
    ("settings", "classes"),
    [({"use_labels": False}, 5), ({}, 7), ({"own": False}, 5), ({"use_labels": True}, None)],
    ids=["told so", "other classes", "weights of others", "no labels"],
)
def test_gradient_of_the_models_own_top_class(settings, classes, tiny_model, images):
    own, use_labels = settings.get("own", True), settings.get("use_labels")
    source = Gradient(replace(load_auxiliary(tiny_model), own=own), None, use_labels, **raw())
    with torch.no_grad():
        top = copy.deepcopy(tiny_model).eval()(images).argmax(1)
    target = None if classes is None else F.one_hot((top + 1) % classes, classes).float()
    assert_same_up_to_scale(source(images, target), loss_gradient(tiny_model, images, top))
    assert ("own top class" in repr(source)) == (settings == {"use_labels": False} or not own)


@pytest.mark.parametrize("gap", [0.0, 20.0, 100.0])
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


def test_feature_is_the_gradient_times_what_is_unusual_there(tiny_model, images):
    large = F.interpolate(images, (112, 120))
    model = copy.deepcopy(tiny_model).eval()
    maps = make("feature", tiny_model, **raw(floor=0))(large, LABELS)
    sides = [min(f.shape[-2:]) for f in model.forward_intermediates(large, intermediates_only=True)]
    deepest = max(i for i, side in enumerate(sides) if side >= 10)
    assert 0 < deepest < len(sides) - 1, "neither the first nor the last map, or this test says little"
    final, features = model.forward_intermediates(large)
    loss = F.cross_entropy(model.forward_head(final), LABELS, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, features[deepest])
    for image, feature, slope in zip(maps, features[deepest], gradient, strict=True):
        usual = torch.stack([channel.flatten().median() for channel in feature])
        expected = (slope * (feature - usual[:, None, None])).abs().sum(0)
        assert_same_up_to_scale(image[None], expected[None, None])


def test_feature_follows_the_images_size(tiny_model, images):
    source = make("feature", tiny_model, **raw())
    for size, cells in ((112, 14), (48, 12), (160, 10), (112, 14), (16, 10)):
        maps = source(F.interpolate(images, (size, size)))
        assert maps.shape == (3, 1, cells, cells) and maps.std() > 0
        single = source(F.interpolate(images[:1], (size, size)))
        assert torch.allclose(single, maps[:1], rtol=1e-3, atol=1e-6 * maps.max().item())


class Stage(nn.Module):
    """A model whose stage the next layer writes into, or which has nothing to do with the logits."""

    feature_info: ClassVar = [dict(module="stage", num_chs=4, reduction=1)]

    def __init__(self, used=True):
        super().__init__()
        self.used, self.stage, self.act = used, nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
        self.head = nn.Linear(4 if used else 3, 5)

    def forward(self, x):
        activation = self.act(self.stage(x))
        return self.head((activation if self.used else x).mean((2, 3)))


def test_feature_of_a_stage_that_the_next_layer_writes_into(images):
    model = Stage()
    maps = make("feature", model)(images, LABELS)
    model.act.inplace = False
    assert torch.equal(maps, make("feature", model)(images, LABELS))


@pytest.mark.parametrize("side", [9, 32])
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
    assert repr(make("feature", tiny_model, size=112)).endswith("stage layer2")
    assert "deepest of 10 x 10 cells" in repr(make("feature", tiny_model))


SWIN = dict(img_size=160, window_size=5, embed_dim=24, depths=(1, 1, 1, 1))  # its maps are [B, H, W, C]
WITHOUT_STAGES = {
    "module": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 160 * 160, 5)),
    "unused stage": lambda: Stage(used=False),
    "transformer": lambda: timm.create_model("test_vit", num_classes=5),
    "channels last": lambda: timm.create_model("swin_s3_tiny_224", num_classes=5, **SWIN),
}


@pytest.mark.parametrize("kind", WITHOUT_STAGES)
def test_feature_refuses_models_without_feature_maps(kind):
    model, images = WITHOUT_STAGES[kind](), torch.randn(2, 3, 160, 160)
    with pytest.raises(ValueError, match=r"`model` must have stages that are maps .* take 'gradient'") as caught:
        make("feature", model)(images)
    assert "\n" not in str(caught.value)
    assert make("gradient", model)(images).amax() > 0


def test_floor_is_a_multiple_of_the_mean(images):
    maps = create_saliency("spectral", floor=0)(images)
    expected = (maps - 0.8 * maps.mean((2, 3), keepdim=True)).clamp_min(0)
    assert torch.allclose(create_saliency("spectral", floor=0.8)(images), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_of_a_map_with_nothing_above_its_floor_nothing_is_left(value):
    class Flat(Saliency):
        def raw(self, images, target):
            return torch.full((2, 1, 9, 7), value)

    assert not Flat(floor=1.0)(torch.rand(2, 3, 9, 7)).any()


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


@pytest.mark.parametrize(("sigma", "size"), [(0.5, (9, 14)), (1.0, (20, 20)), (2.3, (9, 14))])
def test_blur_against_torchvision(sigma, size):
    maps, kernel = torch.rand(2, 1, *size), [2 * int(np.ceil(2 * sigma)) + 1] * 2
    assert torch.allclose(gaussian_blur(maps, sigma), torchvision_blur(maps, kernel, [sigma, sigma]), atol=1e-6)


def test_default_blur_is_the_authors_on_cifar(tiny_model):
    images = torch.randn(2, 3, 32, 32)
    plain, blurred = make("gradient", tiny_model, **raw())(images), make("gradient", tiny_model)(images)
    assert torch.allclose(blurred, torchvision_blur(plain, [5, 5], [1.0, 1.0]), rtol=1e-4, atol=1e-7)


class Bright(Saliency):
    def raw(self, images, target):
        return images.mean(1, keepdim=True)


@pytest.mark.parametrize(("grid", "shape"), [(64, (40, 56)), (28, (20, 28)), (20, (20, 19)), (1, (1, 1))])
def test_grid_averages_whole_cells(images, grid, shape):
    plain = Bright(grid=None)(images.abs())
    maps = Bright(grid=grid)(images.abs())
    assert torch.equal(plain, images.abs().mean(1, keepdim=True)) and maps.shape[-2:] == shape
    assert torch.allclose(maps, F.adaptive_avg_pool2d(plain, shape))


@pytest.mark.parametrize("name", ["feature", "gradient"])
def test_statistics_of_the_run_are_turned_into_the_models(name, tiny_model):
    pixels = torch.rand(2, 3, 32, 32)
    config = tiny_model.pretrained_cfg
    own = [(pixels[:, c] - config["mean"][c]) / config["std"][c] for c in range(3)]
    run_mean, run_std = (0.1, 0.2, 0.3), (0.9, 0.5, 0.7)
    run = torch.stack([(pixels[:, c] - run_mean[c]) / run_std[c] for c in range(3)], 1)
    expected = make(name, tiny_model)(torch.stack(own, 1))
    source, later = make(name, tiny_model, mean=run_mean, std=run_std), make(name, tiny_model)
    assert torch.allclose(source(run), expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(later(run), expected, rtol=1e-3, atol=1e-5)
    later.normalized_with(run_mean, run_std)
    assert torch.allclose(later(run), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [(24, 24), (17, 90)])
def test_the_model_sees_size_pixels_whatever_the_images(size, tiny_model):
    assert make("gradient", tiny_model, size=24)(torch.randn(2, 3, *size)).shape == (2, 1, 24, 24)


def test_resizing_is_antialiased():
    columns = (torch.arange(64) % 4 == 0).float().expand(1, 1, 64, 64)
    assert torch.allclose(resize(columns, (16, 16))[..., 1:-1], torch.tensor(0.25))


def trace(model):
    """What a source could leave behind in a model."""
    parameters = [(p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes()) for p in model.parameters()]
    modules = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    return parameters, modules, {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", MODEL_SOURCES)
def test_leaves_no_trace(name, fails, tiny_model, images):
    model = copy.deepcopy(tiny_model).train()
    model.layer1.eval()
    model(images).sum().backward()
    source = make(name, model)
    models = [model, source.auxiliary.model]

    def failing(*_):
        raise KeyError("from within")

    if fails:
        models[-1].layer4.register_forward_pre_hook(failing)
    before, images_before, random = [trace(m) for m in models], images.clone(), torch.get_rng_state()
    version = images._version
    if fails:
        with pytest.raises(KeyError, match="from within"):
            source(images, LABELS)
    else:
        source(images, LABELS)
    assert [trace(m) for m in models] == before
    assert torch.equal(images, images_before) and images._version == version and images.grad is None
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["gradient", "self"])
def test_a_given_module_is_copied_and_frozen_and_the_one_in_training_followed(name, tiny_model):
    model, images = copy.deepcopy(tiny_model).train(), torch.randn(2, 3, 32, 32)
    source = make(name, model)
    before, frozen = source(images), source.auxiliary.model
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert torch.allclose(before, source(images), rtol=1e-2) == (name == "gradient")
    assert model.training and all(p.requires_grad for p in model.parameters())
    if name == "gradient":
        assert not any(m.training for m in frozen.modules()) and not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("name", SOURCES)
def test_surrounding_modes_and_dtypes_do_not_matter(name, tiny_model, images):
    settings = {} if name == "self" else {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    source, target = make(name, tiny_model, **settings), F.one_hot(LABELS, 5).float()
    expected = source(images, target)
    assert expected.dtype == torch.float32 and expected.shape[:2] == (3, 1) and not expected.requires_grad
    assert (expected >= 0).all() and expected.isfinite().all() and all(m.std() > 0 for m in expected)
    with torch.no_grad():
        assert torch.equal(source(images, target), expected)
    with torch.inference_mode():
        assert torch.equal(source(images.clone(), target.clone()), expected)
        assert torch.equal(make(name, tiny_model, **settings)(images, target), expected)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(source(images, target), expected)
    for dtype in (torch.bfloat16, torch.float64):
        maps, rounded = (source(each, target) for each in (images.to(dtype), images.to(dtype).float()))
        assert maps.dtype == torch.float32 and torch.equal(maps, rounded)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(make(name, tiny_model, **settings)(images, target), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    wanting = images.clone().requires_grad_()
    assert torch.equal(source(wanting, target), expected) and wanting.grad is None
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(source(strided, target), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", MODEL_SOURCES)
def test_half_precision_modules_stay_as_they_are(name, tiny_model, images):
    half = copy.deepcopy(tiny_model).bfloat16()
    assert make(name, half)(images).isfinite().all()
    assert next(half.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("known", [True, False], ids=["statistics given", "statistics assumed"])
@pytest.mark.parametrize(("channels", "built_for"), [(1, 3), (4, 3), (3, 1), (2, 1)])
def test_channels_that_a_model_was_not_built_for_reach_it_by_their_mean(channels, built_for, known):
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
    assert_same_up_to_scale(make("gradient", model, **given)(images), make("gradient", model)(grey))


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


@pytest.mark.parametrize("channels", [2, 5, 27])
def test_models_of_other_channels_take_their_own_and_no_others(channels):
    model = timm.create_model("test_resnet", num_classes=5, in_chans=channels)
    statistics = {"mean": (0.5,) * channels, "std": (0.2,) * channels}
    assert make("feature", model, size=64, **statistics)(torch.randn(2, channels, 32, 32)).amax() > 0
    with pytest.raises(RuntimeError, match=r"failed on images of shape \(\d, 32, 32\) .* channels"):
        make("gradient", model)(torch.randn(2, 4, 32, 32))


def test_models_of_one_size_get_it():
    images = torch.randn(2, 3, 40, 40)
    vit = timm.create_model("test_vit", num_classes=3, img_size=64)
    assert create_saliency("gradient", model=vit)(images).shape == (2, 1, 64, 64)
    with pytest.raises(RuntimeError, match="check `size`"):
        create_saliency("gradient", model=vit, size=40)(images)


def test_a_source_is_one_class_and_one_line_of_the_registry(monkeypatch, images):
    monkeypatch.setitem(SOURCES, "bright", Bright)
    assert create_saliency("bright", blur=0.1, grid=4)(images[..., :40]).shape == (3, 1, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "grad"}, "must be one of network, feature, gradient, .* or a callable"),
        ({"model": "resnet18"}, "`model` must not be given for 'spectral'"),
        ({"name": "network", "model": "resnet18"}, "`model` must not be given for 'network'"),
        ({"size": 0}, "`size` must be at least 4, got 0"),
        ({"blur": -1}, r"`blur` must lie in \[0, 1\], got -1"),
        ({"grid": 0}, "`grid` must be at least 1"),
        ({"floor": -0.1}, r"`floor` must lie in \[0, 100\], got -0.1"),
        ({"sigma": 3}, "settings are blur, grid and floor, got sigma"),
        ({"name": "self"}, "needs the module in training, got model=None"),
        ({"mean": (0.5,) * 3}, "given together"),
        ({"mean": (0.5, 0.5), "std": (0.2, 0.2, 0.2)}, "`std` must hold a positive number for each"),
        ({"mean": (0.5,), "std": (0.0,)}, "`std` must hold a positive number for each"),
        ({"mean": "abc", "std": (1, 1, 1)}, r"`mean` must hold numbers in \[0, 1\].* got 'abc'"),
        ({"mean": (0.5,), "std": [58.4]}, r"`std` must hold numbers in \[0, 1\].*got \[58.4\]; .* by 255"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create_saliency(**{"name": "spectral"} | arguments)


def test_labels_of_other_classes_are_an_error_where_they_are_asked_for(tiny_model, images):
    source = make("gradient", tiny_model, use_labels=True)
    with pytest.raises(ValueError, match=r"`use_labels` must be False .* got 7 classes and a model of 5"):
        source(images, torch.eye(7)[:3])


@pytest.mark.parametrize("kind", [lambda v: torch.tensor(v).view(3, 1, 1), np.array, list])
def test_statistics_of_any_kind(kind, tiny_model):
    source = make("gradient", tiny_model, mean=kind([0.5, 0.25, 0.5]), std=kind([0.25, 0.5, 0.125]))
    assert source.statistics == ((0.5, 0.25, 0.5), (0.25, 0.5, 0.125))


OUTPUTS = [lambda y: (y, y), lambda y: {"logits": y}, lambda y: y.detach(), lambda y: y[..., None]]


@pytest.mark.parametrize("output", OUTPUTS)
def test_models_without_logits_are_told(output, tiny_model, images):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(tiny_model)

        def forward(self, x):
            return output(self.model(x))

    with pytest.raises(ValueError, match=r"must return logits \[B, N\] that depend on the pixels, got"):
        create_saliency("gradient", model=Wrapped())(images)


def test_a_model_without_weights_works():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert create_saliency("gradient", model=pool)(torch.randn(2, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("name", ["feature", "self"])
def test_threads_may_share_a_source(name, tiny_model):
    source = make(name, copy.deepcopy(tiny_model))
    batches = [torch.randn(2, 3, 40 + 8 * i, 48) for i in range(4)]
    expected = [source(images) for images in batches]

    def work(i):
        return [source(batches[i]) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert all(torch.allclose(each, expected[i], rtol=1e-4, atol=1e-7) for i in range(4) for each in found[i])
