"""SaliencyMix: where the box is."""

import torch
from batches import make_batch

from sage_timm.methods import create_method
from sage_timm.methods.saliencymix import peak


def test_saliencymix_box_lies_around_the_one_bright_pixel_of_the_partner():
    saliency = torch.zeros(2, 1, 12, 18)
    saliency[0, 0, 4, 11], saliency[1, 0, 10, 2] = 1.0, 2.0
    plan = create_method("saliencymix")(make_batch(2, saliency=saliency, lam=0.75))
    first, second = (1 - plan.mask[:, 0]).nonzero().split([5 * 7, 6 * 9])
    assert first[:, 0].unique().tolist() == [0] and second[:, 0].unique().tolist() == [1]
    assert (first[:, 1].min(), first[:, 1].max(), first[:, 2].min(), first[:, 2].max()) == (7, 11, 0, 6)
    assert (second[:, 1].min(), second[:, 1].max(), second[:, 2].min(), second[:, 2].max()) == (1, 6, 7, 15)


def test_peak_of_coarse_and_flat_maps():
    maps = torch.zeros(3, 1, 3, 4)
    maps[0, 0, 2, 0], maps[1, 0, 0, 3] = 1.0, 1.0
    assert peak(maps, (30, 80)).tolist() == [[25, 10], [5, 70], [15, 30]]
