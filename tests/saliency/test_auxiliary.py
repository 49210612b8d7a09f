import argparse
import copy
import json
import os
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from sage_timm import create_saliency
from sage_timm.saliency.auxiliary import unwrap
from sage_timm.saliency.loading import load_auxiliary

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def same_logits(model, other):
    """Whether two models agree, but for the rounding of other memory formats."""
    return torch.allclose(logits(model), logits(other), rtol=1e-3, atol=1e-4)


def logits(model):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(IMAGES)


def save(tmp_path, kind, model):
    weights, path = model.state_dict(), tmp_path / f"weights.{kind.split()[0]}"
    worse = {k: torch.zeros_like(v) for k, v in weights.items()}
    args = argparse.Namespace(model_kwargs={}, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    content = {
        "safetensors": weights,
        "pth": weights,
        "pth wrapped": {"model": {f"module._orig_mod.{k}": v for k, v in weights.items()}},
        "pth.tar": {"arch": "test_resnet", "state_dict": weights, "args": args, "epoch": 3, "metric": 1.5},
        "pth.tar ema": {"arch": "test_resnet", "state_dict": worse, "state_dict_ema": weights},
    }
    (save_file if kind == "safetensors" else torch.save)(content[kind], path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pth", "pth wrapped", "pth.tar", "pth.tar ema"])
def test_checkpoints(kind, tmp_path, tiny_model):
    """Those of timm's train.py name their architecture and statistics."""
    path, state = save(tmp_path, kind, tiny_model), torch.get_rng_state()
    auxiliary = load_auxiliary(None if "tar" in kind else "test_resnet", path)
    assert same_logits(auxiliary.model, tiny_model)
    assert not auxiliary.model.training and not any(p.requires_grad for p in auxiliary.model.parameters())
    assert str(path) in auxiliary.origin and auxiliary.size is None
    if kind == "pth.tar":
        assert auxiliary.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(state, torch.get_rng_state())


def test_greyscale_checkpoints(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    auxiliary = load_auxiliary("test_resnet", tmp_path / "grey.pth")
    assert auxiliary.model(torch.zeros(1, 1, 32, 32)).shape == (1, 4) and auxiliary.own


def test_local_dir(tmp_path, tiny_model):
    config = {"architecture": "test_resnet", "num_classes": 5}
    config["pretrained_cfg"] = {"num_classes": 5, "input_size": [3, 96, 96]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    auxiliary = load_auxiliary(f"local-dir:{tmp_path}")
    assert same_logits(auxiliary.model, tiny_model)
    assert auxiliary.size == (48, 48), "half the input size of pretrained weights"


@pytest.mark.network
def test_weights_are_on_the_hub(tmp_path, monkeypatch):
    """What users of a heavy auxiliary download: some MB."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    maps = create_saliency(model="tf_efficientnet_lite0")(torch.randn(2, 3, 224, 224))
    assert maps.shape == (2, 1, 14, 14) and maps.isfinite().all()


def test_a_classifier_must_be_named():
    with pytest.raises(ValueError, match=r"`model` or `checkpoint` must be given .*'network'"):
        create_saliency("feature")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "hf-hub:nobody/nothing"])
def test_weights_that_cannot_be_had_are_one_clear_error(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError) as caught:
        create_saliency("gradient", model=name)
    text = str(caught.value)
    assert "\n" not in text
    rule, way_out = text.split(";", 1)
    assert name in rule and all(part in way_out for part in ("`checkpoint`", "local-dir:", "'network'"))


class Malice:
    def __reduce__(self):
        return (os.system, ("touch executed",))


BAD_FILES = {
    "missing.pth": None,
    "page.pth": b"<!DOCTYPE html><html>Not found</html>",
    "page.safetensors": b"<!DOCTYPE html><html>Not found</html>",
    "pickled.pth": pickle.dumps({"state_dict": Malice()}),
    "malice.pth": lambda weights: {"state_dict": weights, "extra": Malice()},
    "list.pth": lambda weights: [1, 2],
    "no_weights.pth": lambda weights: {"epoch": 3},
    "incomplete.pth": lambda weights: {name: value for name, value in weights.items() if "layer2" not in name},
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_checkpoints_are_one_line_and_run_nothing(name, tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = BAD_FILES[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        torch.save(content(tiny_model.state_dict()), tmp_path / name)
    with pytest.raises(ValueError, match=r"`checkpoint` must") as caught:
        load_auxiliary("test_resnet", tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_the_training_settings_of_a_checkpoint_are_used(tmp_path):
    arch = "deit_tiny_distilled_patch16_224"
    model = timm.create_model(arch, num_classes=4, img_size=32)
    args = argparse.Namespace(num_classes=4, model_kwargs={"img_size": 32}, gp=None)
    torch.save({"arch": arch, "state_dict": model.state_dict(), "args": args}, tmp_path / "d.pth")
    auxiliary = load_auxiliary(None, tmp_path / "d.pth")
    assert auxiliary.model.num_classes == 4 and auxiliary.size == (32, 32)
    pooled = timm.create_model("test_resnet", num_classes=4, global_pool="catavgmax")
    args = argparse.Namespace(num_classes=4, gp="catavgmax")
    torch.save({"arch": "test_resnet", "state_dict": pooled.state_dict(), "args": args}, tmp_path / "p.pth")
    assert same_logits(load_auxiliary(None, tmp_path / "p.pth").model, pooled)


def test_what_is_no_model_or_does_not_fit_is_told(tmp_path, tiny_model):
    path, named = save(tmp_path, "pth", tiny_model), save(tmp_path, "pth.tar", tiny_model)
    script = torch.jit.trace(copy.deepcopy(tiny_model).eval(), IMAGES)
    for arguments, message in (
        ((3,), "`model` must be a timm model name or a module"),
        ((script,), "must not be a ScriptModule"),
        ((tiny_model, "some.pth"), "must be None where `model` is a module"),
        (("local-dir:/does/not/exist",), "existing folder"),
        (("test_vit", path), "must hold weights of 'test_vit'"),
        (("test_vit", named), r"got .*drop `model`, the file is of 'test_resnet'"),
        ((None, path), "must name the architecture"),
        (("no_such_model", path), "cannot create the saliency model 'no_such_model'"),
        (("resnet18.no_tag", path), "cannot create the saliency model 'resnet18.no_tag'"),
        *(((name,), "must name a timm model with pretrained") for name in ("", "no_such_model", "resnet18.no_tag")),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            load_auxiliary(*arguments)


@pytest.mark.slow
def test_unwrap(tiny_model):
    assert unwrap(tiny_model) is tiny_model
    assert unwrap(torch.compile(tiny_model)) is tiny_model
    assert unwrap(torch.nn.DataParallel(model := copy.deepcopy(tiny_model))) is model  # it moves to a GPU
