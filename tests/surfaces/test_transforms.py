"""SageMix: what is asked of torchvision's MixUp and CutMix, and more."""

import dataclasses

import pytest
import torch
from batches import bump
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from sage_timm import SageMix, create_saliency
from sage_timm.methods import METHODS
from sage_timm.surfaces.torchvision import find_labels

CLASSES = 20


class Images(torch.utils.data.Dataset):
    """Images whose labels are unique."""

    def __getitem__(self, index):
        torch.manual_seed(index)
        return torch.rand(3, 24, 18), index

    def __len__(self):
        return 12


def sample(count=6, height=24, width=18):
    return torch.rand(count, 3, height, width), torch.arange(count)


def check(images, labels, count=12):
    assert images.shape == (count, 3, 24, 18)
    assert labels.shape == (count, CLASSES) and labels.dtype == torch.float32
    assert torch.allclose(labels.sum(1), torch.ones(count))


@pytest.mark.parametrize("method", METHODS)
def test_supported_structures(method):
    mix = SageMix(num_classes=CLASSES, saliency="spectral", method=method)
    packed = next(iter(DataLoader(Images(), batch_size=12)))
    check(*mix(*packed))
    out = mix(packed)
    assert isinstance(packed, list) and isinstance(out, list)
    check(*out)
    for collate in (lambda b: mix(default_collate(b)), lambda b: mix(*default_collate(b))):
        check(*next(iter(DataLoader(Images(), batch_size=12, collate_fn=collate))))


@pytest.mark.parametrize("method", ["sage", "mixup", "cutmix", "saliencymix", "puzzlemix"])
def test_the_partner_is_torchvisions(method):
    images, labels = sample(8)
    _, mixed = SageMix(num_classes=8, saliency=bump, method=method)(images, labels)
    for i, row in enumerate(mixed):
        assert set(row.nonzero().flatten().tolist()) <= {i, (i - 1) % 8}


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0, 4.0])
def test_mixup_is_torchvisions_with_the_same_seed(alpha):
    images, labels = torch.rand(4, 1, 8, 10), torch.arange(4)
    ours, theirs = SageMix(num_classes=4, method="mixup", alpha=alpha), v2.MixUp(num_classes=4, alpha=alpha)
    for seed in range(10):
        torch.manual_seed(seed)
        mixed, weights = ours(images, labels)
        torch.manual_seed(seed)
        expected, expected_weights = theirs(images, labels)
        assert torch.allclose(mixed, expected, atol=1e-6) and torch.allclose(weights, expected_weights, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.3, 4.0])
def test_cutmix_has_torchvisions_distribution_of_label_weights(alpha):
    """The two draw their boxes in different ways: quantiles are compared, an alpha of 1 would be 0.09 off."""
    images, labels = torch.rand(2, 1, 96, 128), torch.arange(2)
    ours, theirs = SageMix(num_classes=2, method="cutmix", alpha=alpha), v2.CutMix(num_classes=2, alpha=alpha)
    shares = [ours.make_params([images, labels])["plan"].lam[0, 0] for _ in range(1500)]
    expected = [theirs.make_params([images])["lam_adjusted"] for _ in range(3000)]
    quantiles = [torch.tensor(s).quantile(torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7])) for s in (shares, expected)]
    assert torch.allclose(*quantiles, atol=0.04), quantiles


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["uint8", "tv float", "tv uint8", "tv channels_last"])
def test_image_types_and_nothing_changed_in_place(method, kind):
    images, labels = sample(5)
    images = (images * 255).to(torch.uint8) if "uint8" in kind else images
    images = images.contiguous(memory_format=torch.channels_last) if "channels_last" in kind else images
    images = tv_tensors.Image(images) if "tv" in kind else images
    versions, before = (images._version, labels._version), images.clone()
    mixed, weights = SageMix(num_classes=5, saliency="spectral", method=method)(images, labels)
    assert type(mixed) is type(images) and mixed.dtype == images.dtype and mixed.shape == images.shape
    assert (images._version, labels._version) == versions and torch.equal(images, before)
    assert mixed.is_contiguous(memory_format=torch.channels_last) == ("channels_last" in kind)
    assert torch.allclose(weights.sum(1), torch.ones(5), atol=1e-6)


