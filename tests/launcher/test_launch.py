"""The launcher on whole scripts: scripts/train.py and others in both parser styles; own processes where it matters."""

import argparse
import contextlib
import logging
import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm.data
import timm.data.loader
import timm.data.mixup
import timm.loss
import torch
import yaml

from sage_timm.launcher import cli, session
from sage_timm.methods import METHODS
from sage_timm.visualize import draw_mixed

TRAIN = Path(__file__).parent.parent.parent / "scripts" / "train.py"
RUN = [
    "--model",
    "test_resnet",
    "--num-classes",
    "3",
    "--input-size",
    "3",
    "24",
    "24",
    "-b",
    "8",
    "-j",
    "0",
    "--epochs",
    "1",
    "--warmup-epochs",
    "0",
    "--lr",
    "0.01",
    "--device",
    "cpu",
    "--no-aug",
]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a script through the launcher in this process; return what it wrote to stderr."""

    def run(*argv, cwd=tmp_path):
        monkeypatch.chdir(cwd)
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        before = timm.data.Mixup, timm.data.create_loader, argparse.ArgumentParser.parse_known_args
        modules = set(sys.modules)
        try:
            cli.main([str(arg) for arg in argv])
        finally:
            for name in set(sys.modules) - modules:
                if "_style" in name:
                    del sys.modules[name]
            assert (timm.data.Mixup, timm.data.create_loader, argparse.ArgumentParser.parse_known_args) == before
        return capsys.readouterr().err

    return run


@pytest.fixture
def losses(monkeypatch):
    """Record the targets that the soft-target loss of scripts/train.py sees."""
    seen, forward = [], timm.loss.SoftTargetCrossEntropy.forward

    def spy(self, x, target):
        seen.append(target)
        return forward(self, x, target)

    monkeypatch.setattr(timm.loss.SoftTargetCrossEntropy, "forward", spy)
    return seen


def mixed_rows(target, smoothing=0.1):
    """Rows with more than one class over the smoothing floor."""
    return ((target > smoothing / target.shape[1] + 1e-4).sum(1) > 1).sum().item()


@pytest.fixture
def train(run, image_folder, tmp_path):
    def train(*argv):
        return run(TRAIN, "--data-dir", image_folder, *RUN, "--output", tmp_path, "--experiment", "run", *argv)

    return train


SAGE = ("--mixup", "1.0", "--sage", "--saliency", "spectral")


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_both_loader_paths_mix(path, workers, train, losses):
    err = train(*SAGE, "-j", workers, *path)
    assert len(losses) == 3 and all(mixed_rows(target) > 0 for target in losses)
    assert all(torch.allclose(target.sum(1), torch.ones(8)) for target in losses)
    said = [line for line in err.splitlines() if line.startswith("sage_timm: ")]
    assert len(said) == 2
    assert (
        "SAGE(lam_max=0.6, search_fraction=1.0), alpha 1, with probability 1 per batch; 3 classes, smoothing 0.1"
        in said[0]
    )
    assert "saliency: spectral residual at 64 px" in said[0]
    assert "first batch 8 x 3 x 24 x 24, torch.float32 on cpu, normalised with mean (0.5, 0.5, 0.5)" in said[1]


def test_without_the_flag_the_run_is_the_plain_run(train, losses, monkeypatch):
    err = train("--mixup", "1.0")
    launched = list(losses)
    losses.clear()
    monkeypatch.setattr(sys, "argv", [str(TRAIN), *sys.argv[1:]])
    runpy.run_path(str(TRAIN), run_name="__main__")
    assert "sage_timm" not in err
    assert len(losses) == len(launched) == 3
    assert all(torch.equal(a, b) for a, b in zip(launched, losses, strict=True))


def test_flags_stand_in_help(train, capsys):
    with pytest.raises(SystemExit) as caught:
        train("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--sage", "--saliency", "--saliency-model", "--saliency-checkpoint", "--saliency-size"):
        assert flag in text
    assert "--sage-lam-max" in text and "--sage-search-fraction" in text and "--mixup-prob" in text


def test_yaml_and_args_yaml_rerun(train, losses, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: spectral\nmixup: 0.7\nsage_lam_max: 0.9\n")
    err = train("-c", tmp_path / "recipe.yaml", "--sage-search-fraction", "0.5")
    assert "SAGE(lam_max=0.9, search_fraction=0.5), alpha 0.7" in err and len(losses) == 3
    saved = yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())
    expected = {"sage": True, "saliency": "spectral", "sage_lam_max": 0.9, "sage_search_fraction": 0.5, "mixup": 0.7}
    assert {key: saved[key] for key in expected} == expected
    first = list(losses)
    losses.clear()
    err = train("-c", tmp_path / "run" / "args.yaml")
    assert "SAGE(lam_max=0.9, search_fraction=0.5), alpha 0.7" in err
    assert len(losses) == 3 and all(torch.equal(a, b) for a, b in zip(first, losses, strict=True))


def test_the_command_line_overrules_the_yaml(train, tmp_path):
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: gradient\nmixup: 1.0\n")
    assert "saliency: spectral" in train("-c", tmp_path / "recipe.yaml", "--saliency", "spectral")


def test_a_mistyped_key_in_the_yaml_is_refused(train, tmp_path, capsys):
    for key in ("salience: spectral", "saliency-size: 16", "sage_lam: 0.5"):
        (tmp_path / "recipe.yaml").write_text(f"sage: true\nsaliency: spectral\nmixup: 1.0\n{key}\n")
        with pytest.raises(SystemExit) as caught:
            train("-c", tmp_path / "recipe.yaml")
        assert caught.value.code == 2
        assert f"the key {key.split(':')[0]!r} of the config file is none of" in capsys.readouterr().err


def test_another_saliency_on_the_command_line_leaves_the_yamls_checkpoint(train, tmp_path, checkpoint):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"sage: true\nsaliency: gradient\nsaliency_checkpoint: {checkpoint}\nmixup: 1.0\n")
    err = train("-c", recipe, "--saliency", "spectral")
    assert f"--saliency spectral needs no auxiliary model; the config file's {checkpoint} is not used" in err
    assert "saliency: spectral residual" in err


def test_cutmix_keeps_its_share(train, losses):
    assert ", CutMix (alpha 1) for 50% of it" in train(*SAGE, "--cutmix", "1.0", "--mixup-mode", "elem")


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
def test_off_epoch_is_obeyed_with_persistent_workers(path, train, losses):
    err = train(*SAGE, "-j", "1", "--epochs", "3", "--mixup-off-epoch", "2", *path)
    per_epoch = [sum(mixed_rows(target) for target in losses[3 * e : 3 * e + 3]) for e in range(3)]
    assert err.count("sage_timm: mixing is switched off from here on") == 1
    assert len(losses) == 9 and per_epoch[0] > 0 and per_epoch[1] > 0 and per_epoch[2] == 0


def test_a_closed_gate_is_opened(train, losses, tmp_path):
    err = train("--sage", "--saliency", "spectral")
    assert "--mixup is 0, so sage would never mix; it takes --mixup 1.0" in err
    assert len(losses) == 3 and all(mixed_rows(target) > 0 for target in losses)
    assert yaml.safe_load((tmp_path / "run" / "args.yaml").read_text())["mixup"] == 1.0


def test_cutmix_alone_opens_it_too(train, losses):
    err = train("--sage", "--saliency", "spectral", "--cutmix", "1.0")
    assert "it takes --mixup 1.0" in err and "CutMix (alpha 1) for 50%" in err and len(losses) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup-prob", "0"], "the mixing probability must be > 0 with --sage, got 0"),
        (["--cutmix", "1.0", "--mixup-switch-prob", "1"], "the switch probability must be < 1 with --sage, got 1"),
        (["--saliency-size", "2"], "--saliency-size must be at least 4, got 2"),
        (["--saliency-model", "resnet18"], "--saliency spectral takes no --saliency-model"),
        (
            ["--saliency", "gradient", "--saliency-checkpoint", "no.pth"],
            "--saliency-checkpoint must be an existing file",
        ),
        (["--saliency", "self", "--saliency-model", "resnet18"], "--saliency self takes no --saliency-model"),
        (["--sage-lam-max", "2"], "--sage-lam-max must lie in (0, 1], got 2.0"),
        (["--sage-search-fraction", "0"], "--sage-search-fraction must lie in (0, 1], got 0.0"),
        (["--mixup-mode", "half"], "--mixup-mode must be one of batch, pair, elem, got 'half'"),
        (["--mixup", "-1"], "--mixup must be at least 0, got -1.0"),
    ],
)
def test_refusals_are_one_line(flags, message, train, capsys):
    with pytest.raises(SystemExit) as caught:
        train(*SAGE, *flags)
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert [line for line in err.splitlines() if "sage_timm: error: " in line and message in line]


@pytest.mark.parametrize("flag", ["--naflex-loader", "--aug-splits=3", "--jsd-loss"])
def test_what_cannot_be_combined_is_refused_by_name(flag, run, tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--mixup", type=float, default=0.0)
        parser.add_argument("--naflex-loader", action="store_true")
        parser.add_argument("--jsd-loss", action="store_true")
        parser.add_argument("--aug-splits", type=int, default=0)
        parser.parse_args()
        raise RuntimeError("went on")
        """)
    )
    with pytest.raises(SystemExit) as caught:
        run(script, "--sage", flag)
    assert caught.value.code == 2
    assert f"{flag.split('=')[0]} can't be combined with --sage" in capsys.readouterr().err


