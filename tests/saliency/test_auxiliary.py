import argparse
import copy
import hashlib
import http.server
import json
import os
import pickle
import threading

import pytest
import timm
import torch
from safetensors.torch import save as save_tensors
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
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "pth":
        torch.save(weights, path)
    elif kind == "pth wrapped":
        torch.save({"model": {f"module._orig_mod.{k}": v for k, v in weights.items()}}, path)
    elif kind == "pth.tar":
        args = argparse.Namespace(model_kwargs={}, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
        torch.save({"arch": "test_resnet", "state_dict": weights, "args": args, "epoch": 3, "metric": 1.5}, path)
    elif kind == "pth.tar ema":
        worse = {k: torch.zeros_like(v) for k, v in weights.items()}
        torch.save({"arch": "test_resnet", "state_dict": worse, "state_dict_ema": weights}, path)
    return path


KINDS = ["safetensors", "pth", "pth wrapped", "pth.tar", "pth.tar ema"]


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints(kind, tmp_path, tiny_model):
    path = save(tmp_path, kind, tiny_model)
    auxiliary = load_auxiliary("test_resnet", path)
    assert same_logits(auxiliary.model, tiny_model)
    assert not auxiliary.model.training and not any(p.requires_grad for p in auxiliary.model.parameters())
    assert str(path) in auxiliary.origin and auxiliary.size is None


def test_the_checkpoint_names_its_architecture_and_statistics(tmp_path, tiny_model):
    auxiliary = load_auxiliary(None, save(tmp_path, "pth.tar", tiny_model))
    assert same_logits(auxiliary.model, tiny_model)
    assert auxiliary.mean == (0.1, 0.2, 0.3) and auxiliary.std == (0.4, 0.5, 0.6)


def test_greyscale_checkpoints(tmp_path):
    model = timm.create_model("test_resnet", num_classes=4, in_chans=1)
    torch.save(model.state_dict(), tmp_path / "grey.pth")
    auxiliary = load_auxiliary("test_resnet", tmp_path / "grey.pth")
    assert auxiliary.model(torch.zeros(1, 1, 32, 32)).shape == (1, 4) and auxiliary.own


def test_local_dir(tmp_path, tiny_model):
    config = {
        "architecture": "test_resnet",
        "num_classes": 5,
        "pretrained_cfg": {"num_classes": 5, "input_size": [3, 96, 96]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    auxiliary = load_auxiliary(f"local-dir:{tmp_path}")
    assert same_logits(auxiliary.model, tiny_model)
    assert auxiliary.size == (48, 48), "half the input size of pretrained weights"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hugging Face Hub does, with the files of `self.server.files` by path."""

    def do_HEAD(self):
        body = self.server.files.get(self.path, b"hub" if self.path == "/" else None)
        self.server.asked.append((self.command, self.path))
        self.send_response(404 if body is None else 200)
        if body is not None:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def do_GET(self):
        self.wfile.write(self.do_HEAD() or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine and an empty cache; the client is the real one."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.asked = {}, []
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(not timm.models._hub._has_hf_hub, reason="timm cannot use this huggingface_hub")
def test_pretrained_weights_are_downloaded_once(hub):
    model = timm.create_model("test_resnet")
    hub.files["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"] = save_tensors(model.state_dict())
    auxiliary = load_auxiliary("test_resnet.r160_in1k")
    assert same_logits(auxiliary.model, model) and auxiliary.size == (80, 80)
    assert "test_resnet.r160_in1k, pretrained" in auxiliary.origin and not auxiliary.own
    (path,) = hub.files
    assert hub.asked.count(("GET", path)) == 1
    hub.asked.clear()
    assert same_logits(load_auxiliary("test_resnet.r160_in1k").model, model)
    assert ("GET", path) not in hub.asked, "the second time they come from the cache"


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


def bad_files(tmp_path, model):
    weights = model.state_dict()
    torch.save(weights, tmp_path / "whole.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Not found</html>")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>Not found</html>")
    (tmp_path / "malice.pth").write_bytes(pickle.dumps({"state_dict": Malice()}))
    torch.save({"state_dict": weights, "extra": Malice()}, tmp_path / "malice2.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "no_weights.pth")
    torch.save({k: v for k, v in weights.items() if "layer2" not in k}, tmp_path / "incomplete.pth")


@pytest.mark.parametrize(
    "name",
    [
        "truncated.pth",
        "page.pth",
        "page.safetensors",
        "malice.pth",
        "malice2.pth",
        "list.pth",
        "no_weights.pth",
        "incomplete.pth",
        "missing.pth",
    ],
)
def test_bad_checkpoints_are_one_line_and_run_nothing(name, tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path, tiny_model)
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


@pytest.mark.parametrize("model", [print, 3])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="`model` must be a timm model name or a module"):
        load_auxiliary(model)


def test_script_modules_are_refused(tiny_model):
    with pytest.raises(TypeError, match="must not be a ScriptModule"):
        load_auxiliary(torch.jit.trace(copy.deepcopy(tiny_model).eval(), IMAGES))


def test_the_architecture_must_fit_and_be_known(tmp_path, tiny_model):
    path = save(tmp_path, "pth", tiny_model)
    with pytest.raises(ValueError, match="must hold weights of 'test_vit'"):
        load_auxiliary("test_vit", path)
    with pytest.raises(ValueError, match=r"got .*drop `model`, the file is of 'test_resnet'"):
        load_auxiliary("test_vit", save(tmp_path, "pth.tar", tiny_model))
    with pytest.raises(ValueError, match="must name the architecture"):
        load_auxiliary(None, path)
    with pytest.raises(ValueError, match="cannot create the saliency model 'no_such_model'"):
        load_auxiliary("no_such_model", path)


@pytest.mark.parametrize("name", ["", "no_such_model", "resnet18.no_such_tag", "lcnet_035"])
def test_models_without_weights_are_refused_rather_than_random(name):
    with pytest.raises(ValueError, match="must name a timm model with pretrained weights"):
        load_auxiliary(name)


def test_a_module_and_a_checkpoint_are_too_much(tiny_model):
    with pytest.raises(ValueError, match="must be None where `model` is a module"):
        load_auxiliary(tiny_model, "some.pth")


def test_missing_local_dir():
    with pytest.raises(ValueError, match="existing folder"):
        load_auxiliary("local-dir:/does/not/exist")


def test_random_state_is_left_as_found(tmp_path, tiny_model):
    path, before = save(tmp_path, "pth", tiny_model), torch.get_rng_state()
    load_auxiliary("test_resnet", path)
    assert torch.equal(before, torch.get_rng_state())


def test_unwrap(tiny_model):
    assert unwrap(tiny_model) is tiny_model
    assert unwrap(torch.compile(tiny_model)) is tiny_model
    assert unwrap(torch.nn.DataParallel(model := copy.deepcopy(tiny_model))) is model  # it moves to a GPU
