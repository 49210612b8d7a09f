"""CUDA graphs: work that repeats on a GPU, launched at once instead of operation by operation."""

import warnings
from collections.abc import Callable, Hashable

import torch

from .checks import first_line

RECORD_AT = 3  # the call that is recorded: those before it warm up, and what is rare never comes so far
REPLAY_ERROR = 0.05  # of a replay, as a share of the largest value; half precision errs by less
RECORDINGS = 2  # at most, since each holds all memory that comes and goes in a call

Tensors = tuple[torch.Tensor, ...]


class CudaGraphs:
    """Runs functions of tensors as CUDA graphs where the same shapes come again.

    A small model or a search is hundreds of short operations, which the host launches more slowly than a GPU runs them;
    a recorded graph is one launch. A function must depend on nothing but its inputs, the `key`, and tensors that stay
    at their addresses, and must ask for no value. One that can't be recorded runs as it is, after a warning, and so
    does everything off a GPU.
    """

    def __init__(self) -> None:
        self._calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[torch.Tensor | None], Tensors]] = {}
        self._refused = False

    def __reduce__(self):
        return type(self), ()  # a copy, or another process, records its own

    def __call__(
        self,
        function: Callable[..., Tensors],
        first: torch.Tensor,
        *others: torch.Tensor | None,
        weights: torch.Tensor | None = None,
        key: Hashable = None,
    ) -> Tensors:
        """Run a function.

        Args:
            function: takes the inputs and returns a tuple of tensors.
            first: an input; its device counts.
            *others: the other inputs.
            weights: one of the tensors that the function reads where they are; replaced ones have another address.
            key: what else the function depends on.
        """
        inputs = first, *others
        if (
            self._refused
            or not (first.is_cuda and torch.cuda.is_initialized())
            or torch.cuda.is_current_stream_capturing()
        ):
            return function(*inputs)
        address = weights if weights is None else weights.data_ptr()
        key = key, address, *(None if x is None else (x.shape, x.stride(), x.dtype, x.device) for x in inputs)
        if key not in self._recordings:
            if len(self._recordings) == RECORDINGS:
                return function(*inputs)
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] != RECORD_AT:
                return function(*inputs)
            given = [None if x is None else x.detach().clone() for x in inputs]  # a model may write into its input
            results = function(*inputs)
            try:
                self._recordings[key] = self._record(function, given, results)
            except RuntimeError as error:
                self._refused = True
                warnings.warn(
                    f"recording a CUDA graph failed ({first_line(error)}); without one a call is slower, and the same "
                    "otherwise",
                    stacklevel=2,
                )
            return results
        graph, places, results = self._recordings[key]
        self._replay(graph, places, inputs)
        return tuple(result.clone() for result in results)

    @staticmethod
    @torch.no_grad()
    def _replay(graph, places, inputs):
        for place, x in zip(places, inputs, strict=True):
            if place is not None:
                place.copy_(x)
        graph.replay()

    def _record(self, function, inputs, expected):
        """Record the function, and see that a replay returns what is expected of the inputs."""
        places = [None if x is None else x.clone() for x in inputs]
        device, graph = inputs[0].device, torch.cuda.CUDAGraph()
        # The device need not be the current one, and other threads, of a DataLoader or of NCCL, may use it meanwhile.
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                results = function(*places)
        for result in results:
            result.zero_()
        self._replay(graph, places, inputs)
        for result, other in zip(results, expected, strict=True):
            error = REPLAY_ERROR * float(other.abs().nan_to_num().max())
            if not torch.allclose(result, other, rtol=0, atol=error, equal_nan=True):
                raise RuntimeError("a replay computed something else")
        return graph, places, results
