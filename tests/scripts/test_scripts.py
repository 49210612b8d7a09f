"""The scripts, the pictures and the README, run as a user runs them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sage_timm import MixPlan, create_saliency, visualize
from sage_timm.methods import METHODS, sage_search
from sage_timm.methods.boxes import box_plan
from sage_timm.methods.sage import sage
from sage_timm.saliency import SOURCES
from sage_timm.visualize import __main__ as command
from scripts import pictures
from scripts.bench import speed

ROOT = Path(__file__).parent.parent.parent
TEST_TEXTS = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.name for path in DOCUMENTS]


def table(first, document="README.md"):
    """The names in the first column of a document's table whose header starts with `first`."""
    found = re.search(
        rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / document).read_text(), re.MULTILINE
    )
    return [re.match(r"\| `([\w-]+)`", line)[1] for line in found[1].splitlines()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_python_blocks_run(path, monkeypatch):
    monkeypatch.setattr("sage_timm.saliency.auxiliary.constants.HF_HUB_OFFLINE", True)
    batch = torch.randn(4, 3, 24, 24), torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 10))
    found = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    for block in found:
        others = set(re.findall(r"^(?:import|from) (lightning|accelerate)", block, re.MULTILINE))
        if all(map(importlib.util.find_spec, others)):  # these are no dependencies, nor in the extra `dev`
            exec(compile(block, path.name, "exec"), {"loader": [batch, batch], "model": model})
    if path.name == "README.md":
        assert len(found) >= 2 and model[1].weight.grad is not None


def test_every_flag_of_the_launcher_is_documented_once():
    import argparse

    from sage_timm.launcher.flags import add_flags

    parser = argparse.ArgumentParser()
    add_flags(parser)
    flags = parser._option_string_actions.keys() - {"-h", "--help"}
    assert list(parser._option_string_actions["--mixer"].choices) == list(METHODS)
    assert sorted(table("flag") + table("flag", "docs/training.md")) == sorted(flags)