def test_uint8_is_mixed_as_floats_are_and_rounded():
    images, labels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4)
    mix = SageMix(num_classes=4, saliency=bump)
    torch.manual_seed(0)
    raw, weights = mix(images, labels)
    torch.manual_seed(0)
    smooth, expected = mix(images.float() / 255, labels)
    assert torch.equal(raw, (smooth * 255).round().to(torch.uint8)) and torch.equal(weights, expected)


def test_a_saliency_model_sees_uint8_images_normalised(tiny_model):
    seen = []

    class Noted(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return x.mean((2, 3))

    images, labels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4)
    pixels = images.float() / 255
    for settings, shown in (({}, pixels), ({"mean": (0.2,) * 3, "std": (0.5,) * 3}, pixels)):
        source = create_saliency("gradient", model=Noted(), **settings)
        source.auxiliary = dataclasses.replace(source.auxiliary, statistics=((0.2,) * 3, (0.5,) * 3))
        SageMix(num_classes=4, saliency=source)(images, labels)
        assert torch.allclose(seen.pop(), (shown - 0.2) / 0.5, atol=1e-5)
        assert source.mean == (settings.get("mean"))


def test_nested_samples_keep_what_is_not_mixed():
    images, labels = sample()
    extra, index = torch.rand(6, 4), object()
    nested = {"data": (tv_tensors.Image(images), [extra, "name"]), "Labels": labels, "index": index}
    out = SageMix(num_classes=6, saliency=bump)(nested)
    assert out["data"][1][0] is extra and out["data"][1][1] == "name" and out["index"] is index
    assert isinstance(out["data"][0], tv_tensors.Image) and not torch.equal(out["data"][0], images)
    assert out["Labels"].shape == (6, 6) and nested["Labels"] is labels


def test_two_views_get_the_same_mix():
    images, labels = sample()
    views = tv_tensors.Image(images), {"labels": labels}, tv_tensors.Image(images + 1)
    first, weights, second = SageMix(num_classes=6, method="mixup")(views)
    assert torch.allclose(first + 1, second, atol=1e-5)
    assert weights["labels"].shape == (6, 6)


def test_labels_before_images_with_a_getter():
    images, labels = sample()
    mix = SageMix(num_classes=6, saliency=bump, labels_getter=lambda s: s["y"])
    out = mix({"a": {"y": 0}, "y": labels, "z": images})
    assert out["y"].shape == (6, 6) and out["z"].shape == images.shape and not torch.equal(out["z"], images)


@pytest.mark.parametrize("key", ["labels", "LABELS", "LaBeL", "SOME_KEY_THAT_HAS_LABeL_IN_IT"])
@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_labels_are_found_as_torchvision_finds_them(key, kind):
    labels = torch.arange(10)
    found = {key: labels, "another": "whatever"}
    assert find_labels(found if kind is dict else kind((None, found, "again"))) is labels
    if key.lower() != "labels":
        assert find_labels({key: "else", "labels": labels}) is labels


def test_class_weights_keep_their_dtype_and_need_no_num_classes():
    images, _ = sample(4)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool):
        weights = torch.eye(4).to(dtype)
        _, mixed = SageMix(saliency=bump)(images, weights)
        assert mixed.dtype == (dtype if dtype.is_floating_point else torch.float32)
        assert torch.allclose(mixed.float().sum(1), torch.ones(4), atol=1e-2)


