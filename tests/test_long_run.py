"""Many calls with changing batch and image sizes: memory and time stay flat.

`python -m pytest -s tests/test_long_run.py --calls 10000` is the long one.
"""

import gc
import resource
import statistics
import time
import tracemalloc

import torch

from sage_timm import SageMixup, create_saliency


def tensors():
    gc.collect()
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())


def test_memory_and_time_stay_flat(tiny_model, request):
    calls = request.config.getoption("--calls")
    saliency = create_saliency("gradient", model=tiny_model, size=32)
    mixup = SageMixup(cutmix_alpha=1.0, mode="elem", num_classes=5, saliency=saliency)
    generator = torch.Generator().manual_seed(0)
    thirds = [[], [], []]
    marks = []
    tracemalloc.start()
    try:
        for third in thirds:
            for _ in range(calls // 3):
                batch, height, width = torch.randint(2, 48, (3,), generator=generator).tolist()
                images, target = torch.randn(batch, 3, height, width), torch.arange(batch) % 5
                start = time.process_time()
                mixup(images, target)
                third.append((time.process_time() - start) / batch)
            del images, target
            traced, _ = tracemalloc.get_traced_memory()
            marks.append((traced, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, tensors()))
    finally:
        tracemalloc.stop()
    per_image = [statistics.median(third) for third in thirds]
    print(
        f"{calls} calls; after each third: Python's memory {[f'{m[0] / 2**10:.0f} KiB' for m in marks]}, "
        f"peak of the process {[f'{m[1] / 2**20:.0f} MiB' for m in marks]}, tensors {[m[2] for m in marks]}, "
        f"median time per image {[f'{t * 1e6:.0f} us' for t in per_image]}"
    )
    assert marks[2][0] - marks[1][0] < 100 * 2**10
    assert marks[2][1] - marks[1][1] < 50 * 2**20
    assert marks[2][2] <= marks[1][2] + 2
    assert per_image[2] < 1.5 * per_image[1]
