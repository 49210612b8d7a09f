"""Frozen models without batch norms compute what they computed before."""

import pytest
import timm
import torch
from torch import nn

from sage_timm.saliency.folding import NORMS, fold_batch_norms


def norms(model):
    return sum(type(module) in NORMS for module in model.modules())


def trained(model):
    """Give batch norms statistics and parameters as of a trained model, and freeze it."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2)):
                values.uniform_(low, high)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_100", "resnet18"])
def test_every_norm_goes_and_the_output_stays(name):
    model, images = trained(timm.create_model(name)), torch.randn(2, 3, 64, 64)
    folded = fold_batch_norms(model, (64, 64))
    assert norms(model) > 0 and norms(folded) == 0
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    expected = model(images)
    assert (folded(images) - expected).abs().max() < 1e-4 * expected.abs().max()


class Shared(nn.Module):
    """One convolution before two norms; a norm after a sum; one that is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.plain, self.bare = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.second(self.first(self.conv(x)) + x)
        x = self.first(self.conv(x))
        return self.bare(self.plain(x)).mean((2, 3))


def test_what_is_used_more_than_once_stays():
    model, images = trained(Shared()), torch.randn(2, 3, 16, 16)
    folded = fold_batch_norms(model, (16, 16))
    assert norms(folded) == 2 and isinstance(folded.bare, nn.Identity)
    assert torch.allclose(folded(images), model(images), atol=1e-5)


class Looks(nn.Module):
    """The output of a convolution goes to its norm and elsewhere."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return (self.norm(x) + x).mean((2, 3))


class Rearranges(nn.Module):
    """The first convolution sees 12 channels of an image of 3, as in models with a space-to-depth stem."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        assert x.shape[1] == 3
        return self.stem(x).mean((2, 3))


@pytest.mark.parametrize("model", [Looks(), Rearranges(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.BatchNorm2d(3)])
def test_a_model_that_would_change_or_has_nothing_to_fold_is_returned_itself(model):
    assert fold_batch_norms(trained(model), (8, 8)) is model
