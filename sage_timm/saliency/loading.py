"""Where an auxiliary model comes from: a timm model by name, a checkpoint, or any module."""

import argparse
import copy
import os
from typing import Any

import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from timm.models import clean_state_dict, create_model, get_pretrained_cfg, is_model_pretrained
from torch import nn

from ..checks import first_line
from .auxiliary import Auxiliary, unwrap


@torch.inference_mode(False)
def load_auxiliary(model: str | nn.Module | None = None, checkpoint: str | os.PathLike | None = None) -> Auxiliary:
    """Load a model as `create_saliency` describes it, and freeze it; torch's random state is left as found."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ValueError("`checkpoint` must be None where `model` is a module, got both; load it into the module")
        module = unwrap(model)
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError("`model` must not be a ScriptModule, which can't be copied; give the module itself")
        return _freeze(copy.deepcopy(module), f"the given {type(module).__name__}", own=True)
    if model is not None and not isinstance(model, str):
        raise TypeError(f"`model` must be a timm model name or a module, got {type(model).__name__}")
    with torch.random.fork_rng(devices=[]):
        if checkpoint is not None:
            return _from_checkpoint(model, os.fspath(checkpoint))
        if model is None:
            raise ValueError(
                "`model` or `checkpoint` must be given for saliency through a classifier, got neither; name a timm "
                "model, or use 'network'"
            )
        return _from_pretrained(model)


def in_training(model: str | nn.Module | None, checkpoint: str | os.PathLike | None) -> Auxiliary:
    """Return the model in training, as it is."""
    if not isinstance(model, nn.Module) or checkpoint is not None:
        raise ValueError(
            f"'self' saliency needs the module in training, got model={model!r} and checkpoint={checkpoint!r}; use "
            "create_saliency('self', model=model)"
        )
    return Auxiliary(model, None, None, f"the {type(unwrap(model)).__name__} in training", own=True, frozen=False)


def _freeze(module: nn.Module, origin: str, settings: dict | None = None, size=None, own: bool = False) -> Auxiliary:
    """Freeze a model; the mean and std of its training are those of the settings, else those that timm knows."""
    module.float().eval().requires_grad_(False).zero_grad()
    pretrained: Any = getattr(module, "pretrained_cfg", None)
    if not pretrained:
        return Auxiliary(module, None, size, origin, own)
    config = resolve_model_data_config(module)
    mean, std = (tuple((settings or {}).get(name) or config[name]) for name in ("mean", "std"))
    built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if built_for or pretrained.get("fixed_input_size"):
        size = built_for or config["input_size"][1:]
    return Auxiliary(module, (mean, std), size, origin, own)


def _from_pretrained(name: str) -> Auxiliary:
    if name.startswith("local-dir:") and not os.path.isdir(name.removeprefix("local-dir:")):
        raise ValueError(f"`model` must name an existing folder after local-dir:, got {name!r}")
    if ":" not in name and not is_model_pretrained(name):
        raise ValueError(
            f"`model` must name a timm model with pretrained weights, got {name!r}; "
            f"timm.list_pretrained() lists them, or give its weights as `checkpoint`"
        )
    try:
        module = create_model(name, pretrained=True)
    except Exception as error:
        raise RuntimeError(
            f"cannot load the weights of the saliency model {name!r} ({first_line(error)}); give a file as "
            "`checkpoint` or local-dir:FOLDER as `model`, or use 'network' as `saliency`, whose weights come with the "
            "package"
        ) from error
    # Half the size costs a quarter.
    size = tuple(side // 2 for side in resolve_model_data_config(module)["input_size"][1:])
    return _freeze(module.to(memory_format=torch.channels_last), f"{name}, pretrained", size=size)


def _from_checkpoint(name: str | None, path: str) -> Auxiliary:
    weights, arch, settings = read_checkpoint(path)
    name = name or arch
    if name is None:
        raise ValueError(f"`model` must name the architecture of {path!r}, which does not say it itself; got None")
    try:
        config = get_pretrained_cfg(name)
        head = getattr(config, "classifier", None) or "head"
        head = f"{head if isinstance(head, str) else head[0]}.weight"
        classes = settings.get("num_classes") or len(weights.get(head, ()))
        given = {"num_classes": classes, "global_pool": settings.get("gp")}
        kwargs = (settings.get("model_kwargs") or {}) | {key: value for key, value in given.items() if value}
        module = create_model(name, **kwargs)
        first = f"{getattr(config, 'first_conv', None)}.weight"
        expected = module.state_dict()
        if first in expected and first in weights and (seen := weights[first].shape[1]) != expected[first].shape[1]:
            module = create_model(name, **kwargs | {"in_chans": 3 * seen // expected[first].shape[1]})
    except Exception as error:
        raise ValueError(f"cannot create the saliency model {name!r}: {first_line(error)}") from error
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        way = f"; drop `model`, the file is of {arch!r}" if arch and arch != name else ""
        keys = " ".join(str(error).split())[:200]
        raise ValueError(
            f"`checkpoint` must hold weights of {name!r}, got {path!r} with others ({keys} ...){way}"
        ) from error
    return _freeze(module.to(memory_format=torch.channels_last), f"{name}, weights of {path}", settings, own=True)


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], str | None, dict]:
    """Read weights, the architecture's name if the file has it, and the training settings if it has them."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"`checkpoint` must be an existing file, got {path!r}; give a .safetensors, .pth or .pth.tar")
    try:
        if path.endswith(".safetensors"):
            content = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"`checkpoint` must be a whole file of weights and nothing else, got {path!r}, which is none; save the "
            f"model's state_dict by torch.save or safetensors"
        ) from error
    content = content if isinstance(content, dict) else {}
    settings = vars(args) if isinstance(args := content.get("args"), argparse.Namespace) else {}
    keys = ("state_dict_ema", "model_ema", "state_dict", "model")
    weights = next((content[key] for key in keys if content.get(key)), content)
    weights = clean_state_dict(weights) if isinstance(weights, dict) else {}
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"`checkpoint` must hold a state_dict, got {path!r} with {sorted(map(str, content))[:5]}")
    return weights, content.get("arch"), settings
