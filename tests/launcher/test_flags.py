"""The launcher's flags, in help, a script's YAML and its args.yaml; those that are misspelt or do nothing."""

import argparse

import pytest
import torch
import yaml
from launcher.tools import SAGE

from sage_timm.launcher.flags import OPTIONS, add_flags, as_words
from sage_timm.saliency import create_saliency

parser = argparse.ArgumentParser(add_help=False)
add_flags(parser)


def test_flags_as_words_are_parsed_to_the_same():
    words = ["--sage", "--mixer-kwargs", "lam_max=0.5", "x='a b'", "--saliency-size", "32"]
    words += ["--saliency-mean", "0.1", "0.2", "--saliency-use-labels", "no"]
    given = vars(parser.parse_args(words))
    assert [*as_words(given)] == words and vars(parser.parse_args([*as_words(given)])) == given


@pytest.mark.parametrize(
    ("command", "argv", "code"), [("train", ["--help"], 0), ("run", ["--help"], 0), ("run", [], 2)]
)
def test_flags_stand_in_help(command, argv, code, request, capsys):
    with pytest.raises(SystemExit) as caught:
        request.getfixturevalue(command)(*argv)
    text = capsys.readouterr().out
    assert caught.value.code == code and all(flag in text for flag in OPTIONS)
    assert ("--mixup-prob" in text) == (command == "train"), "after them the script's own"


@pytest.mark.parametrize("argv", [("no_such_script.py", "--sage"), ("--sage", "train.py")])
def test_a_missing_script_is_refused(argv, run, refusal):
    assert f"SCRIPT must be an existing file, before all flags, got '{argv[0]}'; see" in refusal(run, *argv)


def test_yaml_and_args_yaml_rerun(train, losses, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: spectral\nmixup: 0.7\nsaliency_size: 40\n")
    flags = ["--mixer-kwargs", "lam_max=0.9", "--saliency-size", "32"]
    err = train("-c", tmp_path / "recipe.yaml", *flags)
    assert "SAGE(lam_max=0.9), alpha 0.7" in err and "at 32 px" in err and len(losses) == 3
    saved = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    expected = {"sage": True, "saliency": "spectral", "saliency_size": 32, "mixup": 0.7}
    expected["mixer_kwargs"] = {"lam_max": 0.9}
    assert {key: saved[key] for key in expected} == expected
    first = list(losses)
    losses.clear()
    train("-c", tmp_path / "run" / "args.yaml")
    assert len(losses) == 3 and all(torch.equal(a, b) for a, b in zip(first, losses, strict=True))


@pytest.mark.parametrize("key", ["salience: spectral", "saliency-size: 16", "sage_lam: 0.5"])
def test_a_mistyped_key_in_the_yaml_is_refused(key, train, tmp_path, refusal):
    (tmp_path / "recipe.yaml").write_text(f"sage: true\nsaliency: spectral\nmixup: 1.0\n{key}\n")
    line = refusal(train, "-c", tmp_path / "recipe.yaml")
    assert f"the key {key.split(':')[0]!r} of the config file is none of sage, mixer, mixer_kwargs" in line


def test_the_alpha_that_is_used_stands_in_args_yaml(train, losses, tmp_path):
    err = train("--sage", "--saliency", "spectral")
    assert "--mixup was 0, so sage would never mix; using --mixup 1.0" in err and len(losses) == 3
    assert yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["mixup"] == 1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup-prob", "0"], "--mixup-prob must be > 0 with --sage, got 0"),
        (["--cutmix", "1.0", "--mixup-switch-prob", "1"], "--mixup-switch-prob must be < 1 with --sage, got 1"),
        (["--saliency", "self"], "invalid choice: 'self'"),
        (["--mixer-kwargs", "lam_max"], "--mixer-kwargs must be NAME=VALUE ..., got lam_max"),
        (["--saliency-modle", "resnet18"], "unknown flag --saliency-modle; did you mean --saliency-model?"),
        (["--saliency_size=32"], "unknown flag --saliency_size=32; did you mean --saliency-size?"),
    ],
)
def test_refusals_are_one_line_that_names_the_flag(flags, message, train, refusal):
    assert message in refusal(train, *SAGE, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--saliency-size", "2"], "--saliency-size must be at least 16, got 2"),
        (["--saliency-model", "resnet18", "--saliency-size", "0"], "--saliency-size must be at least 1, got 0"),
        (["--saliency-checkpoint", "no.pth"], "--saliency-checkpoint must be an existing file, got 'no.pth'"),
        (["--saliency", "gradient"], "--saliency-model or --saliency-checkpoint must be given"),
        (["--saliency-blur", "2"], "--saliency-blur must lie in [0, 1], got 2.0"),
        (["--saliency-mean", "0.5"], "--saliency-mean and --saliency-std must be given together"),
        (
            ["--saliency-model", "resnet18", "--saliency-mean", "124", "--saliency-std", "58"],
            "--saliency-mean must hold numbers in [0, 1], as of images in [0, 1], got",
        ),
        (["--saliency-use-labels", "yes"], "--saliency-use-labels must not be given for 'network' saliency"),
    ],
)
def test_a_saliency_that_cannot_be_is_refused_before_the_script_starts(flags, message, run, tmp_path, refusal):
    (tmp_path / "script.py").write_text("raise KeyError('started')")
    assert message in refusal(run, tmp_path / "script.py", "--sage", *flags)


