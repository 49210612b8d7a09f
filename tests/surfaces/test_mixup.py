import inspect
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest
import timm.data
import timm.loss
import torch
from batches import bump, seeded
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.mixup import mixup_target

from sage_timm import SageMix, SageMixup, create_mixup, create_saliency
from sage_timm.device import ValueChecks
from scripts.bench.compare import sample_images


def flat(images, target):
    return torch.ones(len(images), 1, *images.shape[-2:])


def batch(size=8, height=12, width=10, classes=7):
    return torch.randn(size, 3, height, width), torch.arange(size) % classes


@pytest.fixture
def in_place(monkeypatch):
    """No partner moves."""
    monkeypatch.setattr("sage_timm.methods.sage.rearrange", lambda own, *_: own.new_zeros(len(own), 2).long())


def test_the_surface_is_timms():
    ours = inspect.signature(SageMixup).parameters
    theirs = inspect.signature(timm.data.Mixup).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
    rest = [p for name, p in ours.items() if name not in theirs and name != "multi_label"]
    assert rest and all(p.kind == inspect.Parameter.KEYWORD_ONLY for p in rest)
    settings = {"mixup_alpha": 0.7, "cutmix_alpha": 0.4, "prob": 0.3, "switch_prob": 0.2, "mode": "pair"}
    mine, timms = SageMixup(**settings, saliency=flat), timm.data.Mixup(**settings)
    assert {k: v for k, v in vars(mine).items() if k in vars(timms)} == vars(timms)
    assert isinstance(mine, timm.data.Mixup)


@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
@pytest.mark.parametrize("correct_lam", [True, False])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_cutmix_share_is_bit_for_bit_timms(mode, correct_lam, minmax):
    settings = dict(cutmix_alpha=1.0, cutmix_minmax=minmax, switch_prob=1.0, mode=mode, correct_lam=correct_lam)
    ours = SageMixup(**settings, num_classes=7, saliency=lambda *_: pytest.fail("no saliency is needed for CutMix"))
    theirs = timm.data.Mixup(**settings, num_classes=7)
    for seed in range(12):
        x, target = batch(height=15, width=9)
        seeded(seed)
        expected_x, expected_target = theirs(x.clone(), target)
        seeded(seed)
        mixed, mixed_target = ours(x, target)
        assert torch.equal(mixed, expected_x)
        assert torch.allclose(mixed_target, expected_target, atol=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.37])
def test_prob_0_and_disabled_are_timms_smoothed_one_hot_bit_for_bit(mode, smoothing):
    x, target = batch()
    expected = mixup_target(target, 7, 1.0, smoothing)
    off = SageMixup(prob=0.0, mode=mode, label_smoothing=smoothing, num_classes=7, saliency=bump)
    disabled = SageMixup(mode=mode, label_smoothing=smoothing, num_classes=7, saliency=bump)
    disabled.mixup_enabled = False
    for mixup in (off, disabled):
        mixed, weights = mixup(x, target)
        assert mixed is x
        assert torch.equal(weights, expected)
        assert mixup.plan(x, target) is None


def test_lam_max_scales_the_ratio(in_place):
    x, target = batch(height=4, width=4)
    lams = {}
    for lam_max in (0.5, 1.0):
        seeded()
        mixup = SageMixup(lam_max=lam_max, mode="elem", num_classes=7, saliency=flat)
        lams[lam_max] = torch.cat([mixup.plan(x, target).lam[:, 0] for _ in range(20)])
    assert torch.allclose(lams[0.5], lams[1.0] / 2, atol=1e-6)
    assert lams[0.5].max() <= 0.5


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_a_beta_draw_of_1_is_mixed_all_the_same(mode, in_place):
    """Small alphas draw exactly 1; SAGE's ratio is then lam_max, and only `prob` leaves images unmixed."""
    x, target = batch(height=4, width=4)
    mixup = SageMixup(mixup_alpha=0.01, mode=mode, num_classes=7, saliency=flat)
    lam = torch.cat([mixup.plan(x, target).lam[:, 0] for _ in range(20)])
    assert lam.max() == pytest.approx(0.6) and (lam > 0.59).float().mean() > 0.2


