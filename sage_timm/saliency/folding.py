"""Fewer operations in a frozen model: its batch norms, folded into its convolutions."""

import copy

import torch
from timm.layers import BatchNormAct2d
from torch import nn

NORMS = nn.BatchNorm2d, BatchNormAct2d


@torch.no_grad()
def fold_batch_norms(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Fold each batch norm of a frozen model into the convolution before it.

    With y = (conv(x) - mean) / sqrt(var + eps) * weight + bias, the factor goes into the filters and the rest into the
    convolution's bias. What is called one after the other is seen by running the model.

    Args:
        model: in eval mode; not changed.
        size: (h, w) of the images to run it with.

    Returns:
        A copy with the same outputs up to rounding; the model itself where nothing can be folded or they would differ.
    """
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or not any(type(module) in NORMS for module in model.modules()):
        return model
    pixels = torch.linspace(-1, 1, first.in_channels * size[0] * size[1], dtype=torch.float32)
    pixels = pixels.view(1, first.in_channels, *size)
    folded = copy.deepcopy(model)
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    calls: list[nn.Module] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module, inputs, output):
        calls.append(module)
        made[id(output)] = module, output

    def before_norm(module, inputs):
        calls.append(module)
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = []
    for module in folded.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif type(module) in NORMS and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        expected = model(pixels)
    except (RuntimeError, AssertionError):  # the first convolution sees other channels than the model
        return model
    folded(pixels)
    for hook in hooks:
        hook.remove()

    pairs = [(conv, norm) for conv, norm in pairs if calls.count(conv) == calls.count(norm) == 1]
    rest = {}
    for conv, norm in pairs:
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        factor = (variance + norm.eps).rsqrt()
        factor = factor if norm.weight is None else factor * norm.weight
        shift = (-mean if conv.bias is None else conv.bias - mean) * factor
        shift = shift if norm.bias is None else shift + norm.bias
        conv.weight.mul_(factor[:, None, None, None])
        conv.bias = nn.Parameter(shift, requires_grad=False)
        rest[norm] = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if child in rest:
                setattr(parent, name, rest[child])
    got = folded.eval()(pixels)
    same = isinstance(got, torch.Tensor) and torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
    return folded if pairs and same else model