def test_readme_has_every_method_and_source():
    assert set(table("`--mixer`")) == set(METHODS)
    assert set(table("source")) == set(SOURCES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_documents_name_files_and_tests_that_exist(path):
    text = path.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    named = set(re.findall(r"(?<![\w/.])(?:scripts|tests|sage_timm|docs)/[\w./-]+\.\w+", text))
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
    for module in re.findall(r"python -m ((?:scripts|sage_timm)[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    for word in re.findall(r"pytest[^`\n]* -k (\w+)", text):
        assert any(re.search(rf"def test_\w*{word}", text) for text in TEST_TEXTS), word


def test_readme_is_short_and_says_what_whether_and_how_first():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < 145 and max(map(len, lines)) <= 120
    first = "\n".join(lines[:55])
    for part in (
        "arxiv.org/abs/2211.00113",
        "github.com/SamsungLabs/SAGE",
        "Should you use it?",
        "pip install",
        "--sage",
    ):
        assert part in first, part


def test_pictures(tmp_path):
    pictures.main(["-o", str(tmp_path)])
    for name in ("mixed.jpg", "rearrangement.png"):
        assert 1e4 < (tmp_path / name).stat().st_size < 4e5
        with Image.open(tmp_path / name) as drawn, Image.open(ROOT / "docs" / name) as kept:
            assert drawn.size == kept.size, f"{name} was not redrawn"


@pytest.mark.slow
def test_quickstart(tmp_path):
    """The main job in a fresh copy, with this environment as its .venv; a second run reuses what is there."""
    for name in ("sage_timm", "scripts", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    shutil.copy(ROOT / "pyproject.toml", tmp_path / ".venv" / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

    def run():
        command = ["bash", str(tmp_path / "scripts" / "quickstart.sh")]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout, result.stderr

    out, err = run()
    rows = re.findall(r"^\| (no mixing|mixup\+cutmix|SAGE, feature) \| 3 \| ([\d.]+) ± .*\|$", out, re.MULTILINE)
    assert len(rows) == 3 and all(20 < float(accuracy) < 99.9 for _, accuracy in rows)
    assert re.findall(r"^SAGE, feature against (.+?): .*standard error", out, re.MULTILINE)
    assert "sage_timm: SAGE" in err and "feature of test_resnet, weights of quickstart/auxiliary" in err
    for name, width in (("mixed", 800), ("comparison", 500)):
        with Image.open(tmp_path / "quickstart" / f"{name}.png") as picture:
            assert picture.width > width and len(picture.convert("L").getcolors()) > 50
    again, _ = run()
    assert "== 2" not in again and "auxiliary model, seed" not in again and out[out.index("| arm") :] in again


def test_benchmark(tmp_path, capsys):
    files = ["--json", str(tmp_path / "figures.json"), "--against", sage_search.__file__]
    speed.main(["--tiny", "--repeats", "2", "--device", "cpu", *files])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [r["title"][:3] for r in figures["results"]] == ["(a)", "(a)", "(b)", "(c)"]
    assert all(low <= median <= high for r in figures["results"] for median, low, high in r["ms"].values())
    out = capsys.readouterr().out
    assert "SageMixup / timm Mixup" in out and "MiB" in out and "the earlier search / all translations" in out


def test_the_benchmarks_loop_agrees_with_brute_force():
    """The authors' way in the benchmark finds the best of its own sample: with all translations drawn, the optimum."""
    from sage_timm.methods.sage_search import TIE, rearrange, retained_saliency

    own, other = speed.pair_of_maps(3, 9, torch.device("cpu"))
    found = speed.search_in_a_loop(own, other, fraction=1.0)
    best = rearrange(own, other)
    retained = [retained_saliency(own, other, t[:, None])[:, 0] for t in (found, best)]
    assert (retained[0] - retained[1]).abs().max() <= 2 * TIE


@pytest.fixture(name="pictures")
def _pictures(tmp_path):
    for i, size in enumerate([(40, 30), (30, 50), (35, 35)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"picture{i}.png")
    return tmp_path


def test_visualize_folder_and_files(pictures, capsys):
    for images in ([pictures], sorted(pictures.glob("*.png"))):
        target = pictures / "out" / "figure.png"
        target.parent.mkdir(exist_ok=True)
        command.main([*map(str, images), "--saliency", "spectral", "--size", "32", "-o", str(target)])
        with Image.open(target) as picture:
            assert picture.width > 800
        shutil.rmtree(target.parent)
    assert "3 images, saliency: spectral residual" in capsys.readouterr().out


def test_draw_plans_shows_the_plan_in_words():
    images, saliency = torch.rand(2, 3, 12, 20), torch.zeros(2, 1, 12, 20)
    saliency[:, :, 4:8, 6:11] = torch.rand(4, 5)
    partner = torch.tensor([1, 0])
    plan = sage(saliency, partner, torch.tensor([0.3, 0.3]), (12, 20))
    box = box_plan(torch.tensor([[0, 12, 0, 5], [0, 0, 0, 0]]), partner, torch.tensor([0.75, 1.0]), (12, 20))
    image, heat, other_image, mask, mixed, *_ = visualize.draw_plans(
        images, saliency, {"sage": plan}, ["cat", "dog"]
    ).axes
    titles = ["image", "saliency", "partner", "mask\n(white: image, black: partner)", "sage"]
    assert [a.get_title() for a in (image, heat, other_image, mask, mixed)] == titles
    assert (image.get_xlabel(), other_image.get_xlabel()) == ("cat", "dog")
    own, other = plan.lam[0].tolist()
    kept = plan.retained(saliency)[0].tolist()
    dy, dx = plan.translation[0, 1, :, 0, 0].tolist()
    ways = [f"{abs(d)} px {w[d > 0]}" for d, w in ((dy, ("up", "down")), (dx, ("left", "right"))) if d]
    assert mask.get_xlabel().replace("\n", " ") == f"partner moves {', '.join(ways)}"
    words = f"cat {own:.2f}, dog {other:.2f} retained {kept[0]:.2f} + {kept[1]:.2f}"
    assert " ".join(mixed.get_xlabel().split()) == words
    assert torch.allclose(
        torch.from_numpy(mixed.images[0].get_array().data), plan.mix_images(images)[0].permute(1, 2, 0)
    )
    assert torch.allclose(torch.from_numpy(mask.images[0].get_array().data), plan.mask[0, 0])
    axes = visualize.draw_plans(images, saliency, {"sage": plan, "cutmix": box}, ["cat", "dog"]).axes
    assert [a.get_title() for a in axes[:6]] == [*titles, "cutmix"]
    assert axes[11].get_xlabel() == "dog 1.00\nretained 1.00"


def test_names_are_no_formulas_and_16_bit_pictures_keep_their_greys(tmp_path):
    folder = tmp_path / r"$\foo$"
    folder.mkdir()
    grey = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for name in ("a.png", "b.png"):
        Image.fromarray(grey).save(folder / name)
    images, _ = visualize.load_images([str(tmp_path)], 2, 8)
    assert images.mean() == pytest.approx(0.5, abs=0.01)
    command.main([str(tmp_path), "--saliency", "spectral", "--size", "8", "-o", str(tmp_path / "out.png")])


def test_draw_mixed_is_a_grid_with_label_weights():
    images, partner = torch.rand(5, 4, 6, 8), torch.tensor([4, 3, 2, 1, 0])
    lam = torch.tensor([0.75, 1.0, 0.5, 0.5, 0.25])
    plan = MixPlan.of_pairs(partner, lam.view(-1, 1, 1, 1).expand(-1, 1, 6, 8), lam)
    axes = visualize.draw_mixed(images, plan, ["a", "b", "c", "d", "e"], most=4).axes
    assert [axis.get_xlabel() for axis in axes] == ["a 0.75, e 0.25", "b 1.00", "c 1.00", "d 0.50, b 0.50"]
    (first, *_) = visualize.draw_mixed(images, plan, list("abcde"), mixers=["CutMix"] * 5).axes
    assert first.get_xlabel() == "CutMix\na 0.75, e 0.25"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "IMAGES_OR_FOLDER must exist, got 'nowhere'"),
        (["picture0.png"], "at least 2 images are needed to mix, got 1"),
        ([".", "--saliency-checkpoint", "nowhere.pth"], "--saliency-checkpoint must be an existing file"),
        (["text"], "text"),
        ([".", "--lam", "1.5"], "--lam must lie in"),
        ([".", "--count", "1"], "--count must be at least 2"),
        ([".", "--size", "0"], "error: --size must be at least 1"),
        ([".", "--saliency-size", "0"], "error: --saliency-size must be at least"),
        ([".", "--mixer", "sage", "mixup", "--mixer-kwargs", "lam_max=1"], "must be of one method"),
        ([".", "--mixer-kwargs", "nonsense=1"], "sage has lam_max, search_fraction, got nonsense"),
        ([".", "--mixer-kwargs", "lam_max=1"], "lam_max must be given by --sage-lam-max"),
        ([".", "-o", "picture0.png/x.png"], "picture0.png"),
    ],
)
def test_visualize_errors_are_one_line(arguments, message, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    (pictures / "text").mkdir()
    for name in ("a.png", "b.png"):
        (pictures / "text" / name).write_text("no picture")
    if "text" not in arguments:
        shutil.rmtree(pictures / "text")
    with pytest.raises(SystemExit) as caught:
        command.main([*arguments, *(["--saliency", "spectral"] if "--saliency-checkpoint" not in arguments else [])])
    assert str(caught.value).startswith("error: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_visualize_with_a_checkpoint_in_colour_and_grey(pictures, checkpoint):
    import timm

    target = str(pictures / "figure.pdf")
    command.main([str(pictures), "--size", "32", "--saliency-checkpoint", checkpoint, "-o", target])
    grey = timm.create_model("test_resnet", num_classes=4, in_chans=1)
    torch.save({"arch": "test_resnet", "state_dict": grey.state_dict()}, pictures / "grey.pth")
    for path in pictures.glob("*.png"):
        with Image.open(path) as picture:
            picture.convert("L").save(path)
    command.main([str(pictures), "--size", "32", "--saliency-checkpoint", str(pictures / "grey.pth"), "-o", target])
    assert Path(target).stat().st_size > 1000


def blocks_of(plans):
    """How often the masks change from one row of pixels to the next, at most."""
    return max((plan.mask.diff(dim=-2) != 0).any(-1).sum(-1).max() for plan in plans.values()).reshape(1)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--saliency-floor", "0"], lambda images, saliency, plans: saliency),
        (["--saliency-size", "16"], lambda images, saliency, plans: saliency),
        (["--saliency-blur", "0.3"], lambda images, saliency, plans: saliency),
        (["--saliency-grid", "4"], lambda images, saliency, plans: saliency),
        (["--sage-lam-max", "0.9"], lambda images, saliency, plans: plans["sage"].mask),
        (["--mixer", "comixup", "--mixer-kwargs", "block_num=2"], lambda images, saliency, plans: blocks_of(plans)),
        (["--lam", "0.2"], lambda images, saliency, plans: plans["sage"].mask),
        (["--count", "2"], lambda images, saliency, plans: images),
        (["--size", "24"], lambda images, saliency, plans: images),
        (["--saliency", "gradient"], lambda images, saliency, plans: saliency),
        (["--mixer", "mixup"], lambda images, saliency, plans: next(iter(plans.values())).mask),
    ],
)
def test_every_flag_of_visualize_shows_in_the_picture(flags, changed, pictures, monkeypatch, checkpoint):
    drawn, draw = [], command.draw_plans
    monkeypatch.setattr(command, "draw_plans", lambda *a: drawn.append(changed(*a[:3])) or draw(*a))
    fixed = ["--size", "32", "--saliency-checkpoint", checkpoint, "-o", str(pictures / "out.pdf")]
    command.main([str(pictures), *fixed])
    command.main([str(pictures), *fixed, *flags])
    assert drawn[0].shape != drawn[1].shape or not torch.allclose(drawn[0].float(), drawn[1].float(), rtol=1e-2)


def test_the_seed_of_visualize_decides_what_methods_draw(pictures, monkeypatch):
    drawn, draw = [], command.draw_plans
    monkeypatch.setattr(command, "draw_plans", lambda *a: drawn.append(a[2]["cutmix"].mask) or draw(*a))
    fixed = ["--size", "32", "--saliency", "spectral", "--mixer", "cutmix", "-o", str(pictures / "out.pdf")]
    for seed in ("3", "3", "4"):
        command.main([str(pictures), *fixed, "--seed", seed])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.slow
def test_compare_measures_every_method(pictures, tmp_path):
    arguments = ["--data-dir", pictures, "--batch-size", "3", "--size", "24", "--batches", "2", "--repeats", "1"]
    arguments += ["--saliency", "spectral", "--saliency-size", "16"]
    run = subprocess.run(
        [sys.executable, "-m", "scripts.bench.compare", *arguments, "--json", tmp_path / "figures.json"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-1000:]
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [row["method"] for row in results] == list(METHODS)
    assert run.stdout.count("\n| ") == 1 + len(METHODS)
    for row in results:
        assert 0 <= row["own"] <= 1 and 0 <= row["lam"] <= 1 and row["ms"][0] > 0
    mixup = results[1]
    assert mixup["own"] + mixup["partner"] == pytest.approx(1, abs=1e-3)
    assert mixup["own"] == pytest.approx(mixup["lam"], abs=1e-3)


def test_saliency_is_told_the_images_are_not_normalised(pictures, tiny_model, monkeypatch, checkpoint):
    seen = []
    monkeypatch.setattr(command, "create_saliency", lambda *a, **k: seen.append(k) or create_saliency(*a, **k))
    arguments = ["--size", "32", "--saliency-checkpoint", checkpoint, "-o", str(pictures / "f.png")]
    command.main([str(pictures), *arguments])
    assert seen[0]["mean"] == (0.0, 0.0, 0.0) and seen[0]["std"] == (1.0, 1.0, 1.0)
