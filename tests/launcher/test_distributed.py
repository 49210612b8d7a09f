"""Two processes over gloo on the CPU, started by torchrun, with and without a rank that dies."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

TRAIN = Path(__file__).parent.parent.parent / "scripts" / "train.py"

# scripts/train.py with a look at what each rank does: its targets, its weights at the end, when it loaded its saliency
SPY = f"""
import os, runpy, sys, time
import timm.loss, timm.models, torch
from sage_timm import MethodMixup
from sage_timm.launcher import session

rank, log = int(os.environ["RANK"]), {{"targets": [], "loaded": [], "drawn": []}}
forward, create, load = timm.loss.SoftTargetCrossEntropy.forward, timm.models.create_model, session.create_saliency
draw = MethodMixup._draw_ratios

def noted_draw(self, count):
    drawn = draw(self, count)
    log["drawn"] += drawn[1].tolist()
    return drawn

def noted_forward(self, x, target):
    log["targets"].append(target)
    if os.environ.get("DIES") == str(rank) and len(log["targets"]) == 2:
        raise ArithmeticError(f"rank {{rank}} dies")
    return forward(self, x, target)

def noted_create(*args, **kwargs):
    log["model"] = create(*args, **kwargs)
    return log["model"]

def noted_load(*args, **kwargs):
    log["loaded"].append(time.monotonic())
    time.sleep(0.5 if rank == 0 else 0)
    source = load(*args, **kwargs)
    log["loaded"].append(time.monotonic())
    return source

timm.loss.SoftTargetCrossEntropy.forward = noted_forward
timm.models.create_model = noted_create
session.create_saliency = noted_load
MethodMixup._draw_ratios = noted_draw
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
log["model"] = log["model"].state_dict()
torch.save(log, f"rank{{rank}}.pth")
"""


def torchrun(folder, image_folder, *argv, **environment):
    (folder / "spy.py").write_text(textwrap.dedent(SPY))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "sage_timm",
    ]
    command += ["spy.py", "--data-dir", image_folder, "--model", "test_resnet", "--num-classes", "3", "--no-aug"]
    command += ["--input-size", "3", "24", "24", "-b", "4", "-j", "0", "--epochs", "2", "--warmup-epochs", "0"]
    command += ["--lr", "0.01", "--device", "cpu", "--output", folder, "--experiment", "run", *argv]
    threads = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **threads, **environment},
    )


def test_two_ranks_train_one_model_on_different_mixes(image_folder, tmp_path, checkpoint):
    flags = ["--mixup", "1", "--sage", "--saliency-checkpoint", checkpoint, "--save-mixed", "1"]
    result = torchrun(tmp_path, image_folder, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    for words in ("sage_timm: SAGE", "sage_timm: first batch", "a mixed batch, each image"):
        assert result.stderr.count(words) == 1, words
    assert [path.name for path in (tmp_path / "mixed").iterdir()] == ["mixed-001.png"]
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1))
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"] if "running" not in key)
    assert len(first["drawn"]) == len(second["drawn"]) == 6 and not set(first["drawn"]) & set(second["drawn"])
    for rank in (first, second):
        assert ((torch.cat(rank["targets"]) > 0.04).sum(1) > 1).any()
    assert first["loaded"][1] <= second["loaded"][0], "the second rank waits until the first has its weights"


def test_a_rank_that_dies_ends_the_run_with_its_error(image_folder, tmp_path):
    flags = ["--mixup", "1", "--sage", "--saliency", "spectral", "--no-prefetcher"]
    result = torchrun(tmp_path, image_folder, *flags, DIES="1")
    assert result.returncode != 0 and "ArithmeticError: rank 1 dies" in result.stderr
    assert not list(tmp_path.glob("rank*.pth")) and not list((tmp_path / "run").glob("*.pth.tar"))
