"""A session without a script: its mixer, its saliency source, what it says and draws."""

import numpy as np
import pytest
import torch

from sage_timm.launcher import session as module
from sage_timm.launcher.session import SelfSaliency, Session, SessionMixup
from sage_timm.launcher.settings import Settings
from sage_timm.methods import SAGE, Mixup, PuzzleMix
from sage_timm.visualize import draw_mixed


def batch(size=8):
    return 2 * torch.rand(size, 3, 24, 24) - 1, torch.arange(size) % 3


def test_its_mixer_mixes_and_says_so_once(capsys):
    session = Session(Settings(SAGE(0.5), saliency="spectral", notes=("take note",)))
    mixup = SessionMixup(session, mixup_alpha=0.7, num_classes=3)
    images, _ = mixup(*batch())
    mixup(*batch())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "sage_timm: take note" and said[1] == f"sage_timm: {mixup!r}"
    assert said[1].startswith("sage_timm: SAGE(lam_max=0.5, search_fraction=1.0), alpha 0.7, with probability 1")
    assert said[2:] == ["sage_timm: first batch 8 x 3 x 24 x 24, torch.float32 on cpu"]
    assert images.shape == (8, 3, 24, 24) and session.mixup is mixup
    assert session.monitor.batches == session.monitor.mixed == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_statistics_reach_the_source_whenever_they_come(when, capsys):
    session = Session(Settings(SAGE(), saliency="spectral"))
    if when == "before":
        session.note_statistics((0.1, 0.2, 0.3), [0.4, 0.5, 0.6])
    mixup = SessionMixup(session, num_classes=3)
    if when == "after":
        session.note_statistics((0.1, 0.2, 0.3), [0.4, 0.5, 0.6])
    assert mixup.saliency.mean == (0.1, 0.2, 0.3) and mixup.saliency.std == (0.4, 0.5, 0.6)
    mixup(*batch())
    assert "normalised with mean (0.1, 0.2, 0.3), std (0.4, 0.5, 0.6)" in capsys.readouterr().err


def test_one_number_serves_as_statistics():
    session = Session(Settings(SAGE(), saliency="spectral"))
    session.note_statistics(0.5, 0.25)
    assert session.statistics == ((0.5,), (0.25,))


def test_unknown_statistics_are_said_to_be_assumed(checkpoint, capsys):
    mixup = SessionMixup(Session(Settings(SAGE(), source={"checkpoint": checkpoint})), num_classes=3)
    mixup(*batch())
    assert "on cpu, assumed to be normalised as for the saliency model" in capsys.readouterr().err


def test_pictures_of_another_run_stay(tmp_path):
    for _ in range(3):
        session = Session(Settings(SAGE(), saliency="spectral", save_mixed=1, folder=tmp_path / "mixed"))
        mixup = SessionMixup(session, num_classes=3)
        mixup(*batch())
        mixup(*batch())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixed", "mixed-2", "mixed-3"]
    assert all(len(list(folder.iterdir())) == 1 for folder in tmp_path.iterdir())