def test_flags_that_the_script_has_itself_are_refused_in_one_line(run, tmp_path, refusal):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--mixup')\np.add_argument('--saliency')\n"
    (tmp_path / "script.py").write_text(text + "p.parse_args()\n")
    line = refusal(run, tmp_path / "script.py", "--sage", "--saliency", "spectral")
    assert "the script has a flag --saliency of its own" in line


SCRIPT = """
import argparse, sys, torch
from timm.data import Mixup
{parses}
mixup, model = Mixup(num_classes=3), torch.nn.Linear(192, 3)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(2):
    images, target = mixup(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    model(images.flatten(1)).sum().backward()
    optimizer.step()
    print("TRAINED")
"""
ADD = "parser = argparse.ArgumentParser(); parser.add_argument('--stage'); parser.add_argument('--sagemaker-dir')"
PARSERS = {
    "none": "",
    "known": f"{ADD}; parser.parse_known_args()",
    "strict": f"{ADD}; parser.parse_args()",
    "switch": f"{ADD}; parser.add_argument('--mixup', action='store_true'); parser.parse_args()",
    "text": f"{ADD}; parser.add_argument('--mixup', default='0.8'); parser.parse_args()",
}


@pytest.fixture(params=PARSERS)
def script(request, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(parses=PARSERS[request.param]))
    return tmp_path / "script.py"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sagee"], "--sagee"),
        (["--sage", "--saliency-modle", "resnet18"], "--saliency-modle"),
        (["--saliency", "spectral"], "--saliency must stand beside --sage or --mixer"),
    ],
)
def test_flags_that_do_nothing_end_before_training_whatever_parses_them(flags, message, script, run, capsys):
    with pytest.raises(SystemExit) as caught:
        run(script, *flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and "TRAINED" not in out and message in err.splitlines()[-1]


def test_it_mixes_whatever_parses_its_flags(script, run):
    err = run(script, "--stage", "2", "--sage", "--saliency", "spectral")
    assert err.splitlines()[-1] == "sage_timm: 2 of 2 batches were mixed, 2 of them by --sage"


def test_without_a_mixer_the_script_runs_as_it_is_and_that_is_said(script, run):
    assert run(script, "--stage", "2").splitlines() == [
        "sage_timm: neither --sage nor --mixer was given: the script runs as it is"
    ]


@pytest.mark.filterwarnings("default")
def test_warnings_are_in_words_of_the_launcher(run, tmp_path, monkeypatch):
    """Images on a scale of 255 are none that a saliency model's statistics fit."""
    source = create_saliency("gradient", model=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)))
    monkeypatch.setattr("sage_timm.launcher.session.create_saliency", lambda **_: source)
    (tmp_path / "script.py").write_text(SCRIPT.format(parses="").replace("torch.rand(", "255 * torch.rand("))
    flags = ["--saliency-mean", "0.4", "--saliency-std", "0.2"]
    (line,) = [line for line in run(tmp_path / "script.py", "--sage", *flags).splitlines() if "warning" in line]
    assert line.startswith("sage_timm: warning: images must be in [0, 1], then normalised by mean (0.4,)")
    assert line.endswith("scale them, or give the launcher their own --saliency-mean and --saliency-std")
