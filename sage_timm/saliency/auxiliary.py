"""The frozen auxiliary model that saliency comes from: by name, from a checkpoint, or any module."""

import argparse
import copy
import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from timm.data import resolve_model_data_config
from timm.models import clean_state_dict, create_model, get_pretrained_cfg, is_model, is_model_pretrained
from torch import nn

from ..checks import first_line

_WITHOUT_HUB = (
    "give a file as `checkpoint` or local-dir:FOLDER as `model`, or use 'network' as `saliency`, whose weights come "
    "with the package"
)


@dataclass(frozen=True)
class Auxiliary:
    """A frozen model with what is needed to feed it.

    Attributes:
        model: in eval mode, no parameter with a gradient, images [B, C, h, w] -> logits [B, N].
        mean, std: per-channel normalisation it was trained with, on images in [0, 1]; None where unknown.
        size: side in pixels that its saliency is computed at, (h, w); None for the images' own size.
        origin: what it is and where its weights come from, in a few words.
        own: the weights are the user's own, so that the labels are read as the model's classes where it has as many.
    """

    model: nn.Module
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: tuple[int, int] | None
    origin: str
    own: bool = False

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The mean and std; None where unknown."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def channels(self, given: int) -> int:
        """Return the number of channels that the model is to see of images with `given`.

        That is 1 or 3 where its first convolution says that it was built for these, also where a stem folds k x k
        pixels into 3 k^2 channels; any other model sees the images as they are.
        """
        first = next((module for module in self.model.modules() if isinstance(module, nn.Conv2d)), None)
        seen = given if first is None else first.in_channels
        if seen in (given, 1):
            return seen
        return 3 if seen % 3 == 0 and math.isqrt(seen // 3) ** 2 == seen // 3 else given


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel and torch.compile wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


@torch.inference_mode(False)
def load_auxiliary(model: str | nn.Module | None = None, checkpoint: str | os.PathLike | None = None) -> Auxiliary:
    """Load a model and freeze it.

    Args:
        model: a timm model name with pretrained weights (also `local-dir:PATH` or `hf-hub:ID`), or with `checkpoint`
            the name of its architecture, or a module, which is copied. Default: the architecture that the checkpoint
            names.
        checkpoint: weights of `model` in a file: .safetensors, or what torch.save wrote, timm's train.py's checkpoints
            included (the averaged weights where there are any). Nothing but weights is ever unpickled.

    Returns:
        The frozen model. Torch's random state is left as found.

    Raises:
        RuntimeError: the pretrained weights cannot be loaded.
        ValueError: there is no such model, or the checkpoint does not fit it.
    """
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ValueError("`checkpoint` must be None where `model` is a module, got both; load it into the module")
        if isinstance(unwrap(model), torch.jit.ScriptModule):
            raise TypeError(
                "`model` must not be a ScriptModule, which can't be copied and frozen; give the module itself"
            )
        module, origin = copy.deepcopy(unwrap(model)), f"the given {type(unwrap(model)).__name__}"
        return _freeze(module, origin, own=True)
    if model is not None and not isinstance(model, str):
        raise TypeError(f"`model` must be a timm model name or a module, got {type(model).__name__}")
    with torch.random.fork_rng(devices=[]):
        if checkpoint is not None:
            return _from_checkpoint(model, checkpoint)
        if model is None:
            raise ValueError(
                "`model` or `checkpoint` must be given for saliency through a classifier, got neither; name a timm "
                "model, or use 'network'"
            )
        return _from_pretrained(model)


def _freeze(module: nn.Module, origin: str, mean=None, std=None, size=None, own: bool = False) -> Auxiliary:
    module.float().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.grad = None
    pretrained: Any = getattr(module, "pretrained_cfg", None)
    if pretrained:
        config = resolve_model_data_config(module)
        mean, std = mean or config["mean"], std or config["std"]
        built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
        if built_for or pretrained.get("fixed_input_size"):
            size = built_for or config["input_size"][1:]
    return Auxiliary(module, mean and tuple(mean), std and tuple(std), size, origin, own)


def _create(name: str, **kwargs) -> nn.Module:
    try:
        return create_model(name, **kwargs)
    except Exception as error:
        raise ValueError(f"cannot create the saliency model {name!r}: {first_line(error)}") from error


def _from_pretrained(name: str) -> Auxiliary:
    overlay: dict[str, Any] | None = None
    if name.startswith("local-dir:"):
        if not os.path.isdir(name.removeprefix("local-dir:")):
            raise ValueError(f"`model` must name an existing folder after local-dir:, got {name!r}")
    elif ":" in name:
        if not _cached(name.partition(":")[2], "config.json"):
            _require_network(name)
    else:
        if not is_model_pretrained(name):
            raise ValueError(
                f"`model` must name a timm model with pretrained weights, got {name!r}; "
                f"timm.list_pretrained() lists them, or give its weights as `checkpoint`"
            )
        config = get_pretrained_cfg(name)
        names = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        cached = [path for path in (_cached(config.hf_hub_id, filename) for filename in names) if path]
        if cached:
            overlay = {"file": cached[0]}
        elif config.hf_hub_id:
            _require_network(name)
    builder = logging.getLogger("timm.models._builder")
    level = builder.level
    try:
        builder.setLevel(logging.WARNING)  # its "Loading pretrained weights" would read as if of the model in training
        module = create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise RuntimeError(
            f"cannot load the weights of the saliency model {name!r} ({first_line(error)}); {_WITHOUT_HUB}"
        ) from error
    finally:
        builder.setLevel(level)
    # Half the size costs a quarter.
    size = tuple(side // 2 for side in resolve_model_data_config(module)["input_size"][1:])
    return _freeze(module.to(memory_format=torch.channels_last), f"{name}, pretrained", size=size)


def _cached(repository: str | None, filename: str) -> str | None:
    path = repository and try_to_load_from_cache(repository.partition("@")[0], filename)
    return path if isinstance(path, str) else None


def _require_network(name: str) -> None:
    """Raise within seconds where the hub can't be reached; its own client would retry for most of a minute."""
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:
        raise RuntimeError(
            f"cannot load the weights of the saliency model {name!r}: not in the cache, and {constants.ENDPOINT} is "
            f"unreachable ({first_line(error)}); {_WITHOUT_HUB}"
        ) from None


def _from_checkpoint(name: str | None, path: str | os.PathLike) -> Auxiliary:
    path = os.fspath(path)
    weights, arch, settings = _read_checkpoint(path)
    name = name or arch
    if name is None:
        raise ValueError(f"`model` must name the architecture of {path!r}, which does not say it itself; got None")
    kwargs = dict(settings.get("model_kwargs") or {})
    config = get_pretrained_cfg(name) if is_model(name) else None
    head = getattr(config, "classifier", None) or "head"
    head = f"{head if isinstance(head, str) else head[0]}.weight"
    if settings.get("num_classes") or head in weights:
        kwargs["num_classes"] = settings.get("num_classes") or weights[head].shape[0]
    if settings.get("gp"):
        kwargs["global_pool"] = settings["gp"]
    module = _create(name, **kwargs)
    expected = module.state_dict()
    first = f"{getattr(config, 'first_conv', None)}.weight"
    if first in expected and first in weights and (seen := weights[first].shape[1]) != expected[first].shape[1]:
        module = _create(name, **kwargs | {"in_chans": 3 * seen // expected[first].shape[1]})
        expected = module.state_dict()
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    reshaped = sorted(key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape)
    if missing or unknown or reshaped:
        way = f"; drop `model`, the file is of {arch!r}" if arch and arch != name else ""
        shape = f" ({reshaped[0]})" if reshaped else ""
        raise ValueError(
            f"`checkpoint` must hold weights of {name!r}, got {path!r} with {len(missing)} "
            f"entries missing, {len(unknown)} unknown and {len(reshaped)}{shape} of another shape{way}"
        )
    module.load_state_dict(weights)
    module = module.to(memory_format=torch.channels_last)
    return _freeze(module, f"{name}, weights of {path}", settings.get("mean"), settings.get("std"), own=True)


def check_file(path: str | os.PathLike) -> None:
    """Raise ValueError where there is no checkpoint of this name."""
    if not os.path.isfile(path):
        raise ValueError(
            f"`checkpoint` must be an existing file, got {os.fspath(path)!r}; give a .safetensors, .pth or .pth.tar"
        )


def _read_checkpoint(path: str) -> tuple[dict[str, torch.Tensor], str | None, dict]:
    """Return the weights, the architecture's name if the file has it, and the training settings if it has them."""
    check_file(path)
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

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
    settings = content.get("args")
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else {}
    keys = ("state_dict_ema", "model_ema", "state_dict", "model")
    weights = next((content[key] for key in keys if content.get(key)), content)
    weights = clean_state_dict(weights) if isinstance(weights, dict) else {}
    if not weights or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"`checkpoint` must hold a state_dict, got {path!r} with {sorted(map(str, content))[:5]}")
    return weights, content.get("arch"), settings
