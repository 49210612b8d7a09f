"""What every surface promises with every method; methods come from the registry, so a new one is covered at once."""

import copy
import functools
import multiprocessing
import os
import pickle
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from batches import bits, bump, seeded
from torch._dynamo.testing import CompileCounter

from sage_timm import MixPlan, SageMix, create_mixup
from sage_timm.methods import METHODS, create_method
from sage_timm.plan import Batch

CLASSES = 7


TIMMS = functools.partial(create_mixup, mode="elem", num_classes=CLASSES, label_smoothing=0.0)
SHARED = functools.partial(TIMMS, prob=0.8, cutmix_alpha=1.0)
SURFACES = {
    "timm": TIMMS,
    "timm, with CutMix's share": SHARED,
    "torchvision": lambda method, **settings: SageMix(method=method, num_classes=CLASSES, **settings),
}


@pytest.fixture(params=SURFACES)
def surface(request):
    return SURFACES[request.param]


@pytest.fixture
def applied(monkeypatch):
    """The plans that are applied to images, in order."""
    plans, mix_images = [], MixPlan.mix_images
    monkeypatch.setattr(MixPlan, "mix_images", lambda plan, x: plans.append(plan) or mix_images(plan, x))
    return plans


def make_batch(count=6, height=12, width=18):
    return torch.randn(count, 3, height, width), torch.arange(count) % CLASSES


def fixed_maps(count, height=6, width=9):
    maps = torch.rand(count, 1, height, width) ** 4
    return lambda images, weights: maps


