"""Many calls with changing batch and image sizes: memory and time stay flat.

`python -m pytest -s -m slow tests/surfaces/test_long_run.py --calls 10000` is the long one.
"""

import array
import ctypes
import gc
import os
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch

from sage_timm import SageMixup, create_saliency


def memory():
    """Return the bytes of Python's objects and of the process, once free pieces are given back, and the tensors."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return tracemalloc.get_traced_memory()[0], resident, sum(type(thing) is torch.Tensor for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_time_stay_flat(tiny_model, request):
    calls = request.config.getoption("--calls")
    saliency = create_saliency("gradient", model=tiny_model, size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    mixup = SageMixup(cutmix_alpha=1.0, mode="elem", num_classes=5, saliency=saliency)
    generator = torch.Generator().manual_seed(0)
    thirds, marks = [array.array("d") for _ in range(3)], []
    tracemalloc.start()
    try:
        for third in thirds:
            for _ in range(calls // 3):
                batch, height, width = (torch.randint(2, high, (), generator=generator).item() for high in (17, 48, 48))
                images, target = torch.randn(batch, 3, height, width), torch.arange(batch) % 5
                start = time.process_time()
                mixup(images, target)
                third.append((time.process_time() - start) / batch)
            del images, target
            marks.append(memory())
    finally:
        tracemalloc.stop()
    per_image = [statistics.median(third) for third in thirds]
    print(
        f"{calls} calls; after each third: Python's memory {[f'{m[0] / 2**10:.0f} KiB' for m in marks]}, "
        f"the process {[f'{m[1] / 2**20:.0f} MiB' for m in marks]}, tensors {[m[2] for m in marks]}, "
        f"median time per image {[f'{t * 1e6:.0f} us' for t in per_image]}"
    )
    kept = (marks[2][0] - marks[1][0]) / (calls // 3)
    assert kept < 512, f"{kept:.0f} bytes of Python's memory are kept at each call"
    assert marks[2][1] - marks[1][1] < 20 * 2**20
    assert marks[2][2] <= marks[1][2] + 2
    assert per_image[2] < 2 * per_image[1]