def test_saliency_flags_without_sage_are_not_silent(train):
    assert "--saliency has no effect without --sage" in train("--saliency", "spectral", "--mixup", "1.0")


def test_checkpoint_and_statistics_reach_the_saliency_model(train, checkpoint, monkeypatch):
    created = []
    original = session.create_saliency

    def create(*args, **kwargs):
        created.append(original(*args, **kwargs))
        return created[-1]

    monkeypatch.setattr(session, "create_saliency", create)
    flags = ["--saliency", "gradient", "--saliency-checkpoint", checkpoint, "--saliency-size", "20"]
    statistics = ["--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6"]
    for path in ([], ["--no-prefetcher"]):
        err = train("--mixup", "1", "--sage", *flags, *statistics, *path)
        assert f"gradient of test_resnet, weights of {checkpoint} (5 classes), at 20 x 20 px" in err
        assert created[-1].mean == (0.1, 0.2, 0.3) and created[-1].std == (0.4, 0.5, 0.6)


def test_the_saliency_model_names_the_architecture_of_bare_weights(train, losses, tiny_model, tmp_path, capsys):
    torch.save(tiny_model.state_dict(), tmp_path / "bare.pth")
    flags = ["--mixup", "1", "--sage", "--saliency-checkpoint", tmp_path / "bare.pth"]
    assert "gradient of test_resnet, weights of" in train(*flags, "--saliency-model", "test_resnet")
    assert len(losses) == 3
    with pytest.raises(SystemExit):
        train(*flags)
    assert "--saliency-model must name the architecture" in capsys.readouterr().err