def same(a, b):
    return all(x.dtype == y.dtype and torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


def with_seed(seed, mix, *batch):
    seeded(seed)
    random.seed(seed)
    return mix(*batch)


def uses_draws(method):
    """Tell whether its plan changes with the ratios that the surface draws, or with the seed."""
    plans, (images, _) = [], make_batch()
    for seed in (0, 1):
        seeded(seed)
        partner, lam = torch.arange(len(images)).roll(1), torch.full((len(images),), 0.3 + 0.4 * seed)
        plan = create_method(method)(Batch(images, bump(images, None), partner, lam, 1.0, (1.0,) * 3))
        plans.append((plan.mix_images(images), plan.source, plan.lam))
    return not same(*plans)


def check_plan(plan, images):
    count, size = len(images), images.shape[-2:]
    assert plan.source.dtype == torch.int64 and plan.mask.dtype == plan.lam.dtype == torch.float32
    assert plan.source.shape == plan.lam.shape == plan.mask.shape[:2] and plan.mask.shape[2:] == size
    assert plan.mask.min() >= 0 and torch.allclose(plan.mask.sum(1), torch.ones(count, *size), atol=1e-6)
    assert torch.allclose(plan.lam, plan.mask.mean((2, 3)), atol=1e-6), "label weight is the mean of the mask"
    kept = plan.retained(torch.rand(count, 1, 4, 5))
    assert kept.min() >= 0 and kept.max() <= 1 + 1e-4


every_method = pytest.mark.parametrize("method", METHODS)


@every_method
@pytest.mark.parametrize(
    ("count", "dtype", "layout"),
    [
        (6, torch.float32, torch.contiguous_format),
        (5, torch.float16, torch.channels_last),
        (6, torch.bfloat16, torch.contiguous_format),
        (5, torch.float64, torch.channels_last),
    ],
    ids=str,
)
def test_the_plan_is_applied_and_nothing_else_changes(surface, method, count, dtype, layout, applied):
    """Images and class weights are the plan's sums, computed apart in float64; the input stays as it was."""
    images, labels = make_batch(count)
    images = images.to(dtype).contiguous(memory_format=layout)
    before, versions = (images.clone(), labels.clone()), (images._version, labels._version)
    mixed, weights = surface(method, saliency=bump)(images, labels)
    assert same((images, labels), before) and (images._version, labels._version) == versions
    assert mixed.dtype == dtype and mixed.shape == images.shape and mixed.is_contiguous(memory_format=layout)
    assert weights.dtype == torch.float32 and weights.shape == (count, CLASSES)
    assert (weights.sum(1) - 1).abs().max() < 1e-6

    (plan,) = applied
    check_plan(plan, images)
    expected = torch.from_numpy(reference.mix_images(images, plan))
    slack = float(torch.finfo(dtype).eps) if dtype in (torch.float16, torch.bfloat16) else 2e-6
    assert (mixed.double() - expected).abs().max() <= slack * images.double().abs().max()
    assert np.abs(weights.double().numpy() - reference.mix_target(torch.eye(CLASSES)[labels], plan)).max() < 1e-6
    assert not torch.equal(mixed, images), "something is mixed"


@every_method
def test_labels_by_saliency_leave_the_images_as_they_are(surface, method, applied):
    batch, maps = make_batch(), fixed_maps(6)
    if method == "mixup" and surface is not SHARED:
        with pytest.raises(ValueError, match=r"`label_weight` must be 'mask' for Mixup, .* got 'saliency'"):
            surface(method, saliency=maps, label_weight="saliency")
        return
    mix = surface(method, saliency=maps, label_weight="saliency")
    mixed, weights = with_seed(3, mix, *batch)
    plain, _ = with_seed(3, surface(method, saliency=maps), *batch)
    plan = applied[0]
    seen = plan.retained(maps(None, None))
    assert torch.equal(mixed, plain) and (weights.sum(1) - 1).abs().max() < 1e-6
    assert torch.allclose(plan.lam, seen / seen.sum(1, keepdim=True)) and not torch.equal(plan.lam, applied[1].lam)
    assert torch.equal(weights, plan.mix_target(torch.eye(CLASSES)[batch[1]]))


@every_method
def test_unfit_pixels_stay_where_their_image_is_shown(surface, method, applied):
    images, labels = make_batch()
    images[0], images[0, 1] = torch.nan, -torch.inf
    mixed, _ = surface(method, saliency=fixed_maps(6))(images, labels)
    (plan,) = applied
    clean = images.clone()
    clean[0] = 0
    shown = ((plan.mask > 0) & (plan.source == 0)[..., None, None]).any(1)
    assert shown.any() and not shown.all() and plan.mask.isfinite().all()
    expected = torch.from_numpy(reference.mix_images(clean, plan)).float()
    untouched = ~shown[:, None].expand_as(mixed)
    assert torch.allclose(mixed[untouched], expected[untouched], atol=1e-5)


@every_method
@pytest.mark.filterwarnings("ignore:1 of 6 saliency maps are 0")
def test_unfit_saliency_counts_as_zero(surface, method):
    images, labels = make_batch()
    clean = torch.rand(6, 1, 6, 9)
    clean[0], clean[1:3, :, :3] = 0, 0
    broken, called = clean.clone(), []
    broken[0], broken[1, :, :3], broken[2, :, :3] = torch.nan, torch.inf, -1.0
    uses = METHODS[method].uses_saliency
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mix = surface(method, saliency=lambda *_: called.append(1) or broken)
        first, again = with_seed(0, mix, images, labels), with_seed(0, mix, images, labels)
    expected = with_seed(0, surface(method, saliency=lambda *_: clean), images, labels)
    assert same(first, expected) and same(again, expected)
    assert bool(called) == uses, "a source is asked where, and only where, the method uses it"
    assert [str(w.message)[:26] for w in caught] == ["3 of 6 saliency maps have "] * uses, "one warning, the first time"


@every_method
@pytest.mark.filterwarnings("ignore:6 of 6 saliency maps are 0")
@pytest.mark.parametrize(
    "maps", [torch.zeros(6, 1, 4, 6), torch.full((6, 1, 1, 1), 1e-38), torch.rand(6, 1, 40, 3) * 1e30]
)
def test_maps_of_any_scale_and_size(surface, method, maps):
    batch = make_batch()
    mixed, weights = with_seed(0, surface(method, saliency=lambda *_: maps), *batch)
    assert mixed.isfinite().all() and (weights.sum(1) - 1).abs().max() < 1e-6
    usual, _ = with_seed(0, surface(method, saliency=lambda *_: maps / (maps.amax() or 1)), *batch)
    assert torch.allclose(mixed, usual, atol=1e-4)


@every_method
def test_one_image_stays_as_it_is_with_a_warning(surface, method):
    images, labels = make_batch(1)
    with pytest.warns(UserWarning, match="a batch of 1 image has no partner"):
        mixed, weights = surface(method, saliency=bump)(images, labels)
    assert torch.equal(mixed, images) and torch.equal(weights, torch.eye(CLASSES)[labels])


@every_method
def test_sizes_may_change_between_batches(surface, method, applied):
    mix = surface(method, saliency="spectral")
    for shape in ((4, 8, 10), (2, 1, 1), (3, 1, 7), (9, 33, 2), (23, 6, 40), (4, 8, 10)):
        images, labels = make_batch(*shape)
        mixed, weights = mix(images, labels)
        assert mixed.shape == images.shape and mixed.isfinite().all() and (weights.sum(1) - 1).abs().max() < 1e-6
        check_plan(applied[-1], images)


@every_method
def test_applying_a_plan_is_differentiable_and_making_it_is_not(surface, method, applied):
    """With the plan fixed the result is linear in the images and in the class weights."""
    images, labels = make_batch()
    images, weights = images.requires_grad_(), torch.eye(CLASSES)[labels].requires_grad_()
    mixed, target = surface(method, saliency=bump)(images, weights)
    (plan,) = applied
    assert not plan.mask.requires_grad and not plan.lam.requires_grad
    for result, given in ((mixed, images), (target, weights)):
        value = (result * torch.rand_like(result)).sum()
        (slope,) = torch.autograd.grad(value, given)
        assert torch.allclose((slope * given).sum(), value, rtol=1e-4, atol=1e-5)
    assert images.grad is None and torch.is_grad_enabled()


@every_method
def test_draws_follow_the_seeds_of_the_generators_that_are_its_own(surface, method):
    batch, mix = make_batch(), surface(method, saliency=bump)
    first, second, third = (with_seed(seed, mix, *batch) for seed in (0, 0, 1))
    assert same(first, second)
    assert not same(first, third) or not uses_draws(method)

    def states():
        found = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state().tolist()}
        return {name: pickle.dumps(state) for name, state in found.items()}

    before = states()
    for _ in range(3):
        mix(*batch)
    changed = {name for name, state in states().items() if state != before[name]}
    assert changed <= ({"numpy", "torch"} if surface in (TIMMS, SHARED) else {"torch"})


