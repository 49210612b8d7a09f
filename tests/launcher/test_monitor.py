"""The monitor counts batches, warns of a run that does not mix so far, and fails one that never did."""

import pytest

from sage_timm.launcher.monitor import BY_METHOD, BY_OTHERS, CUTMIX, OFF, PATIENCE, UNMIXED, Monitor


@pytest.fixture
def monitor():
    return Monitor("--sage")


def stepped(monitor, letters, steps=None):
    for letter in letters:
        monitor.batch(letter)
    for _ in range(len(letters) if steps is None else steps):
        monitor.step()
    return monitor


@pytest.mark.parametrize(
    ("letters", "steps", "built", "line"),
    [
        (BY_METHOD * 3 + BY_OTHERS * 2 + CUTMIX + UNMIXED, 7, True, "6 of 7 batches were mixed, 3 of them by --sage"),
        (BY_METHOD, 0, False, "1 of 1 batches were mixed, 1 of them by --sage"),  # by a child
        (OFF * 4, 4, True, "0 of 4 batches were mixed, 0 of them by --sage"),
        ("", 0, True, "0 of 0 batches were mixed, 0 of them by --sage: the script made no optimizer step"),
    ],
)
def test_its_last_line(letters, steps, built, line, monitor, capsys):
    stepped(monitor, letters, steps).end(built)
    assert capsys.readouterr().err.splitlines()[-1] == f"sage_timm: {line}"


@pytest.mark.parametrize(
    ("letters", "steps", "built", "line"),
    [
        (UNMIXED * 3, 3, True, "--sage was given, but none of the 3 batches was mixed; they must hold at least 2"),
        (UNMIXED + OFF * 3, 4, True, "none of the 4 batches was mixed"),
        ("", 12, True, "but 12 optimizer steps gave no batch to the mixer"),
        ("", 12, False, "but the script never built timm's Mixup nor torchvision's v2.MixUp"),
    ],
)
def test_a_run_that_never_mixed_fails_at_its_end(letters, steps, built, line, monitor, refusal):
    assert line in refusal(stepped(monitor, letters, steps).end, built)


@pytest.mark.parametrize("mixed", [True, False])
def test_ten_steps_without_a_mixed_batch_are_warned_of(mixed, monitor, capsys):
    stepped(monitor, BY_METHOD if mixed else UNMIXED, PATIENCE - 1)
    assert not capsys.readouterr().err
    for _ in range(20):
        monitor.step()
    warning = "sage_timm: warning: --sage was given, but 10 optimizer steps saw no mixed batch so far\n"
    assert capsys.readouterr().err == ("" if mixed else warning)


def test_mixing_that_is_switched_off_is_said_each_time_it_is(monitor, capsys):
    stepped(monitor, OFF * 2 + BY_METHOD + OFF * 2, 0)
    assert capsys.readouterr().err == "sage_timm: mixing is switched off from here on\n" * 2
