"""The monitor tells rare mixing from none."""

import pytest

from sage_timm import create_mixup
from sage_timm.launcher.monitor import PATIENCE, Monitor


@pytest.fixture
def monitor():
    return Monitor("--sage")


def mixup(**settings):
    return create_mixup("mixup", num_classes=3, **settings)


def test_always_due_and_never_mixed_fails_at_once_the_patience_is_over(monitor):
    for _ in range(PATIENCE - 1):
        monitor.batch(mixup(), 8, False)
    with pytest.raises(RuntimeError, match="none of 10 batches was mixed though --sage was given; the last had 8"):
        monitor.batch(mixup(), 8, False)


@pytest.mark.parametrize(("mixed", "said"), [(False, True), (True, False)])
def test_a_run_of_which_no_batch_was_mixed_says_so_at_its_end(mixed, said, monitor, capsys):
    monitor.end()
    assert not capsys.readouterr().err, "a run without batches, such as an evaluation, is told nothing"
    for mixes in (False, mixed, False):
        monitor.batch(mixup(prob=0.01), 8, mixes)
    monitor.end()
    line = "sage_timm: none of the 3 batches was mixed: --sage had no effect on this run"
    assert (line in capsys.readouterr().err) == said


@pytest.mark.parametrize(("prob", "batches"), [(0.001, 1000), (0.5, 29)])
def test_rare_mixing_is_not_mistaken_for_none(prob, batches, monitor):
    rare = mixup(prob=prob)
    for _ in range(batches):
        monitor.batch(rare, 8, False)
    assert monitor.chances == batches


def test_half_of_the_batches_due_and_none_mixed_fails_in_the_end(monitor):
    half = mixup(prob=0.5)
    for _ in range(29):
        monitor.batch(half, 8, False)
    with pytest.raises(RuntimeError, match="none of 30 batches"):
        monitor.batch(half, 8, False)


def test_a_batch_of_one_fails_unless_others_were_mixed(monitor):
    with pytest.raises(RuntimeError, match=r"the last had 1 image.* set a batch size of at least 2"):
        monitor.batch(mixup(), 1, False)
    later = Monitor("--sage")
    later.batch(mixup(), 8, True)
    later.batch(mixup(), 1, False)
    assert (later.batches, later.mixed) == (2, 1)


def test_one_mixed_batch_settles_it(monitor):
    monitor.batch(mixup(), 8, True)
    for _ in range(50):
        monitor.batch(mixup(), 8, False)
    assert monitor.mixed == 1


def test_mixing_that_is_switched_off_is_said_once_and_is_no_error(monitor, capsys):
    off = mixup()
    off.mixup_enabled = False
    for _ in range(20):
        monitor.batch(off, 8, False)
    assert monitor.chances == 0
    assert capsys.readouterr().err == "sage_timm: mixing is switched off from here on\n"


def test_steps_without_a_batch_fail(monitor):
    for _ in range(PATIENCE - 1):
        monitor.step()
    with pytest.raises(RuntimeError, match="--sage was given, but 10 optimizer steps gave no batch to timm's Mixup"):
        monitor.step()


def test_steps_with_a_batch_do_not(monitor):
    monitor.batch(mixup(), 8, True)
    for _ in range(30):
        monitor.step()
    assert monitor.steps == 30
