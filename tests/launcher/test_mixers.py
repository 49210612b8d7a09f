"""The other methods by --mixer, in scripts/train.py."""

import pytest
import torch
from launcher.tools import mixed_rows

from sage_timm.methods import METHODS

ROUGH = {"puzzlemix": ["--mixer-kwargs", "beta=0", "eta=0"], "comixup": ["--mixer-kwargs", "beta=0", "eta=0"]}


@pytest.mark.parametrize("mixer", [name for name in METHODS if name != "sage"])
def test_every_mixer_mixes(mixer, train, losses):
    saliency = ["--saliency", "spectral"] if METHODS[mixer].uses_saliency else []
    err = train("--mixup", "1.0", "--mixer", mixer, *ROUGH.get(mixer, []), *saliency)
    assert len(losses) == 3 and all(torch.allclose(t.sum(1), torch.ones(8)) for t in losses)
    assert sum(mixed_rows(target) for target in losses) > 4
    assert f"sage_timm: {METHODS[mixer].__name__}(" in err and "normalised with mean (0.5, 0.5, 0.5)" in err
    assert "beta" not in err or "beta=0" in err, "settings reach the method"


@pytest.mark.parametrize("mixer", [["--sage"], ["--mixer", "cutmix"]])
def test_labels_by_saliency(mixer, train, losses):
    runs = []
    for flags in ([], ["--mixer-label-weight", "saliency"]):
        losses.clear()
        err = train("--mixup", "1.0", *mixer, "--saliency", "spectral", *flags)
        assert ("labels by saliency" in err) == bool(flags)
        assert ("--saliency has no effect" in err) == (not flags and "cutmix" in mixer)
        runs.append(torch.cat(losses))
    assert not torch.allclose(*runs, atol=0.01)