@every_method
def test_the_default_dtype_changes_nothing(surface, method):
    images, labels = make_batch()
    expected = with_seed(0, surface(method, saliency="spectral"), images, labels)
    torch.set_default_dtype(torch.float64)
    try:
        result = with_seed(0, surface(method, saliency="spectral"), images, labels)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(result, expected)


@every_method
def test_a_copy_mixes_as_the_original(surface, method):
    batch, mix = make_batch(), surface(method, saliency="spectral")
    mix(*batch)
    expected = with_seed(0, mix, *batch)
    for twin in (pickle.loads(pickle.dumps(mix)), copy.deepcopy(mix)):
        assert same(with_seed(0, twin, *batch), expected)


@pytest.mark.parametrize("method", ["sage", "puzzlemix"])
def test_a_compiled_step_mixes_as_a_plain_one(surface, method):
    """Mixing runs outside the graph: a step is cut once, into what comes before (here nothing) and after it."""
    batch, mix = make_batch(), surface(method, saliency=bump)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 18, CLASSES))

    def step(images, labels):
        mixed, weights = mix(images, labels)
        return mixed, weights, -(weights * model(mixed).log_softmax(1)).sum(1).mean()

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(step, backend=counter)
    for seed in (0, 1):
        seeded(seed)
        expected = step(*batch)
        seeded(seed)
        result = compiled(*batch)
        assert same(result, expected) and result[2].requires_grad
    assert counter.frame_count == 1


@pytest.mark.slow
@every_method
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_process_or_file_is_left_behind(method):
    batch, mix = make_batch(), SHARED(method, saliency=bump)
    torch.set_num_threads(2)

    def left():
        own = Path("/proc/self")
        return (
            len(list((own / "task").iterdir())),
            len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
            len(os.listdir("/proc/self/fd")),
            len(multiprocessing.active_children()),
        )

    for _ in range(6):  # pools of threads are made when first needed
        mix(*batch)
    time.sleep(0.1)
    before = left()
    for _ in range(3):
        mix(*batch)
    deadline = time.monotonic() + 5  # the system lists a thread for a moment after it has ended
    while (more := [now > then for now, then in zip(left(), before, strict=True)]) and any(more):
        assert time.monotonic() < deadline, (left(), before)
        time.sleep(0.02)
