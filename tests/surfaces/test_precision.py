"""Precision and layout against float64."""

import numpy as np
import pytest
import reference
import torch

from sage_timm import SageMixup

EPS = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float64: 2**-24}


def smooth_maps(images, target):
    return torch.nn.functional.avg_pool2d(images.float().square().mean(1, keepdim=True), 3, 1, 1)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(dtype, None) for dtype in EPS] + [(torch.float32, torch.bfloat16), (torch.float16, torch.float16)],
    ids=str,
)
def test_errors_against_float64(dtype, autocast):
    """The mixed image is right to the rounding of its own dtype, the label weight to float32's, whatever surrounds."""
    images = torch.randn(4, 3, 9, 12).to(dtype).contiguous(memory_format=torch.channels_last)
    mixup = SageMixup(mode="elem", num_classes=4, label_smoothing=0.0, saliency=smooth_maps)
    np.random.seed(0)
    lam = mixup._draw(images.shape).lam
    np.random.seed(0)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        mixed, weights = mixup(images, torch.arange(4))
    assert mixed.dtype == dtype and mixed.is_contiguous(memory_format=torch.channels_last)

    pixels = images.double().numpy()
    maps = smooth_maps(images, None)[:, 0].double().numpy()
    image_error = weight_error = 0.0
    for i in range(4):
        pair = pixels[i], pixels[3 - i], maps[i], maps[3 - i]
        expected, weight, _ = reference.sage(*pair, ratio=float(np.float32(0.6) * lam[i]))
        image_error = max(image_error, np.abs(mixed[i].double().numpy() - expected).max() / np.abs(pixels).max())
        weight_error = max(weight_error, abs(weights[i, i].item() - weight))
    print(
        f"{dtype}, autocast {autocast}: image {image_error:.1e} of the largest pixel, label weight {weight_error:.1e}"
    )
    assert image_error <= EPS[dtype] + 2e-6 and weight_error < 2e-6