def test_the_std_reaches_puzzlemix(monkeypatch):
    seen, make = [], PuzzleMix.__call__
    monkeypatch.setattr(PuzzleMix, "__call__", lambda self, batch: seen.append(batch.std) or make(self, batch))
    session = Session(Settings(PuzzleMix(beta=0, eta=0), saliency="spectral"))
    session.note_statistics((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    SessionMixup(session, num_classes=3)(*batch())
    assert seen == [(0.2, 0.3, 0.4)]


def test_the_source_is_created_once():
    session = Session(Settings(SAGE(), saliency="spectral"))
    assert SessionMixup(session, num_classes=3).saliency is SessionMixup(session, num_classes=3).saliency


def test_a_method_without_saliency_needs_no_source(monkeypatch):
    monkeypatch.setattr(module, "create_saliency", lambda *_, **__: pytest.fail("no source is needed"))
    mixup = SessionMixup(Session(Settings(Mixup())), num_classes=3)
    assert mixup.saliency is None and len(mixup(*batch())[1]) == 8


@pytest.mark.parametrize(
    ("timms", "message"),
    [
        ({"prob": 0.0}, "the mixing probability must be > 0 with --sage, got 0; set --mixup-prob"),
        ({"cutmix_alpha": 1.0, "switch_prob": 1}, "the switch probability must be < 1 with --sage, got 1"),
        ({"mixup_alpha": -1}, "`mixup_alpha` must lie in"),
    ],
)
def test_what_leaves_the_method_nothing_is_an_error(timms, message):
    with pytest.raises(ValueError, match=message):
        SessionMixup(Session(Settings(SAGE(), saliency="spectral")), num_classes=3, **timms)


def test_self_saliency_follows_the_first_model_in_training_mode(tiny_model, capsys):
    session = Session(Settings(SAGE(), saliency="self", source={"size": 16, "grid": 4, "floor": 0.5}))
    mixup = SessionMixup(session, num_classes=5)
    teacher, trained = torch.nn.Linear(2, 2).eval(), tiny_model.train()
    session.models += [teacher, trained]
    images, labels = batch()
    mixup(images, labels)
    assert "gradient of the model in training, at 16 x 16 px" in repr(mixup)
    assert "the saliency follows a ResNet of" in capsys.readouterr().err
    inner = session.source.source
    assert inner.auxiliary.model is trained
    assert (inner.size, inner.grid, inner.floor) == ((16, 16), 4, 0.5)
    assert torch.equal(session.source(images, None), inner(images, None))


def test_self_saliency_holds_the_runs_statistics():
    session = Session(Settings(PuzzleMix(), saliency="self"))
    session.note_statistics((0.1,), (0.2,))
    source = session.saliency()
    session.note_statistics((0.3,), (0.4,))
    assert (source.mean, source.std) == ((0.3,), (0.4,))
    assert "at the images' own size" in repr(source)


def test_self_saliency_without_a_model_says_so():
    with pytest.raises(RuntimeError, match="needs a model in training mode of timm's create_model, found none"):
        SelfSaliency([torch.nn.Linear(2, 2).eval()])(batch()[0])


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_mixed_batches_are_saved_as_pictures(count, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("sage_timm.launcher.monitor.draw_mixed", lambda *a, **k: drawn.append(a) or draw_mixed(*a, **k))
    session = Session(Settings(Mixup(), save_mixed=count, folder=tmp_path / "mixed"))
    session.note_statistics((0.5, 0.4, 0.3), (0.5, 0.4, 0.3))
    mixup = SessionMixup(session, num_classes=3)
    images, labels = batch()
    for _ in range(3):
        mixup((images - 0.5) / 0.5, labels)
    names = [f"mixed-{i:03d}.png" for i in range(1, count + 1)]
    assert sorted(path.name for path in (tmp_path / "mixed").iterdir()) == names
    assert f"{tmp_path}/mixed/mixed-001.png: 8 of 8 images of a mixed batch, under each" in capsys.readouterr().err
    pixels, plan, labels, most = drawn[0]
    assert most == 32
    assert len(drawn) == count and set(labels) <= {"class 0", "class 1", "class 2"} and len(plan.lam) == 8
    assert torch.allclose(pixels[:, 0], images[:, 0], atol=1e-6), "drawn as they are, not normalised"


def test_pictures_say_what_mixed_each_image(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("sage_timm.launcher.monitor.draw_mixed", lambda *a, **k: drawn.append(k) or draw_mixed(*a, **k))
    session = Session(Settings(SAGE(), saliency="spectral", share=0.5, save_mixed=1, folder=tmp_path))
    mixup = SessionMixup(session, mode="elem", cutmix_alpha=1.0, prob=0.7, num_classes=3)
    np.random.seed(0)
    mixup(*batch(64))
    (mixers,) = (call["mixers"] for call in drawn)
    for name, mixes in (
        ("SAGE", mixup.drawn.by_method),
        ("CutMix", mixup.drawn.by_cutmix),
        ("Mixup", mixup.drawn.by_mixup),
    ):
        assert mixes.any() and [mixer == name for mixer in mixers] == mixes.tolist()
    assert "not mixed" in mixers


def test_a_folder_that_cannot_be_written_stops_the_pictures_alone(tmp_path, capsys):
    (tmp_path / "mixed").write_text("a file where the folder should be")
    session = Session(Settings(Mixup(), save_mixed=2, folder=tmp_path / "mixed"))
    mixup = SessionMixup(session, num_classes=3)
    assert all(len(mixup(*batch())[0]) == 8 for _ in range(3))
    assert capsys.readouterr().err.count("the training goes on without pictures") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_of_a_node_gets_the_weights_first(rank, monkeypatch):
    events = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("barrier"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(module, "create_saliency", lambda *_, **__: events.append("load") or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Session(Settings(SAGE())).saliency()
    assert events == (["load", "barrier"] if rank == 0 else ["barrier", "load"])