def test_modes_share_the_ratio_as_they_say(in_place):
    x, target = batch(height=4, width=4)
    for mode, count in (("batch", 1), ("pair", 4), ("elem", 8)):
        lam = SageMixup(mode=mode, num_classes=7, saliency=flat).plan(x, target).lam[:, 0]
        assert len(lam.unique()) == count
        assert mode != "pair" or torch.equal(lam, lam.flip(0))


@pytest.mark.filterwarnings("ignore:a batch of 1 image")
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_odd_batches_leave_the_middle_image(mode, size):
    x, target = batch(size=size)
    mixup = SageMixup(cutmix_alpha=1.0, mode=mode, num_classes=7, label_smoothing=0.0, saliency=bump)
    for seed in range(6):
        seeded(seed)
        mixed, weights = mixup(x, target)
        assert mixed.shape == x.shape and torch.allclose(weights.sum(1), torch.ones(size))
        if size % 2:
            assert torch.equal(mixed[size // 2], x[size // 2])
            assert weights[size // 2].argmax() == target[size // 2] and weights[size // 2].max() == 1


def test_saliency_gets_images_and_dense_targets():
    x, target = batch()
    seen = []
    SageMixup(num_classes=7, saliency=lambda *given: seen.extend(given) or flat(*given))(x, target)
    assert torch.equal(seen[0], x) and torch.equal(seen[1], torch.eye(7)[target])


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
@pytest.mark.parametrize("name", ["feature", "gradient", "spectral"])
def test_surroundings_do_not_matter(context, name, tiny_model):
    source = create_saliency(name, **({} if name == "spectral" else {"model": tiny_model}))
    mixup = SageMixup(num_classes=5, mode="elem", saliency=source)
    x, target = batch(height=32, width=32, classes=5)
    x = x.clamp(-1, 1)
    seeded()
    expected = mixup(x, target)
    with context():
        seeded()
        result = mixup(x, target)
        inside = mixup(x.clone(), target.clone())
    for a, b in zip(result, expected, strict=True):
        assert torch.equal(a, b)
    assert inside[0].isfinite().all()


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("kind", ["soft", torch.float32, torch.int64, torch.bool], ids=str)
def test_soft_and_multi_label_targets(mode, kind):
    x, _ = batch()
    soft = kind == "soft"
    target = torch.rand(8, 7).softmax(1) if soft else (torch.rand(8, 7) > 0.6).to(kind)
    mixup = SageMixup(mode=mode, num_classes=7, label_smoothing=0.2, multi_label=not soft, saliency=bump)
    seeded()
    lam = mixup.plan(x, target).lam[:, :1]
    seeded()
    _, weights = mixup(x, target)
    smooth = target.float() * 0.8 + (0.2 / 7 if soft else 0.1)
    assert torch.allclose(weights, smooth * lam + smooth.flip(0) * (1 - lam), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint16])
def test_integer_label_types(dtype):
    x, target = batch()
    off = SageMixup(prob=0.0, num_classes=7, saliency=bump)
    assert torch.equal(off(x, target.to(dtype))[1], off(x, target)[1])


def test_negative_and_empty_saliency_is_said():
    empty = "8 of 8 saliency maps are 0 everywhere and count as uniform"
    for value, said in ((-1.0, f"^8 of 8 saliency maps have negative .* {empty}"), (0.0, f"^{empty}")):
        maps = torch.full((8, 1, 4, 4), value)
        with pytest.warns(UserWarning, match=said):
            SageMixup(num_classes=7, saliency=lambda i, t, maps=maps: maps)(*batch())


PIXELS = torch.rand(8, 3, 32, 32)
IMAGENET = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
HALF, UNIT, BYTES = ((0.5,) * 3, (0.25,) * 3), ((0.0,) * 3, (1.0,) * 3), ((0.0,) * 3, (1 / 255,) * 3)


def normalized(pixels, mean, std):
    return create_saliency("spectral", mean=mean, std=std).normalized(pixels)


@pytest.mark.parametrize(
    ("images", "statistics", "said"),
    [
        (255 * PIXELS, HALF, r"normalised by mean \(0.5, .* got values from .* to 25\d; scale them"),
        (255 * PIXELS, BYTES, None),
        (PIXELS, IMAGENET, r"got values from .* to .*; as if not normalised: normalise"),
        (normalized(PIXELS, *IMAGENET), IMAGENET, None),
        (normalized(1 - PIXELS / 9, *IMAGENET), IMAGENET, None),
        (PIXELS - 0.1, IMAGENET, None),
        (1.1 * PIXELS, IMAGENET, None),
        (PIXELS, UNIT, None),
        (PIXELS, None, "mean .0.5, .* got values from .* the saliency model.s: give create_saliency"),
        (normalized(PIXELS, *IMAGENET), None, "mean .0.5, .* got values from .* the saliency model.s"),
        (2 * PIXELS - 1, None, None),
        (3 * torch.randn(8, 3, 32, 32), IMAGENET, None),
    ],
)
def test_images_on_another_scale_than_said_or_assumed_are_told_once(images, statistics, said, tiny_model):
    """None: statistics assumed to be the model's."""
    mean, std = statistics or (None, None)
    source = create_saliency("gradient", model=tiny_model, mean=mean, std=std)
    mixup, target = SageMixup(num_classes=7, saliency=source), torch.arange(8) % 7
    with pytest.warns(UserWarning, match=said) if said else nullcontext():
        mixup(images, target)
    mixup(images, target)  # another warning would be an error


def test_repr_says_what_mixes(spectral):
    text = repr(SageMixup(0.8, 1.0, prob=0.7, mode="elem", num_classes=7, saliency=spectral))
    assert text.startswith("SAGE(lam_max=0.6), alpha 0.8, with probability 0.7 per elem, ")
    assert ", CutMix (alpha 1) for 50% of it; 7 classes, smoothing 0.1; saliency: " in text
    assert "spectral residual at 64 px" in text


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"mixup_alpha": 0}, ValueError, r"`mixup_alpha` must be > 0 for SAGE to mix"),
        ({"mixup_alpha": -1.0}, ValueError, r"`mixup_alpha` must lie in \[0, 1e\+06\], got -1.0"),
        ({"mixup_alpha": "0.8"}, TypeError, "`mixup_alpha` must be a number, got str '0.8'"),
        ({"cutmix_alpha": float("nan")}, ValueError, "`cutmix_alpha` must lie in"),
        ({"cutmix_minmax": (0.5,)}, ValueError, "`cutmix_minmax` must be"),
        ({"cutmix_minmax": (0.8, 0.2)}, ValueError, "`cutmix_minmax` must be"),
        ({"cutmix_minmax": (0.2, 1.5)}, ValueError, "`cutmix_minmax` must be"),
        ({"prob": 1.5}, ValueError, r"`prob` must lie in \[0, 1\], got 1.5"),
        ({"switch_prob": -0.1}, ValueError, "`switch_prob` must lie in"),
        ({"mode": "half"}, ValueError, "`mode` must be one of batch, pair, elem, got 'half'"),
        ({"label_smoothing": 2}, ValueError, "`label_smoothing` must lie in"),
        ({"num_classes": 0}, ValueError, "`num_classes` must be at least 1, got 0"),
        ({"num_classes": None}, TypeError, "`num_classes` must be a whole number"),
        ({"cutmix_minmax": 0.5}, ValueError, "`cutmix_minmax` must be a pair"),
        ({"cutmix_minmax": ("a", "b")}, ValueError, "`cutmix_minmax` must be a pair"),
        ({"lam_max": 0}, ValueError, r"`lam_max` must lie in \(0, 1\], got 0"),
        ({"label_weight": "area"}, ValueError, "`label_weight` must be one of mask, saliency, got 'area'"),
        ({"saliency": "grad"}, ValueError, "`saliency` must be one of"),
        ({"saliency": 3}, TypeError, "`saliency` must be a source's name or a callable, got int"),
        ({"saliency": torch.nn.Conv2d(3, 1, 1)}, TypeError, r"`saliency` must take \(images, target\), got a Conv2d"),
        ({"saliency": lambda images: images}, TypeError, r"`saliency` must take \(images, target\), got a function"),
    ],
)
def test_wrong_arguments_are_refused_in_the_constructor(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        SageMixup(**{"saliency": flat, **arguments})
    assert "\n" not in str(caught.value)


X, LABELS = torch.rand(8, 3, 4, 4), torch.arange(8)


@pytest.mark.parametrize(
    ("x", "target", "kind", "message"),
    [
        (X[:, :, 0], LABELS, ValueError, r"`images` must be a non-empty batch \[B, C, H, W\]"),
        (X[:0], LABELS[:0], ValueError, "non-empty batch"),
        (X.to(torch.uint8), LABELS, TypeError, "must be floating point, got torch.uint8"),
        (X.numpy(), LABELS, TypeError, "`images` must be a tensor"),
        (X, LABELS[1:], ValueError, r"labels \[8\] or class weights \[8, 9\], got torch.int64"),
        (X, LABELS[:, None], ValueError, r"squeeze\(1\) them"),
        (X, torch.rand(8, 10), ValueError, "check num_classes and multi_label"),
        (X, torch.rand(8), TypeError, "integer labels"),
        (X, LABELS.tolist(), TypeError, "got list"),
        (X, LABELS + 2, ValueError, r"labels in \[0, 8\], got 9; check `num_classes`"),
        (X, LABELS - 1, ValueError, r"labels in \[0, 8\], got -1; drop images without a label"),
    ],
)
def test_wrong_batches(x, target, kind, message):
    mixup = SageMixup(num_classes=9, saliency=flat)
    with pytest.raises(kind, match=message) as caught:
        mixup(x, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "nan"), (torch.inf, "inf"), (-0.5, "-0.5"), (1.5, "1.5")])
