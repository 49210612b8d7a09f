"""What is recorded and when, by stand-ins; what recordings compute is tested on a GPU, in test_cuda.py."""

import copy
import pickle
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sage_timm.graphs import RECORD_AT, RECORDINGS, CudaGraphs


class Recorder:
    """Stands in for torch.cuda.CUDAGraph: a replay repeats the recorded operations, in place."""

    made, replays = 0, 0

    def __init__(self):
        Recorder.made += 1
        self.operations = []

    def replay(self):
        Recorder.replays += 1
        for function, args, kwargs, results in self.operations:
            for result, again in zip(results, tree_leaves(function(*args, **kwargs)), strict=True):
                result.copy_(again)


class Operations(TorchDispatchMode):
    def __init__(self, operations):
        super().__init__()
        self.operations = operations

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, tree_leaves(results)))
        return results


@pytest.fixture
def recorder(monkeypatch):
    @contextmanager
    def recording(graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local" and stream == "a stream of cpu"
        with Operations(graph.operations):
            yield

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(Recorder, "made", 0)
    monkeypatch.setattr(Recorder, "replays", 0)
    return Recorder


class OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


def doubled(x, y=None):
    return (2 * x,)


def batch(size):
    return torch.rand(size, 3).as_subclass(OnCuda)


def test_a_shape_is_recorded_when_it_has_come_often_enough(recorder):
    graphs, kept = CudaGraphs(), []
    for call in range(1, 7):
        x = batch(8)
        kept.append((x, *graphs(doubled, x, None)))
        assert recorder.made == (call >= RECORD_AT)
    assert recorder.replays == 7 - RECORD_AT, "one of them to see that it computes the same"
    assert all(torch.equal(result, 2 * x) for x, result in kept), "no replay writes into an earlier result"


def test_a_function_may_write_into_its_input(recorder):
    def writes(x):
        return (x.mul_(3) + 1,)

    graphs = CudaGraphs()
    for _ in range(6):
        x = batch(4)
        expected = 3 * x + 1
        assert torch.allclose(graphs(writes, x)[0], expected)
    assert recorder.made == 1 and not graphs._refused


def test_work_that_escapes_the_recording_is_noticed(recorder, monkeypatch):
    """Such as that on another device than the one recorded."""
    monkeypatch.setattr(recorder, "replay", lambda self: None)
    graphs = CudaGraphs()
    for _ in range(RECORD_AT - 1):
        graphs(doubled, batch(4))
    with pytest.warns(UserWarning, match="a replay computed something else"):
        graphs(doubled, batch(4))
    x = batch(4)
    assert torch.equal(graphs(doubled, x)[0], 2 * x)


def test_a_recording_that_computes_something_else_is_not_replayed(recorder):
    numbers = iter(range(1, 10))
    graphs = CudaGraphs()

    def changes(x):
        return (next(numbers) * x,)

    for _ in range(RECORD_AT - 1):
        graphs(changes, batch(4))
    with pytest.warns(UserWarning, match="a replay computed something else"):
        graphs(changes, batch(4))
    x = batch(4)
    assert torch.equal(graphs(changes, x)[0], (RECORD_AT + 2) * x)


def test_what_else_it_depends_on_is_another_recording(recorder):
    graphs = CudaGraphs()
    first, second = torch.zeros(2), torch.zeros(2)
    for settings in ({"weights": first}, {"weights": second}, {"weights": first, "key": "b"}):
        for _ in range(RECORD_AT - 1):
            graphs(doubled, batch(8), **settings)
    assert recorder.made == 0 and len(graphs._calls) == 3


def test_no_more_than_the_limit_is_recorded(recorder):
    graphs = CudaGraphs()
    for size in range(2, 6):
        for _ in range(RECORD_AT + 1):
            graphs(doubled, batch(size))
    assert recorder.made == RECORDINGS and recorder.replays == 2 * RECORDINGS


def test_what_cannot_be_recorded_runs_as_it_is_after_one_warning(recorder):
    def fails(x):
        if recorder.made:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (x,)

    graphs = CudaGraphs()
    for _ in range(RECORD_AT - 1):
        graphs(fails, batch(4))
    with pytest.warns(UserWarning, match=r"failed \(RuntimeError: operation not permitted"):
        graphs(fails, batch(4))
    recorder.made = 0
    for _ in range(RECORD_AT):
        graphs(doubled, batch(5))
    assert recorder.replays == recorder.made == 0


def test_off_a_gpu_nothing_is_recorded():
    graphs = CudaGraphs()
    for _ in range(5):
        assert torch.equal(graphs(doubled, torch.ones(2))[0], torch.full((2,), 2.0))
    assert not graphs._calls


def test_within_another_recording_nothing_is_recorded(recorder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    graphs = CudaGraphs()
    for _ in range(5):
        graphs(doubled, batch(4))
    assert recorder.made == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda graphs: pickle.loads(pickle.dumps(graphs))])
def test_copies_record_their_own(copied, recorder):
    graphs = CudaGraphs()
    for _ in range(RECORD_AT):
        graphs(doubled, batch(4))
    other = copied(graphs)
    assert graphs._recordings and not other._recordings and not other._calls