def test_the_epochs_loss_is_the_mean_over_its_batches(train, losses, monkeypatch, tmp_path):
    values, forward = [], timm.loss.SoftTargetCrossEntropy.forward

    def spy(self, x, target):
        values.append(forward(self, x, target))
        return values[-1]

    monkeypatch.setattr(timm.loss.SoftTargetCrossEntropy, "forward", spy)
    train(*SAGE, "--log-interval", "100")
    _, loss, _ = (tmp_path / "run" / "summary.csv").read_text().splitlines()[-1].split(",")
    assert len(values) == 3 and float(loss) == pytest.approx(sum(v.item() for v in values) / 3, rel=1e-5)


def test_greyscale_runs(train, losses, tmp_path):
    import timm

    model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    torch.save({"arch": "test_resnet", "state_dict": model.state_dict()}, tmp_path / "grey.pth")
    flags = ["--saliency-checkpoint", tmp_path / "grey.pth", "--mean", "0.4", "--std", "0.3"]
    err = train("--mixup", "1", "--sage", "--input-size", "1", "24", "24", *flags)
    assert "first batch 8 x 1 x 24 x 24" in err and len(losses) == 3


def test_self_saliency_uses_the_model_that_the_script_trains(train, losses, monkeypatch):
    models, original = [], session.create_saliency

    def create(name, model, size):
        models.append(model)
        return original(name, model=model, size=size)

    monkeypatch.setattr(session, "create_saliency", create)
    err = train("--mixup", "1", "--sage", "--saliency", "self")
    assert "saliency: gradient of the model in training" in err
    assert len(models) == 1 and all(p.grad is not None for p in models[0].parameters())
    assert sum(mixed_rows(target) for target in losses) > 0


DEIT_ENGINE = """
from typing import Optional
from timm.data import Mixup

def train_one_epoch(model, loader, optimizer, criterion, mixup_fn: Optional[Mixup] = None):
    rows = 0
    for samples, targets in loader:
        if mixup_fn is not None:
            samples, targets = mixup_fn(samples, targets)
            rows += ((targets > 0.04).sum(1) > 1).sum().item()
        loss = criterion(model(samples), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("MIXED", rows)
"""

