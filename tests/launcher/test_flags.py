"""The launcher's flags, in help, a script's YAML and its args.yaml; those that are misspelt or do nothing."""

import argparse

import pytest
import torch
import yaml
from launcher.tools import SAGE, SCRIPTS

from sage_timm.launcher.flags import OPTIONS, add_flags, as_words
from sage_timm.methods import METHODS
from sage_timm.saliency import SOURCES, create_saliency

parser = argparse.ArgumentParser(add_help=False)
add_flags(parser)


def test_choices_and_defaults_are_those_of_the_package():
    actions = {action.option_strings[0]: action for action in parser._actions}
    assert set(actions["--mixer"].choices) == set(METHODS)
    assert set(actions["--saliency"].choices) == set(SOURCES) - {"self"}, "self needs a model in training"


def test_flags_as_words_are_parsed_to_the_same():
    words = [
        "--sage",
        "--mixer-kwargs",
        "lam_max=0.5",
        "x='a b'",
        "--saliency-size",
        "32",
        "--saliency-mean",
        "0.1",
        "0.2",
    ]
    given = vars(parser.parse_args(words))
    assert [*as_words(given)] == words and vars(parser.parse_args([*as_words(given)])) == given


def test_flags_stand_in_help(train, capsys):
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in OPTIONS) and "--mixup-prob" in text


def test_usage(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0 and all(flag in text for flag in OPTIONS)


def test_without_a_script_the_usage_is_an_error(run):
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2


def test_a_missing_script_is_refused(run, refusal):
    assert "SCRIPT must be an existing file, before all flags, got 'no_such_script.py'" in refusal(
        run, "no_such_script.py", "--sage"
    )
    assert "SCRIPT must be an existing file, before all flags, got '--sage'; see" in refusal(run, "--sage", "train.py")


def test_yaml_and_args_yaml_rerun(train, losses, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: spectral\nmixup: 0.7\nsaliency_size: 40\n")
    err = train("-c", tmp_path / "recipe.yaml", "--mixer-kwargs", "lam_max=0.9")
    assert "SAGE(lam_max=0.9), alpha 0.7" in err and len(losses) == 3
    saved = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    expected = {"sage": True, "saliency": "spectral", "saliency_size": 40, "mixup": 0.7}
    expected["mixer_kwargs"] = {"lam_max": 0.9}
    assert {key: saved[key] for key in expected} == expected
    first = list(losses)
    losses.clear()
    err = train("-c", tmp_path / "run" / "args.yaml")
    assert "SAGE(lam_max=0.9), alpha 0.7" in err
    assert len(losses) == 3 and all(torch.equal(a, b) for a, b in zip(first, losses, strict=True))


def test_the_command_line_overrules_the_yaml(train, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: gradient\nmixup: 1.0\n")
    assert "saliency: spectral" in train("-c", tmp_path / "recipe.yaml", "--saliency", "spectral")


@pytest.mark.parametrize("key", ["salience: spectral", "saliency-size: 16", "sage_lam: 0.5"])
def test_a_mistyped_key_in_the_yaml_is_refused(key, train, tmp_path, refusal):
    (tmp_path / "recipe.yaml").write_text(f"sage: true\nsaliency: spectral\nmixup: 1.0\n{key}\n")
    line = refusal(train, "-c", tmp_path / "recipe.yaml")
    assert f"the key {key.split(':')[0]!r} of the config file is none of sage, mixer, mixer_kwargs" in line


def test_the_alpha_that_is_used_stands_in_args_yaml(train, losses, tmp_path):
    err = train("--sage", "--saliency", "spectral")
    assert "--mixup was 0, so sage would never mix; using --mixup 1.0" in err
    assert len(losses) == 3
    assert yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["mixup"] == 1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup-prob", "0"], "--mixup-prob must be > 0 with --sage, got 0"),
        (["--cutmix", "1.0", "--mixup-switch-prob", "1"], "--mixup-switch-prob must be < 1 with --sage, got 1"),
        (["--saliency-size", "2"], "--saliency-size must be at least 4, got 2"),
        (
            ["--saliency", "gradient", "--saliency-checkpoint", "no.pth"],
            "--saliency-checkpoint must be an existing file",
        ),
        (["--saliency-mean", "0.5"], "--saliency-mean and --saliency-std must be given together"),
        (["--saliency", "self"], "invalid choice: 'self'"),
        (["--mixup-mode", "half"], "--mixup-mode must be one of batch, pair, elem, got 'half'"),
        (["--saliency", "grad"], "invalid choice: 'grad'"),
        (["--saliency-modle", "resnet18"], "unknown flag --saliency-modle; did you mean --saliency-model?"),
        (["--saliency_size=32"], "unknown flag --saliency_size=32; did you mean --saliency-size?"),
        (["--mixer-kwargs", "lam_max"], "--mixer-kwargs must be NAME=VALUE ..., got lam_max"),
    ],
)
def test_refusals_are_one_line_that_names_the_flag(flags, message, train, refusal):
    assert message in refusal(train, *SAGE, *flags)


@pytest.mark.parametrize("flag", ["--naflex-loader", "--aug-splits=3", "--jsd-loss"])
def test_what_cannot_be_combined_is_refused_by_name(flag, run, refusal):
    line = refusal(run, SCRIPTS / "conflicts.py", "--sage", flag)
    assert f"{flag.split('=')[0]} can't be combined with --sage" in line


def test_flags_that_the_script_has_itself_are_refused_in_one_line(run, tmp_path, refusal):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--mixup')\np.add_argument('--saliency')\n"
    (tmp_path / "script.py").write_text(text + "p.parse_args()\n")
    line = refusal(run, tmp_path / "script.py", "--sage", "--saliency", "spectral")
    assert "the script has a flag --saliency of its own" in line


@pytest.mark.parametrize("kind", ["none", "switch", "text"])
def test_scripts_whose_mixup_flag_is_no_number(kind, run):
    assert "sage_timm: SAGE" in run(SCRIPTS / "odd_flags.py", kind, "--sage", "--saliency", "spectral")


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
ADD = "parser.add_argument('--stage')"
PARSERS = {
    "none": "",
    "known": f"parser = argparse.ArgumentParser(); {ADD}; parser.parse_known_args()",
    "strict": f"parser = argparse.ArgumentParser(); {ADD}; parser.parse_args()",
}


@pytest.mark.parametrize("parses", PARSERS)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sagee"], "--sagee"),
        (["--sage", "--saliency-modle", "resnet18"], "--saliency-modle"),
        (["--saliency", "spectral"], "--saliency must stand beside --sage or --mixer"),
        (["--save-mixed", "1"], "--save-mixed must stand beside --sage or --mixer"),
    ],
)
def test_flags_that_do_nothing_end_before_training_whatever_parses_them(
    flags, message, parses, run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sage_timm.launcher.session.create_saliency", lambda **_: create_saliency("spectral"))
    (tmp_path / "script.py").write_text(SCRIPT.format(parses=PARSERS[parses]))
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "script.py", *flags)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and "TRAINED" not in out and message in err.splitlines()[-1]


@pytest.mark.parametrize("parses", PARSERS)
def test_without_a_mixer_the_script_runs_as_it_is_and_that_is_said(parses, run, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(parses=PARSERS[parses]))
    assert run(tmp_path / "script.py", "--stage", "2").splitlines() == [
        "sage_timm: neither --sage nor --mixer was given: the script runs as it is"
    ]


def test_a_run_without_a_mixer_says_so(train, losses):
    err = train("--mixup", "1.0")
    assert err.count("sage_timm: neither --sage nor --mixer was given: the script runs as it is") == 1 and losses