def test_class_weights_out_of_range_are_said_with_their_row(value, said):
    x, _ = batch()
    target = torch.eye(7)[torch.arange(8) % 7]
    target[5, 2] = value
    for mix in (SageMixup(num_classes=7, saliency=flat), SageMix(saliency=flat)):
        with pytest.raises(
            ValueError, match=rf"must hold finite class weights in \[0, 1\], got {said} in row 5; "
        ) as e:
            mix(x, target)
        assert "\n" not in str(e.value)
    target[5, 2] = 1.003  # the rounding of bfloat16
    SageMixup(num_classes=7, saliency=flat)(x, target)


@pytest.mark.parametrize("multi_label", [False, True])
def test_one_class_is_smoothed_towards_a_half(multi_label):
    target = torch.tensor([[0.0], [1.0]])
    mixup = SageMixup(num_classes=1, multi_label=multi_label, prob=0, saliency=flat)
    assert torch.allclose(mixup(torch.randn(2, 3, 8, 8), target)[1], torch.tensor([[0.05], [0.95]]))


def test_a_source_may_take_gradients():
    weight = torch.randn(3)

    def source(images, target):
        pixels = images.requires_grad_()
        value = (pixels * weight.view(1, 3, 1, 1)).square().sum()
        return torch.autograd.grad(value, pixels)[0].abs().mean(1, keepdim=True)

    (x, target), features = batch(), torch.nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        assert SageMixup(num_classes=7, saliency=source)(x, target)[0].shape == x.shape
    mixed, _ = SageMixup(num_classes=7, saliency=source)(features(x), target)
    mixed.sum().backward()
    assert features.weight.grad.abs().sum() > 0 and not x.requires_grad