def test_inside_other_transforms():
    images, labels = sample()
    mix = SageMix(num_classes=6, saliency="spectral")
    for transform in (
        v2.RandomChoice([mix, v2.CutMix(num_classes=6)]),
        v2.RandomApply([mix], p=1.0),
        v2.Compose([mix, v2.Normalize([0.5] * 3, [0.5] * 3)]),
        v2.Compose([mix, SageMix(saliency="spectral", method="cutmix")]),
        torch.nn.Sequential(mix),
    ):
        out = transform((images, labels)) if isinstance(transform, torch.nn.Sequential) else transform(images, labels)
        assert out[0].shape == images.shape and torch.allclose(out[1].sum(1), torch.ones(6), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_repr_says_what_mixes(method):
    mix = SageMix(num_classes=6, alpha=0.3, saliency="spectral", method=method)
    assert repr(mix).startswith(f"SageMix({METHODS[method].__name__}(") and "alpha=0.3, num_classes=6" in repr(mix)
    assert ("spectral residual" in repr(mix)) == METHODS[method].uses_saliency


class Collate:
    def __init__(self, method):
        self.mix = SageMix(num_classes=CLASSES, method=method)

    def __call__(self, batch):
        return self.mix(*default_collate(batch))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("method", ["sage", "puzzlemix"])
def test_the_network_and_a_pool_of_threads_in_a_collate_fn_of_workers(method, start):
    loader = DataLoader(Images(), 6, num_workers=1, collate_fn=Collate(method), multiprocessing_context=start)
    batches = list(loader)
    assert len(batches) == 2
    for images, labels in batches:
        check(images, labels, 6)
        assert (labels.max(1).values < 1).any(), "something is mixed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F.to_pil_image(torch.rand(3, 4, 4)), torch.arange(1)), "does not support Image"),
        ((tv_tensors.Mask(torch.rand(12, 12)),), "does not support Mask"),
        ((tv_tensors.BoundingBoxes(torch.rand(2, 4), format="XYXY", canvas_size=(9, 9)),), "support BoundingBoxes"),
        ((tv_tensors.Video(torch.rand(4, 2, 3, 8, 8)), torch.arange(4)), "does not support Video"),
        (({"img": torch.rand(9, 3, 12, 12), "other": 3},), "a dict with the keys 'img', 'other'; make labels a tensor"),
        ((torch.rand(9, 3, 12, 12),), r"must be \(images, labels\) .* got Tensor of shape \(9, 3, 12, 12\)"),
        ((torch.rand(9, 3, 12, 12), "no tensor"), "got tuple of Tensor .*, str"),
        ((torch.rand(9, 3, 12, 12), torch.ones(9, 3).long()), r"`labels` must hold .* got torch.int64 of shape \(9, 3"),
        ((torch.rand(9, 3, 12, 12), torch.rand(9)), r"`labels` must hold integer .* got torch.float32"),
        ((torch.rand(1, 9, 3, 12, 12), torch.arange(9)), r"batch \[B, C, H, W\], got torch.float32 of shape \(1, 9,"),
        ((torch.rand(3, 12, 12), torch.arange(3)), r"batch \[B, C, H, W\], got torch.float32 of shape \(3, 12, 12\)"),
        ((torch.rand(0, 3, 12, 12), torch.arange(0)), "non-empty batch"),
        ((torch.rand(9, 3, 12, 12), torch.arange(10)), r"integer labels \[9\] or .* got torch.int64 of shape \(10,\)"),
        ((torch.rand(9, 3, 12, 12), torch.arange(2, 11)), r"labels in \[0, 9\], got 10"),
        ((torch.zeros(9, 3, 12, 12, dtype=torch.int32), torch.arange(9)), "uint8 or floating point, got torch.int32"),
        (("name", torch.arange(9)), "must hold a batch of images"),
        (
            (tv_tensors.Image(torch.rand(3, 3, 8, 8)), torch.arange(3), tv_tensors.Image(torch.rand(3, 3, 9, 8))),
            "one size",
        ),
    ],
)
def test_unfit_samples(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        SageMix(num_classes=10, saliency=bump)(*arguments)
    assert "\n" not in str(caught.value)


def test_more_unfit_samples():
    images, labels = sample()
    with pytest.raises(ValueError, match=r"`num_classes` must be given for labels \[6\], got None"):
        SageMix(saliency=bump)(images, labels)
    with pytest.raises(ValueError, match=r"must return a tensor of the sample itself, got Tensor of shape \(6,\)"):
        SageMix(num_classes=6, saliency=bump, labels_getter=lambda s: s[1].clone())(images, labels)
    with pytest.raises(ValueError, match=r"must return a tensor of the sample itself, got NoneType"):
        SageMix(num_classes=6, saliency=bump, labels_getter=lambda s: None)(images, labels)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"alpha": 0}, ValueError, r"`alpha` must lie in \(0,"),
        ({"alpha": "1"}, TypeError, "`alpha` must be a number"),
        ({"num_classes": 0}, ValueError, "`num_classes` must be at least 1"),
        ({"labels_getter": "y"}, ValueError, "`labels_getter` must be 'default' or a function, got 'y'"),
        ({"method": "mixed"}, ValueError, "`method` must be one of sage,"),
        ({"lam_min": 0.2}, TypeError, "sage has lam_max, got lam_min"),
        ({"saliency": 3}, TypeError, "`saliency` must be a source's name or a callable"),
    ],
)
def test_unfit_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        SageMix(**{"saliency": bump, **settings})