DEIT = """
import argparse
import torch
from torchvision import datasets
from timm.data import create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.models import create_model
from {mixup_module} import Mixup
from {engine} import train_one_epoch

def get_args_parser():
    parser = argparse.ArgumentParser("deit style", add_help=False)
    parser.add_argument("--mixup", type=float, default=0.8)
    parser.add_argument("--cutmix", type=float, default=1.0)
    parser.add_argument("--mixup-prob", type=float, default=1.0)
    parser.add_argument("--mixup-switch-prob", type=float, default=0.5)
    parser.add_argument("--data-path")
    return parser

def main(args):
    transform = create_transform(24, is_training=True, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2))
    loader = torch.utils.data.DataLoader(datasets.ImageFolder(args.data_path, transform), batch_size=8, shuffle=True)
    mixup_fn = None
    if args.mixup > 0 or args.cutmix > 0:
        mixup_fn = Mixup(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=None, prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob, mode="batch", label_smoothing=0.1, num_classes=3)
    model = create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    {call}

if __name__ == "__main__":
    parser = argparse.ArgumentParser("training", parents=[get_args_parser()])
    main(parser.parse_args())
"""
CALL = "train_one_epoch(model, loader, optimizer, SoftTargetCrossEntropy(), mixup_fn)"


@pytest.fixture
def deit(tmp_path, image_folder):
    def write(call=CALL, mixup_module="timm.data"):
        number = len(list(tmp_path.glob("*_style*")))
        engine = f"engine_style{number}"
        (tmp_path / f"{engine}.py").write_text(DEIT_ENGINE)
        script = tmp_path / f"main_style{number}.py"
        script.write_text(DEIT.format(mixup_module=mixup_module, engine=engine, call=call))
        return script, "--data-path", image_folder / "train"

    return write


@pytest.mark.parametrize("module", ["timm.data", "timm.data.mixup"])
def test_deit_style(module, deit, run):
    script, *args = deit(mixup_module=module)
    err = run(script, *args, "--sage", "--saliency", "spectral", "--cutmix", "0")
    assert (
        "search_fraction=1.0), alpha 0.8" in err and "normalised with mean (0.3, 0.3, 0.3), std (0.2, 0.2, 0.2)" in err
    )


def test_deit_style_mixes_rows(deit, run, capsys, monkeypatch):
    script, *args = deit()
    printed = []
    monkeypatch.setattr("builtins.print", lambda *a, **k: printed.append(a))
    run(script, *args, "--sage", "--saliency", "spectral")
    assert [a for a in printed if a[0] == "MIXED" and a[1] > 0]


def test_deit_style_self_saliency_though_the_model_is_built_later(deit, run):
    script, *args = deit()
    assert "gradient of the model in training" in run(script, *args, "--cutmix", "0", "--sage", "--saliency", "self")


def test_a_script_that_never_gives_batches_to_mixup_fails_within_ten_steps(deit, run):
    epoch = "train_one_epoch(model, loader, optimizer, torch.nn.CrossEntropyLoss())"
    script, *args = deit(call=f"[{epoch} for epoch in range(5)]")
    with pytest.raises(RuntimeError, match="10 optimizer steps gave no batch to timm's Mixup"):
        run(script, *args, "--sage", "--saliency", "spectral")


def test_a_script_that_never_builds_mixup_fails(deit, run, capsys):
    script, *args = deit()
    script.write_text(script.read_text().replace("mixup_fn = Mixup(", "mixup_fn = dict("))
    script.write_text(script.read_text().replace(CALL, "pass"))
    with pytest.raises(SystemExit) as caught:
        run(script, *args, "--sage", "--saliency", "spectral")
    assert caught.value.code == 2
    assert "the script never built timm's Mixup;" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:a batch of 1 image")
def test_batches_of_one_fail_rather_than_train_unmixed(train):
    with pytest.raises(RuntimeError, match=r"none of 1 batches was mixed .* set a batch size of at least 2"):
        train(*SAGE, "-b", "1")


def test_rare_mixing_is_not_mistaken_for_none(train):
    train(*SAGE, "--mixup-prob", "0.001")


def test_a_collate_in_a_foreign_loader_says_what_to_do(deit, run):
    script, *args = deit()
    text = script.read_text().replace("import Mixup", "import FastCollateMixup as Mixup")
    call = "next(iter(torch.utils.data.DataLoader(loader.dataset, batch_size=4, collate_fn=mixup_fn)))"
    script.write_text(text.replace(CALL, call))
    with pytest.raises(RuntimeError, match="gave its FastCollateMixup to another loader"):
        run(script, *args, "--sage", "--saliency", "spectral")