def test_multi_label_needs_dense_targets():
    with pytest.raises(ValueError, match=r"class weights \[8, 7\], got torch.int64"):
        SageMixup(num_classes=7, multi_label=True, saliency=flat)(*batch())


MAPS = torch.ones(8, 1, 4, 4)


@pytest.mark.parametrize(
    ("maps", "got"),
    [
        (MAPS[:, 0], r"torch.float32 of shape \(8, 4, 4\)"),
        (MAPS[1:], r"torch.float32 of shape \(7, 1, 4, 4\)"),
        (MAPS.long(), "torch.int64"),
        (None, "NoneType"),
        (MAPS.to("meta"), r"one on meta; move it by .to\(images.device\)"),
    ],
)
def test_a_source_that_returns_no_map_on_the_device(maps, got):
    rule = r"a saliency source must return floating-point maps \[8, 1, h, w\] on cpu"
    with pytest.raises((TypeError, ValueError), match=f"{rule}, got {got}"):
        SageMixup(num_classes=7, saliency=lambda *_: maps)(*batch())


def test_numpy_numbers_are_numbers():
    mixup = SageMixup(np.float32(0.8), np.float64(1.0), num_classes=np.int64(7), saliency=flat)
    assert mixup(*batch())[1].shape == (8, 7)


