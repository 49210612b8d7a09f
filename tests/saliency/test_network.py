"""The shipped network: it finds objects, whatever the normalisation, the size, the channels and the device."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from photographs import gains, load
from safetensors.torch import save_file

from sage_timm import SageMixup, create_saliency
from sage_timm.saliency.network import WEIGHTS, Network, SaliencyNetwork


@pytest.fixture(scope="module")
def photographs():
    return load()


def test_it_finds_the_objects_of_photographs(photographs):
    found = gains(create_saliency()(photographs))
    assert min(found) > 1.1 and sum(found) / len(found) > 1.7, found


def test_it_is_the_default_and_is_there_at_once():
    start = time.process_time()
    mixup = SageMixup(num_classes=10)
    assert time.process_time() - start < 0.5
    assert isinstance(mixup.saliency, Network) and WEIGHTS.stat().st_size < 2**20


@pytest.mark.parametrize("normalize", [lambda x: 255 * x, lambda x: (x - x[:1, :, :1, :1]) / 0.5])
def test_maps_do_not_depend_on_the_normalisation(normalize, photographs):
    source = create_saliency()
    assert torch.allclose(source(photographs), source(normalize(photographs)), atol=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 400), (500, 333)])
@pytest.mark.parametrize("channels", [1, 3, 13])
def test_any_size_and_number_of_channels(size, channels):
    images = torch.rand(2, channels, *size)
    maps = create_saliency(grid=None)(images)
    assert maps.shape[:2] == (2, 1) and maps.isfinite().all() and (maps >= 0).all()
    ratio = (maps.shape[3] / maps.shape[2]) / (size[1] / size[0])
    assert 0.75 < ratio < 1.34 or min(maps.shape[-2:]) == 4


def test_grey_images_are_repeated_and_of_other_channels_the_mean_counts():
    source, images = create_saliency(), torch.rand(2, 5, 64, 64)
    grey = images.mean(1, keepdim=True)
    assert torch.allclose(source(images), source(grey), atol=1e-4)
    assert torch.allclose(source(grey), source(grey.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -2.1, 255.0])
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (33, 70)])
def test_images_without_contrast_have_flat_maps(value, size):
    maps = create_saliency(floor=0)(torch.full((2, 3, *size), value))
    assert torch.allclose(maps, maps.mean()) and not create_saliency()(torch.full((2, 3, *size), value)).any()


def test_it_is_deterministic_frozen_survives_pickling_and_looks_at_no_labels(photographs):
    source = create_saliency()
    state = torch.get_rng_state()
    torch.use_deterministic_algorithms(True)
    try:
        maps = source(photographs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(source(photographs, torch.eye(len(photographs))), maps)
    assert torch.equal(pickle.loads(pickle.dumps(source))(photographs), maps)
    assert not any(parameter.requires_grad for parameter in source.network.parameters())


@pytest.mark.parametrize(("save", "name"), [(save_file, "own.safetensors"), (torch.save, "own.pth")])
def test_a_bare_state_dict_of_a_network_is_known_as_one(save, name, tmp_path, photographs):
    network = SaliencyNetwork(8).eval()
    save({name: weight.half() for name, weight in network.state_dict().items()}, tmp_path / name)
    source = create_saliency(checkpoint=tmp_path / name)
    assert isinstance(source, Network) and name in repr(source)
    for key, weight in source.network.state_dict().items():
        assert torch.allclose(weight, network.state_dict()[key], atol=1e-3)


@pytest.mark.parametrize("kind", ["missing", "torn", "classifier", "not finite"])
def test_other_files_are_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "weights.safetensors"
    if kind == "torn":
        path.write_bytes(WEIGHTS.read_bytes()[:1000])
    elif kind == "classifier":
        save_file(timm.create_model("test_resnet").state_dict(), path)
    elif kind == "not finite":
        network = SaliencyNetwork(4)
        torch.nn.init.constant_(network.out.bias, float("nan"))
        save_file(network.state_dict(), path)
    with pytest.raises(ValueError, match=r"`checkpoint` must .*, got .*weights\.safetensors") as error:
        create_saliency("network", checkpoint=path)
    assert "\n" not in str(error.value)


def test_a_classifiers_checkpoint_or_model_alone_is_looked_through(checkpoint):
    assert repr(create_saliency(checkpoint=checkpoint)).startswith("feature of test_resnet")
    assert repr(create_saliency(model=timm.create_model("test_resnet"))).startswith("feature of the given")


def test_threads_can_share_it(photographs):
    source = create_saliency()
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(source, [photographs] * 8))
    assert all(torch.equal(each, maps[0]) for each in maps)


def test_it_runs_under_autocast_inference_mode_and_in_half_precision(photographs):
    source = create_saliency()
    maps = source(photographs)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(source(photographs), maps, atol=1e-4)
    assert torch.allclose(source(photographs.bfloat16()), maps, atol=2e-2)


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
@pytest.mark.parametrize("saliency", ["network", "spectral"])
def test_images_that_are_not_finite_are_told_and_not_their_saliency(saliency, value):
    images = torch.rand(8, 3, 32, 32)
    images[3, 1, 5, 5] = images[6, 0, 0, 0] = value
    mixup = SageMixup(num_classes=10, saliency=saliency)
    with pytest.warns(UserWarning, match=r"`images` must be finite, got .* in number 3, 6 of a batch of 8; ") as told:
        mixup(images, torch.arange(8))
    assert len(told) == 1 and "saliency" not in str(told[0].message)
    mixup(images, torch.arange(8))  # once is enough