SWIN_BUILD = """
import torch
from timm.data import Mixup

def build_mixup(config):
    return Mixup(mixup_alpha=config["MIXUP"], cutmix_alpha=0.0, label_smoothing=0.1, num_classes=3)
"""
SWIN = """
import argparse
import torch
from build_style import build_mixup

parser = argparse.ArgumentParser("swin style")
parser.add_argument("--cfg")
args = parser.parse_args()
images, target = build_mixup({"MIXUP": 0.8})(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
assert args.cfg == "x.yaml" and type(build_mixup({"MIXUP": 1.0})).__mro__[1].__name__ == "MethodMixup"
"""


def test_swin_style_with_a_strict_parser_and_no_mixup_flag(run, tmp_path):
    (tmp_path / "build_style.py").write_text(SWIN_BUILD)
    (tmp_path / "swin.py").write_text(SWIN)
    err = run(tmp_path / "swin.py", "--cfg", "x.yaml", "--sage", "--saliency", "spectral")
    assert "search_fraction=1.0), alpha 0.8" in err


POOLFORMER = """
import argparse
import torch
import yaml
from timm.data import create_dataset, create_loader, resolve_data_config, Mixup, FastCollateMixup, AugMixDataset
from timm.models import create_model, safe_model_name, resume_checkpoint
from timm.utils import *
from timm.loss import *

config_parser = parser = argparse.ArgumentParser(description="config", add_help=False)
parser.add_argument("-c", "--config", default="")
parser = argparse.ArgumentParser(description="PyTorch ImageNet Training")
parser.add_argument("data_dir")
parser.add_argument("--mixup", type=float, default=0.0)
parser.add_argument("--cutmix", type=float, default=0.0)
parser.add_argument("--smoothing", type=float, default=0.1)
parser.add_argument("--no-prefetcher", action="store_true")

def _parse_args():
    args_config, remaining = config_parser.parse_known_args()
    if args_config.config:
        with open(args_config.config) as f:
            parser.set_defaults(**yaml.safe_load(f))
    return parser.parse_args(remaining)

def main():
    args = _parse_args()
    model = create_model("test_resnet", num_classes=3)
    collate_fn, mixup_fn = None, None
    if args.mixup > 0 or args.cutmix > 0.:
        mixup_args = dict(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, cutmix_minmax=None, prob=1.0, switch_prob=0.5,
            mode="batch", label_smoothing=args.smoothing, num_classes=3)
        if args.no_prefetcher:
            mixup_fn = Mixup(**mixup_args)
        else:
            collate_fn = FastCollateMixup(**mixup_args)
    loader = create_loader(
        create_dataset("", root=args.data_dir, split="train", is_training=True), input_size=(3, 24, 24), batch_size=8,
        is_training=True, use_prefetcher=not args.no_prefetcher, num_workers=0, collate_fn=collate_fn,
        persistent_workers=False, device=torch.device("cpu"))
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), SoftTargetCrossEntropy()
    for input, target in loader:
        if args.no_prefetcher and mixup_fn is not None:
            input, target = mixup_fn(input, target)
        optimizer.zero_grad()
        loss_fn(model(input), target).backward()
        optimizer.step()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
@pytest.mark.parametrize("by", ["flag", "yaml"])
def test_poolformer_fastvit_and_volo_style(path, by, run, losses, tmp_path, image_folder):
    """Parsers at module level, names from timm.data, star imports, a collate or a mixup_fn."""
    (tmp_path / "train_style.py").write_text(POOLFORMER)
    (tmp_path / "recipe.yaml").write_text("sage: true\nsaliency: spectral\n")
    flags = ["--sage", "--saliency", "spectral"] if by == "flag" else ["-c", "recipe.yaml"]
    err = run(tmp_path / "train_style.py", image_folder, *path, *flags)
    assert "it takes --mixup 1.0" in err and "sage_timm: first batch 8 x 3 x 24 x 24" in err
    assert len(losses) == 3 and sum(mixed_rows(target) for target in losses) > 0


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
def test_one_seed_gives_one_mix_whatever_the_loader(path, workers, train, losses):
    train(*SAGE, "--cutmix", "1", "--mixup-mode", "elem", "-j", "0")
    expected = [target.clone() for target in losses]
    losses.clear()
    train(*SAGE, "--cutmix", "1", "--mixup-mode", "elem", "-j", workers, *path)
    assert len(losses) == len(expected) == 3
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(losses, expected, strict=True))


@pytest.mark.parametrize("ending", ["", "sys.exit()", "sys.exit(0)"])
def test_a_script_that_exits_is_checked_all_the_same(ending, run, tmp_path, capsys):
    (tmp_path / "script.py").write_text(f"import sys\n{ending}\n")
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "script.py", "--sage", "--saliency", "spectral")
    assert caught.value.code == 2 and "never built timm's Mixup" in capsys.readouterr().err
    heard = ""
    with contextlib.suppress(SystemExit):
        heard = run(tmp_path / "script.py", "--saliency", "spectral")
    assert "--saliency has no effect without --sage" in heard + capsys.readouterr().err


def test_scripts_that_spawn_their_own_processes_are_refused(run, tmp_path, capsys):
    text = "import torch.multiprocessing as mp\nif __name__ == '__main__':\n    mp.spawn(print, nprocs=1)\n"
    (tmp_path / "script.py").write_text(text)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "script.py", "--sage", "--saliency", "spectral")
    assert caught.value.code == 2 and "does not reach processes that a script spawns" in capsys.readouterr().err


def test_flags_that_the_script_has_itself_are_refused_in_one_line(run, tmp_path, capsys):
    text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--mixup')\np.add_argument('--saliency')\n"
    (tmp_path / "script.py").write_text(text + "p.parse_args()\n")
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "script.py")
    assert caught.value.code == 2 and "the script has a flag --saliency of its own" in capsys.readouterr().err


@pytest.mark.parametrize("default", ["default=None", "action='store_true'", "default='0.8'"])
def test_scripts_whose_mixup_flag_is_no_number(default, run, tmp_path):
    text = f"""
    import argparse, torch
    from timm.data import Mixup
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixup", {default})
    parser.add_argument("--sagemaker-dir")
    args = parser.parse_args()
    assert not isinstance(args.mixup, float)
    Mixup(num_classes=3)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    assert "sage_timm: SAGE" in run(tmp_path / "script.py", "--sage", "--saliency", "spectral")