def test_an_error_in_the_source_passes_through():
    def failing(images, target):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        SageMixup(num_classes=7, saliency=failing)(*batch())


class OnDevice(torch.Tensor):
    """A tensor on the CPU that says it is on a CUDA device, as does all that is computed from it."""

    is_cuda = True


def on_device(*labels):
    return torch.tensor(labels).as_subclass(OnDevice)


def test_checks_on_a_device_act_once_their_outcome_has_arrived(monkeypatch):
    """The outcome is copied in the background and acted on when its event is done."""
    done = Mock(return_value=False)
    monkeypatch.setattr(torch.cuda, "Event", lambda: Mock(query=done))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    checks = ValueChecks()
    checks.labels(on_device(3, 9, 0), 10)
    checks.labels(on_device(3, 11, 0), 10)
    checks.labels(on_device(5, -2, 1), 10)
    done.return_value = True
    with pytest.raises(ValueError, match=r"labels in \[0, 9\], got 11"):
        checks.labels(on_device(1), 10)
    with pytest.raises(ValueError, match=r"labels in \[0, 9\], got -2"):
        checks.labels(on_device(1), 10)
    checks.labels(on_device(1), 10)
    done.return_value = False
    checks.weights(on_device([0.0, 1.0], [torch.nan, 0.0]))
    done.return_value = True
    with pytest.raises(ValueError, match=r"got nan in row 1"):
        checks.labels(on_device(1), 10)


@pytest.mark.parametrize("label_weight", ["mask", "saliency"])
def test_saliency_is_computed_for_the_batches_that_need_it(label_weight):
    """Not for unmixed ones, nor for CutMix's unless the labels are weighted by it."""
    looked = []
    mixup = SageMixup(
        cutmix_alpha=1.0,
        prob=0.7,
        num_classes=7,
        saliency=lambda *given: looked.append(1) or flat(*given),
        label_weight=label_weight,
    )
    seeded()
    mixes = []
    for _ in range(60):
        plan = mixup.plan(*batch())
        # SAGE's plan has the partner's moves; CutMix's has none.
        mixes.append("none" if plan is None else "cutmix" if plan.translation is None else "sage")
    assert min(map(mixes.count, ("none", "cutmix", "sage"))) > 5
    assert len(looked) == mixes.count("sage") + (label_weight == "saliency") * mixes.count("cutmix")


@pytest.mark.slow
def test_small_alphas_leave_mixup_light_and_sage_by_concentrated_maps_strong():
    """The figures of docs/training.md: how many of the larger label weights are over 0.9, at alpha 0.2."""
    seeded()
    images = sample_images(64, 224)
    light = {}
    for name, saliency in (("mixup", None), ("sage", None), ("sage", "spectral")):
        mix = create_mixup(name, mixup_alpha=0.2, mode="elem", num_classes=64, saliency=saliency)
        lam = torch.cat([mix.plan(2 * images - 1, torch.arange(64)).lam for _ in range(8)])
        light[name, saliency] = (lam.amax(1) > 0.9).float().mean().item()
    print(light)
    assert light["sage", None] < 0.05 < 0.2 < light["sage", "spectral"] < 0.5 < light["mixup", None]
