"""What the launcher replaces in other libraries: reached whatever the script imports, and put back."""

import pickle
from contextlib import nullcontext, suppress

import launcher.conftest as launcher_conftest
import pytest
import timm
import timm.data.loader
import timm.data.mixup
import torch
from launcher.conftest import replaced_objects
from launcher.tools import SCRIPTS
from timm.data import FastCollateMixup
from torchvision import transforms
from torchvision.transforms import v2

from sage_timm import MethodMixup, SageMix, SageMixup
from sage_timm.launcher.monitor import BY_METHOD, OFF
from sage_timm.launcher.patches import SEAMS, Joining, installed
from sage_timm.launcher.session import Session, SessionMix, SessionMixup
from sage_timm.launcher.settings import Settings
from sage_timm.methods import SAGE


@pytest.fixture
def session():
    return Session(Settings(SAGE(), source={"name": "spectral"}))


@pytest.fixture(params=["flag", "yaml"])
def flags(request, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: spectral\n")
    return ["--sage", "--saliency", "spectral"] if request.param == "flag" else ["--config", tmp_path / "recipe.yaml"]


@pytest.mark.parametrize("style", ["name", "module", "partial", "default argument"])
def test_it_does_not_matter_how_mixup_was_imported(style, flags, run):
    err = run(SCRIPTS / "imports.py", "--by", style, *flags)
    assert err.count("sage_timm: SAGE(") == 1 and "first batch 4 x 3 x 8 x 8" in err


@pytest.mark.parametrize(("style", "name"), [("subclass", "OwnMixup"), ("subclass with __init__", "OwnInit")])
def test_subclasses_of_the_script_are_refused_by_name(style, name, flags, run, refusal):
    line = refusal(run, SCRIPTS / "imports.py", "--by", style, *flags)
    assert f"--sage can't replace __main__.{name}, a subclass;" in line


def test_everything_is_put_back(session):
    before = replaced_objects()
    with suppress(KeyError), installed(session):
        assert all(new is not old for new, old in zip(replaced_objects()[0], before[0], strict=True))
        assert isinstance(v2.MixUp(num_classes=3), SessionMix)
        assert isinstance(timm.data.Mixup(num_classes=3), SessionMixup)
        raise KeyError
    assert replaced_objects() == before
    mixup = timm.data.Mixup(num_classes=3)
    assert type(mixup) is timm.data.mixup.Mixup and mixup.num_classes == 3
    assert type(FastCollateMixup(mixup_alpha=0.3)) is FastCollateMixup and type(v2.MixUp(alpha=0.3)) is v2.MixUp


def test_mixers_of_this_package_are_left_to_the_script(session):
    with installed(session):
        assert type(SageMixup(num_classes=3, saliency="spectral")) is SageMixup
        assert type(MethodMixup(SAGE(), num_classes=3, saliency="spectral")) is MethodMixup
        assert type(SageMix(num_classes=3, saliency="spectral")) is SageMix
    assert not session.built


@pytest.mark.parametrize("missing", [("timm.data.loader.NoLoader", "__iter__"), ("timm.data.loader", "no_collate")])
def test_a_timm_without_an_inner_name_is_refused_in_one_line(missing, session, monkeypatch, refusal):
    before = replaced_objects()
    monkeypatch.setattr("sage_timm.launcher.patches.SEAMS", (*SEAMS, (*missing, None)))
    line = refusal(installed(session).__enter__)
    name = (".".join(missing)).split(".")[3]
    assert f"module 'timm.data.loader' has no attribute '{name}', which sage_timm needs; use timm" in line
    monkeypatch.undo()
    assert replaced_objects() == before


class Data(torch.utils.data.Dataset):
    """16 grey images whose pixels are 10 times their index."""

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return torch.full((3, 8, 8), 10 * i, dtype=torch.uint8), i % 3


def mixed(loader):
    """Count the rows with more than one class, batch by batch."""
    return [((target > 1e-4).sum(1) > 1).sum().item() for _, target in loader]


@pytest.mark.parametrize("kind", [torch.utils.data.DataLoader, timm.data.loader.MultiEpochsDataLoader])
def test_batches_are_mixed_behind_the_prefetcher_and_its_switch_is_obeyed(kind, session):
    """A loader of several epochs starts its workers before it is prefetched."""
    with installed(session):
        collate = FastCollateMixup(mixup_alpha=1.0, label_smoothing=0, num_classes=3)
        assert collate([Data()[i] for i in range(4)])[0].dtype == torch.uint8
        statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
        inner = kind(Data(), batch_size=8, collate_fn=collate)
        loader = timm.data.loader.PrefetchLoader(inner, **statistics, device=torch.device("cpu"))
        assert isinstance(loader, timm.data.loader.PrefetchLoader) and len(loader) == 2
        assert session.statistics == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
        assert loader.mixup_enabled and sum(mixed(loader)) > 0
        loader.mixup_enabled = False
        assert not loader.mixup_enabled and not loader.loader.collate_fn.mixup.mixup_enabled and mixed(loader) == [0, 0]
        loader.mixup_enabled = True
        assert sum(mixed(loader)) > 0
    assert session.monitor.counts() == {BY_METHOD: 4, OFF: 2}


def test_loaders_without_our_collate_are_timms_own(session):
    inner = torch.utils.data.DataLoader(Data(), batch_size=8)
    with installed(session):
        loader = timm.data.loader.PrefetchLoader(inner, device=torch.device("cpu"))
        assert next(target.tolist() for _, target in loader) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert session.statistics is None and not session.monitor.counts()


@pytest.mark.parametrize("kind", [transforms.Normalize, v2.Normalize])
def test_transforms_tell_their_statistics(kind, session):
    with installed(session):
        kind((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert session.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("flags", [[], ["--saliency", "spectral"]])
def test_nothing_is_replaced_without_a_mixer(flags, run, tmp_path):
    (tmp_path / "script.py").write_text(
        "import launcher.conftest\nlauncher.conftest.seen = launcher.conftest.replaced_objects()[0]\n"
    )
    with pytest.raises(SystemExit) if flags else nullcontext():
        run(tmp_path / "script.py", *flags)
    assert launcher_conftest.seen == replaced_objects()[0]


def test_a_process_joins_the_run_and_so_do_those_that_it_starts(session):
    context = pickle.loads(pickle.dumps(Joining(pickle.loads(pickle.dumps(session)))))
    try:
        mixup = timm.data.Mixup(num_classes=3)
        assert type(mixup) is SessionMixup
        assert pickle.loads(pickle.dumps(mixup.session)).monitor.path == session.monitor.path
    finally:
        context.__exit__(None, None, None)
    assert type(timm.data.Mixup(num_classes=3)) is timm.data.Mixup