def test_mixup_in_workers_is_told_where_it_belongs(run, tmp_path):
    text = """
    import torch
    from timm.data import Mixup
    mixup = Mixup(num_classes=3)
    data = [(torch.rand(3, 8, 8), i % 3) for i in range(8)]
    collate = lambda batch: mixup(*torch.utils.data.default_collate(batch))
    next(iter(torch.utils.data.DataLoader(data, 4, collate_fn=collate, num_workers=1, multiprocessing_context="fork")))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    with pytest.raises(RuntimeError, match="call Mixup after the DataLoader"):
        run(tmp_path / "script.py", "--sage", "--saliency", "spectral")


def test_linked_scripts_find_their_neighbours(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "neighbour_style.py").write_text("")
    (tmp_path / "real" / "script.py").write_text("import neighbour_style\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "script.py")
    run(tmp_path / "link.py")


def test_usage_and_missing_scripts(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0 and "--saliency-checkpoint" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        run("no_such_script.py", "--sage")
    assert caught.value.code == 2
    assert "SCRIPT must be an existing file, got 'no_such_script.py'" in capsys.readouterr().err


def test_wrong_flag_values_are_argparse_errors(train, capsys):
    with pytest.raises(SystemExit) as caught:
        train("--sage", "--saliency", "grad")
    assert caught.value.code == 2 and "invalid choice: 'grad'" in capsys.readouterr().err


def python(*argv, cwd, **environment):
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
    )


ERRORS = """
import sys, os
import helper_module
def fail():
    raise ValueError("mine")
print(sys.argv, sys.path[0], __name__, os.path.basename(__file__), sys.modules["__main__"].fail is fail)
if sys.argv[1] == "exit":
    sys.exit(7)
fail()
"""


@pytest.mark.parametrize("how", ["exit", "fail"])
def test_exit_codes_tracebacks_and_main_are_the_scripts_own(how, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "helper_module.py").write_text("")
    (tmp_path / "inner" / "script.py").write_text(ERRORS)
    direct = python("inner/script.py", how, cwd=tmp_path)
    launched = python("-m", "sage_timm", "inner/script.py", how, cwd=tmp_path)
    assert direct.returncode == launched.returncode == {"exit": 7, "fail": 1}[how]
    assert launched.stdout.splitlines() == direct.stdout.splitlines()
    assert launched.stderr.replace(str(tmp_path) + "/", "") == direct.stderr.replace(str(tmp_path) + "/", "")


SPAWN = """
import argparse
import torch
from timm.data import Mixup

