"""What the launcher's tests share: scripts, flags, processes, and the count of mixed rows."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"
TRAIN = Path(__file__).parent.parent.parent / "scripts" / "train.py"
RUN = ["--model", "test_resnet", "--num-classes", "3", "--input-size", "3", "24", "24", "--device", "cpu", "--no-aug"]
RUN += ["-b", "8", "-j", "0", "--epochs", "1", "--warmup-epochs", "0", "--lr", "0.01"]
SAGE = ("--mixup", "1.0", "--sage", "--saliency", "spectral")


def mixed_rows(target, smoothing=0.1):
    """Count rows with more than one class over the smoothing floor."""
    return ((target > smoothing / target.shape[1] + 1e-4).sum(1) > 1).sum().item()


def python(*argv, cwd):
    """Run Python in a process of its own, on the CPU, with one thread."""
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
