"""Honest timing and memory of calls, and the name of the machine they ran on."""

import ctypes
import os
import platform
import threading
import time
from pathlib import Path

import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

MIB = 2**20


def machine(device):
    """Name the device, its threads and the versions of torch and timm."""
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor() or platform.machine()} CPU"
    )
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}"


class Operations(TorchDispatchMode):
    """Counts the operations that a block calls, views apart: on a GPU each is a launch or more."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        views = (r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        view = any(views) or function is torch.ops.aten._unsafe_view.default
        self.count += function.namespace == "aten" and not view
        return function(*args, **(kwargs or {}))


def operations(function):
    """Count the operations of a call, views apart."""
    with Operations() as mode:
        function()
    return mode.count


def clock(device):
    """Seconds: wall clock on a GPU; on a CPU those of this process over all threads, whatever else the machine does."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(functions, device, repeats, calls=1):
    """Time the named functions in turn, after two rounds to warm up: a tensor [repeats] of ms for each name.

    One time is that of `calls` calls in a row, divided by them; a GPU may be busy with one when the next begins.
    """
    times = {name: [] for name in functions}
    for repeat in range(repeats + 2):
        for name, function in functions.items():
            start = clock(device)
            for _ in range(calls):
                function()
            seconds = clock(device) - start
            if repeat >= 2:
                times[name].append(1000 * seconds / calls)
    return {name: torch.tensor(each) for name, each in times.items()}


def spread(times):
    """Return the median, the 10th and the 90th percentile."""
    return times.quantile(torch.tensor([0.5, 0.1, 0.9])).tolist()


def peak_memory(function, device):
    """Measure the memory in MiB that a call takes beyond what stood before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    page, done, peak = os.sysconf("SC_PAGE_SIZE"), threading.Event(), 0

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.001)

    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have freed goes back to the system, so that growth shows
    before, watcher = resident(), threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return max(0, peak - before) / MIB
