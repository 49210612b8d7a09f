"""Processes of their own: exit codes and tracebacks, workers of every start method, two ranks under torchrun."""

import pytest
import torch
from launcher.tools import RUN, SCRIPTS, TRAIN, python

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("how", ["exit", "fail"])
def test_exit_codes_tracebacks_and_main_are_the_scripts_own(how, tmp_path):
    for name in ("ends.py", "helper_module.py"):
        (tmp_path / "inner").mkdir(exist_ok=True)
        (tmp_path / "inner" / name).write_text((SCRIPTS / name).read_text())
    direct = python(tmp_path / "inner" / "ends.py", how, cwd=tmp_path)
    launched = python("-m", "sage_timm", "inner/ends.py", how, cwd=tmp_path)
    assert direct.returncode == launched.returncode == {"exit": 7, "fail": 1}[how]
    assert launched.stdout.splitlines() == direct.stdout.splitlines()
    assert launched.stderr.endswith(direct.stderr.partition("(most recent call last):")[2])


def test_an_error_of_ours_is_one_line_in_terms_of_flags(image_folder, tmp_path):
    flags = ("--mixup", "1.0", "--sage", "--saliency", "spectral", "--num-classes", "2", "--output", str(tmp_path))
    result = python("-m", "sage_timm", TRAIN, "--data-dir", image_folder, *RUN, *flags, cwd=tmp_path)
    ours = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert ours == ["sage_timm: error: `target` must hold labels in [0, 1], got 2; check --num-classes"]


@pytest.mark.parametrize(
    ("start", "flags"),
    [*[(start, []) for start in ("fork", "forkserver")], *[(start, ["--prefetcher"]) for start in ("fork", "spawn")]],
)
def test_workers_of_every_start_method(start, flags, tmp_path):
    sage = ("--sage", "--saliency", "spectral")
    result = python("-m", "sage_timm", SCRIPTS / "workers.py", "--start", start, *flags, *sage, cwd=tmp_path)
    assert result.stdout.split() == ["BATCHES", "10", "MIXED", "True"], result.stderr
    assert result.stderr.count("sage_timm: SAGE") == 1


@pytest.mark.parametrize("by", ["popen", "exec", "spawn"])
def test_ranks_that_the_script_starts_itself_mix_as_it_does(by, tmp_path):
    flags = ("--by", by, "--sage", "--saliency", "spectral", "--mixer-kwargs", "lam_max=0.7")
    result = python("-m", "sage_timm", SCRIPTS / "starts_ranks.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == ["RANK0 SessionMixup", "RANK1 SessionMixup"]
    assert "SAGE(lam_max=0.7" in result.stderr
    if by != "exec":
        count = 2 if by == "popen" else 4  # those spawned count with their parent
        assert f"{count} of {count} batches were mixed, {count} of them by --sage" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("by", "line"),
    [
        ("shell", "--sage does not reach a process that the script starts by a shell; use torchrun -m sage_timm"),
        ("sbatch", "--sage does not reach a job that the script submits; put SageMixup or SageMix into the script"),
        ("submitit", "--sage does not reach a job that the script submits; put SageMixup or SageMix into the script"),
    ],
)
def test_ranks_that_cannot_be_reached_end_the_run_before_it_trains(by, line, tmp_path):
    flags = ("--by", by, "--sage", "--saliency", "spectral")
    result = python("-m", "sage_timm", SCRIPTS / "starts_ranks.py", *flags, cwd=tmp_path)
    assert result.returncode == 2 and not result.stdout and line in result.stderr


RANKS = """
import sys, numpy as np, torch, torch.distributed as dist
from sage_timm import SageMixup

dist.init_process_group("gloo")
np.random.seed(dist.get_rank())
mixup = SageMixup(cutmix_alpha=1.0, prob=0.8, mode=sys.argv[1], num_classes=3, saliency="spectral")
draws, log = [], [None, None]
for _ in range(300):
    drawn = mixup._draw(torch.Size((4, 3, 32, 32)))
    draws.append((drawn.by_method.any(), drawn.by_cutmix.any(), drawn.lam[0].item()))
dist.all_gather_object(log, draws)
if dist.get_rank() == 0:
    torch.save([torch.tensor(draws) for draws in log], "draws.pth")
dist.barrier()
dist.destroy_process_group()
"""


def test_two_ranks_agree_on_who_mixes_a_batch_not_on_how(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "ranks.py")
    assert python(*launch, "batch", cwd=tmp_path).returncode == 0
    first, second = torch.load(tmp_path / "draws.pth")
    assert torch.equal(first[:, :2], second[:, :2])
    assert 0.33 < (first[:, 0] + second[:, 0] > 0).float().mean() < 0.47, "40 % of the steps wait for saliency"
    mixed = first[:, :2].any(1)
    assert (first[mixed, 2] == second[mixed, 2]).float().mean() < 0.1
    assert python(*launch, "elem", cwd=tmp_path).returncode == 0
    first, second = torch.load(tmp_path / "draws.pth")
    assert not torch.equal(first[:, :2], second[:, :2]) and first[:, 0].mean() > 0.8


# scripts/train.py with a look at what each rank does: its targets, its draws, its weights at the end
SPY = f"""
import os, runpy
import timm.loss, timm.models, torch
from sage_timm import MethodMixup

rank, log = int(os.environ["RANK"]), {{"targets": [], "drawn": []}}
forward, create, draw = timm.loss.SoftTargetCrossEntropy.forward, timm.models.create_model, MethodMixup._draw_ratios

def noted_draw(self, count):
    drawn = draw(self, count)
    log["drawn"] += drawn[1].tolist()
    return drawn

def noted_forward(self, x, target):
    log["targets"].append(target)
    return forward(self, x, target)

def noted_create(*args, **kwargs):
    log["model"] = create(*args, **kwargs)
    return log["model"]

timm.loss.SoftTargetCrossEntropy.forward = noted_forward
timm.models.create_model = noted_create
MethodMixup._draw_ratios = noted_draw
runpy.run_path({str(TRAIN)!r}, run_name="__main__")
log["model"] = log["model"].state_dict()
torch.save(log, f"rank{{rank}}.pth")
"""


def test_two_ranks_train_one_model_on_different_mixes(image_folder, tmp_path, checkpoint):
    flags = ["--mixup", "1", "--sage", "--saliency-checkpoint", checkpoint, "--save-mixed", "1"]
    (tmp_path / "spy.py").write_text(SPY)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sage_timm", "spy.py")
    run = (*RUN, "-b", "4", "--epochs", "2", "--experiment", "run", "--data-dir", image_folder, "--output", tmp_path)
    result = python(*launch, *run, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    for words in ("sage_timm: SAGE", "sage_timm: first batch", "images of a mixed batch, under each"):
        assert result.stderr.count(words) == 1, words
    assert [path.name for path in (tmp_path / "run" / "mixed").iterdir()] == ["mixed-001.png"]
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1))
    assert all(torch.equal(first["model"][key], second["model"][key]) for key in first["model"] if "running" not in key)
    assert len(first["drawn"]) == len(second["drawn"]) == 6 and not set(first["drawn"]) & set(second["drawn"])
    for rank in (first, second):
        assert ((torch.cat(rank["targets"]) > 0.04).sum(1) > 1).any()
