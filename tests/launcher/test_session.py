"""A session without a script: its mixer, its saliency source, what it says and draws."""

import pytest
import torch

from sage_timm.launcher import session as module
from sage_timm.launcher.session import Session, SessionMixup
from sage_timm.launcher.settings import Settings
from sage_timm.methods import SAGE, Mixup, PuzzleMix
from sage_timm.visualize import draw_mixed

SPECTRAL = {"name": "spectral"}


def batch(size=8):
    return 2 * torch.rand(size, 3, 24, 24) - 1, torch.arange(size) % 3


def test_its_mixer_mixes_and_says_so_once(capsys):
    session = Session(Settings(SAGE(0.5), source=SPECTRAL, notes=("take note",)))
    mixup = SessionMixup(session, mixup_alpha=0.7, num_classes=3)
    for _ in range(2):
        assert mixup(*batch())[0].shape == (8, 3, 24, 24)
    first = "sage_timm: first batch 8 x 3 x 24 x 24, torch.float32 on cpu"
    assert capsys.readouterr().err.splitlines() == ["sage_timm: take note", f"sage_timm: {mixup!r}", first]
    assert repr(mixup).startswith("SAGE(lam_max=0.5), alpha 0.7, with probability 1")
    assert session.built and session.monitor.mixed() == 2


def test_it_mixes_in_place_as_timm_where_the_tensor_allows_it():
    mixup = SessionMixup(Session(Settings(SAGE(), source=SPECTRAL)), num_classes=3)
    images, labels = batch()
    before = images.clone()
    mixed, _ = mixup(images, labels)
    assert mixed is images and not torch.equal(images, before)
    for x in (batch(1)[0].expand(8, -1, -1, -1), batch()[0].requires_grad_() * 1):
        before = x.clone()
        assert mixup(x, labels)[0].shape == x.shape and torch.equal(x, before)


ONE, TWO, FLAGS = (((mean,) * 3, (0.5,) * 3) for mean in (0.1, 0.2, 0.3))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("by_flags", "noted", "used", "doubted"),
    [
        (None, ["transform on another scale", "transform"], ONE, False),
        (None, ["transform", "transform of others"], ONE, True),
        (None, ["transform on another scale", "transform", "loader"], TWO, False),
        (FLAGS, ["loader", "transform"], FLAGS, False),
    ],
)
def test_statistics_are_the_flags_else_the_loaders_else_the_first_transforms(
    by_flags, noted, used, doubted, when, capsys
):
    session = Session(Settings(SAGE(), source=SPECTRAL, statistics=by_flags))
    notes = {
        "transform": lambda: session.note_statistics(list(ONE[0]), torch.tensor(ONE[1])),
        "transform on another scale": lambda: session.note_statistics((103.5, 116.3, 123.7), (57.4, 57.1, 58.4)),
        "transform of others": lambda: session.note_statistics(0.7, 0.7),
        "loader": lambda: session.note_statistics(torch.tensor(TWO[0]), torch.tensor(TWO[1]).view(1, 3, 1, 1), True),
    }
    mixup = SessionMixup(session, num_classes=3) if when == "after" else None
    for name in noted:
        notes[name]()
    mixup = mixup or SessionMixup(session, num_classes=3)
    assert (mixup.saliency.mean, mixup.saliency.std) == used
    mixup(*batch())
    err = capsys.readouterr().err
    assert f"normalised with mean {used[0]}, std {used[1]}" in err
    assert ("Normalize was given others, too: --saliency-mean and --saliency-std decide" in err) == doubted


def test_pictures_of_another_run_stay(tmp_path):
    mixed, found = tmp_path / "mixed", {}
    for _ in range(2):
        SessionMixup(Session(Settings(SAGE(), source=SPECTRAL, save_mixed=1, folder=mixed)), num_classes=3)(*batch(2))
        assert all(path.read_bytes() == found[path] for path in found)
        found = {path: path.read_bytes() for path in mixed.iterdir()}
    assert sorted(path.name for path in found) == ["mixed-001.png", "mixed-002.png"]


def test_the_std_reaches_puzzlemix(monkeypatch):
    seen, make = [], PuzzleMix.__call__
    monkeypatch.setattr(PuzzleMix, "__call__", lambda self, batch: seen.append(batch.std) or make(self, batch))
    session = Session(Settings(PuzzleMix(beta=0, eta=0), source=SPECTRAL))
    session.note_statistics((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    SessionMixup(session, num_classes=3)(*batch())
    assert seen == [(0.2, 0.3, 0.4)]


def test_a_method_without_saliency_needs_no_source(monkeypatch):
    monkeypatch.setattr(module, "create_saliency", lambda *_, **__: pytest.fail("no source is needed"))
    mixup = SessionMixup(Session(Settings(Mixup(), source=None)), num_classes=3)
    assert mixup.saliency is None and len(mixup(*batch())[1]) == 8


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the pictures that sessions draw."""
    calls = []
    monkeypatch.setattr("sage_timm.launcher.session.draw_mixed", lambda *a: calls.append(a) or draw_mixed(*a))
    return calls


def test_the_first_mixed_batches_are_saved_as_pictures(tmp_path, drawn, capsys):
    session = Session(Settings(Mixup(), source=None, save_mixed=2, folder=tmp_path / "mixed"))
    session.note_statistics((0.5, 0.4, 0.3), (0.5, 0.4, 0.3))
    mixup = SessionMixup(session, num_classes=3)
    images, labels = batch()
    for _ in range(3):
        mixup((images - 0.5) / 0.5, labels)
    names = sorted(path.name for path in (tmp_path / "mixed").iterdir())
    assert names == ["mixed-001.png", "mixed-002.png"]
    assert f"{tmp_path}/mixed/mixed-001.png: 8 of 8 images of a mixed batch, under each" in capsys.readouterr().err
    pixels, plan, labels, most, _ = drawn[0]
    assert len(drawn) == 2 and most == 32 and set(labels) <= {"class 0", "class 1", "class 2"} and len(plan.lam) == 8
    assert torch.allclose(pixels[:, 0], images[:, 0], atol=1e-6), "drawn as they are, not normalised"


def test_pictures_say_what_mixed_each_image(tmp_path, drawn):
    session = Session(Settings(SAGE(), source=SPECTRAL, save_mixed=1, folder=tmp_path))
    SessionMixup(session, mode="elem", cutmix_alpha=1.0, prob=0.7, num_classes=3)(*batch(32))
    ((_, plan, _, _, mixers),) = drawn
    for mixer, mask, lam in zip(mixers, plan.mask[:, 0], plan.lam[:, 0].tolist(), strict=True):
        blended = ((mask > 0) & (mask < 1)).any()
        assert mixer == ("not mixed" if lam == 1 else "SAGE" if blended else "CutMix")
    assert set(mixers) == {"SAGE", "CutMix", "not mixed"}


def test_a_folder_that_cannot_be_written_stops_the_pictures_alone(tmp_path, capsys):
    (tmp_path / "mixed").write_text("a file where the folder should be")
    session = Session(Settings(Mixup(), source=None, save_mixed=2, folder=tmp_path / "mixed"))
    mixup = SessionMixup(session, num_classes=3)
    assert all(len(mixup(*batch())[0]) == 8 for _ in range(3))
    assert capsys.readouterr().err.count("the training goes on without pictures") == 1