class DS(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return torch.rand(3, 8, 8), i % 3

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixup", type=float, default=1.0)
    args = parser.parse_args()
    mixup = Mixup(mixup_alpha=args.mixup, num_classes=3)
    for method in ("fork", "spawn", "forkserver"):
        loader = torch.utils.data.DataLoader(DS(), batch_size=4, num_workers=1, multiprocessing_context=method)
        print(method, sum(mixup(x, y)[1].shape[0] for x, y in loader))
"""


def test_workers_of_every_start_method(tmp_path):
    (tmp_path / "script.py").write_text(SPAWN)
    result = python("-m", "sage_timm", "script.py", "--sage", "--saliency", "spectral", cwd=tmp_path)
    assert result.stdout.split() == ["fork", "8", "spawn", "8", "forkserver", "8"], result.stderr
    assert result.stderr.count("sage_timm: SAGE") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_rank_of_a_node_gets_the_weights_first(rank, monkeypatch):
    events = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("barrier"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(KeyError), session._first_rank_first():
        events.append("load")
        raise KeyError
    assert events == (["load", "barrier"] if rank == 0 else ["barrier", "load"])


# The other methods


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
@pytest.mark.parametrize("mixer", ["mixup", "cutmix", "saliencymix", "puzzlemix", "comixup"])
def test_every_mixer_mixes_on_both_loader_paths(mixer, path, train, losses, monkeypatch):
    monkeypatch.setattr("sage_timm.saliency.load_auxiliary", lambda *_: pytest.fail("no weights are needed"))
    saliency = ["--saliency", "spectral"] if METHODS[mixer].uses_saliency else []
    rough = ["--mixer-kwargs", "beta=0", "eta=0"] if mixer in ("puzzlemix", "comixup") else []
    err = train("--mixup", "1.0", "--mixer", mixer, *rough, *saliency, "-j", "0", *path)
    assert len(losses) == 3 and all(torch.allclose(t.sum(1), torch.ones(8)) for t in losses)
    assert sum(mixed_rows(target) for target in losses) > 4
    assert f"sage_timm: {METHODS[mixer].__name__}(" in err and "normalised with mean (0.5, 0.5, 0.5)" in err


def test_mixer_sage_is_sage(train, losses):
    runs = []
    for flags in (["--sage"], ["--mixer", "sage"], ["--sage", "--mixer", "sage"]):
        losses.clear()
        train("--mixup", "1.0", "--saliency", "spectral", *flags)
        runs.append(torch.cat(losses))
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_mixer_settings_and_the_runs_std_reach_the_method(train):
    err = train(
        *("--mixup", "1.0", "--mixer", "puzzlemix", "--saliency", "spectral", "--std", "0.2", "0.3", "0.4"),
        *("--mixer-kwargs", "beta=0.7", "t_size=3", "block_num=None"),
    )
    assert "PuzzleMix(n_labels=3, beta=0.7, gamma=0.5, eta=0.2, neigh_size=4, t_eps=0.8, t_size=3" in err


@pytest.mark.parametrize("path", [[], ["--no-prefetcher"]])
def test_the_runs_std_reaches_puzzlemix(path, train, monkeypatch):
    seen, make = [], METHODS["puzzlemix"].__call__
    monkeypatch.setattr(
        METHODS["puzzlemix"], "__call__", lambda self, batch: seen.append(batch.std) or make(self, batch)
    )
    mixer = ("--mixup", "1.0", "--mixer", "puzzlemix", "--saliency", "spectral", "--std", "0.2", "0.3", "0.4")
    train(*mixer, *path)
    assert set(seen) == {(0.2, 0.3, 0.4)}


def test_the_mixer_comes_back_from_args_yaml(train, run, tmp_path, image_folder):
    flags = ["--mixer", "comixup", "--mixer-kwargs", "part=4", "beta=0.1", "--saliency", "spectral"]
    first = train("--mixup", "1.0", *flags)
    assert "CoMixup(block_num=4, part=4, beta=0.1" in first
    again = run(TRAIN, "-c", tmp_path / "run" / "args.yaml", "--output", tmp_path, "--experiment", "again")
    assert "CoMixup(block_num=4, part=4, beta=0.1" in again


def test_a_closed_gate_takes_the_authors_alpha(train, losses):
    err = train("--mixer", "comixup", "--saliency", "spectral")
    assert "so comixup would never mix; it takes --mixup 2.0" in err and "alpha 2," in err
    err = train("--cutmix", "0.5", "--mixer", "cutmix")
    assert "would never mix" not in err and "CutMix(), alpha 0.5," in err
    assert sum(mixed_rows(target) for target in losses) > 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sage", "--mixer", "cutmix"], "--sage and --mixer cutmix can't be combined; drop one of the two"),
        (["--mixer", "cutmixx"], "invalid choice: 'cutmixx'"),
        (["--mixer", "mixup", "--mixer-kwargs", "beta=1"], "mixup has no settings of its own, got beta"),
        (["--mixer", "puzzlemix", "--mixer-kwargs", "bta=1"], "puzzlemix has n_labels, beta, .*, got bta"),
        (["--mixer", "puzzlemix", "--mixer-kwargs", "beta"], "--mixer-kwargs takes NAME=VALUE, got beta"),
        (["--mixer", "puzzlemix", "--mixer-kwargs", "beta=-1"], r"`beta` must lie in \[0, 1e\+09\], got -1"),
        (["--mixer", "mixup", "--mixer-kwargs", "name=1"], "mixup has no settings of its own, got name"),
        (["--mixer", "comixup", "--sage-lam-max", "0.5"], "--sage-lam-max is SAGE's; drop it with --mixer comixup"),
        (["--sage", "--sage-lam-max", "0.5", "--mixer-kwargs", "lam_max=0.4"], "lam_max is given twice"),
        (["--sage", "--mixer-kwargs", "lam_max=7"], r"--sage-lam-max must lie in \(0, 1\], got 7"),
        (["--mixer", "mixup", "--cutmix", "1", "--mixup-switch-prob", "1"], "must be < 1 with --mixer mixup, got 1"),
        (["--mixer", "mixup", "--mixup-prob", "0"], "must be > 0 with --mixer mixup, got 0"),
        (["--mixer", "mixup", "--save-mixed", "-1"], "--save-mixed must be at least 0, got -1"),
    ],
)
def test_unfit_mixer_flags_are_refused_in_one_line(flags, message, train, capsys):
    with pytest.raises(SystemExit) as caught:
        train("--mixup", "1.0", *flags)
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


def test_saliency_flags_without_use_are_said(train):
    err = train("--mixup", "1.0", "--mixer", "mixup", "--saliency", "spectral", "--saliency-size", "32")
    assert "--saliency, --saliency-size has no effect: --mixer mixup uses no saliency" in err


def test_without_its_library_puzzlemix_is_refused_before_training(train, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        train("--mixup", "1.0", "--mixer", "puzzlemix", "--saliency", "spectral")
    assert (
        'PuzzleMix needs PyMaxflow, which is not installed; pip install "sage-timm[methods]"' in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        train("--mixup", "1.0", "--mixer", "mixup", "--save-mixed", "1")
    assert (
        '--save-mixed needs Matplotlib, which is not installed; pip install "sage-timm[viz]"' in capsys.readouterr().err
    )


def test_the_first_mixed_batches_are_saved_as_pictures(train, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("sage_timm.launcher.monitor.draw_mixed", lambda *a: drawn.append(a) or draw_mixed(*a))
    err = train("--mixup", "1.0", "--mixer", "mixup", "--save-mixed", "2", "--std", "0.5", "0.4", "0.3")
    assert sorted(p.name for p in (tmp_path / "mixed").iterdir()) == ["mixed-001.png", "mixed-002.png"]
    assert f"{tmp_path}/mixed/mixed-001.png: a mixed batch" in err
    images, plan, names = drawn[0]
    assert len(drawn) == 2 and set(names) <= {"0", "1", "2"} and len(plan.lam) == 8
    assert -1e-3 <= images.min() < 0.2 and 0.8 < images.max() <= 1.001, "drawn as they are, not normalised"


def test_a_full_or_read_only_folder_stops_the_pictures_alone(train, tmp_path, losses):
    (tmp_path / "mixed").write_text("a file where the folder should be")
    err = train("--mixup", "1.0", "--mixer", "mixup", "--save-mixed", "2")
    assert err.count("the training goes on without pictures") == 1 and len(losses) == 3


def test_off_epoch_holds_for_every_mixer(train, losses):
    mixer = ("--mixup", "1.0", "--mixer", "puzzlemix", "--mixer-kwargs", "beta=0", "eta=0", "--saliency", "spectral")
    train(*mixer, "--epochs", "3", "--mixup-off-epoch", "2")
    assert mixed_rows(torch.cat(losses[:6])) > 6 and mixed_rows(torch.cat(losses[6:])) == 0
