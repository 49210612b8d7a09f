"""The random generators that mixes are drawn from: NumPy's and torch's global ones, as in timm."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

Function = TypeVar("Function", bound=Callable)


def generator_state() -> dict:
    """Return the state of the generators, in types that `torch.load` reads as plain weights.

    That of NumPy's generator (MT19937), of torch's on the CPU and, where CUDA is in use, on the current device.
    """
    legacy: Any = np.random.get_state()
    name, keys, *rest = legacy
    state = {"numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest), "torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_generator_state(state: dict) -> None:
    """Set the generators to what `generator_state` returned; ValueError, and nothing set, where it does not fit."""
    if not _fits(state):
        raise ValueError(f"`state` must be what state_dict() returned, got {str(state)[:50]!r}")
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _fits(state: Any) -> bool:
    """Whether all of a state can be set; NumPy itself crashes on a position outside its keys."""
    try:
        name, keys, position, has_gauss, gauss = state["numpy"]
        good = name == "MT19937" and keys.dtype == torch.int64 and keys.shape == (624,) and 0 <= position <= 624
        good = good and keys.min() >= 0 and keys.max() < 2**32 and has_gauss in (0, 1) and isinstance(gauss, float)
        now = torch.get_rng_state()
        return good and state["torch"].dtype == now.dtype and state["torch"].shape == now.shape
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def eager(function: Function) -> Function:
    """Run a function without gradients and outside `torch.compile`, which would draw from other generators."""
    return torch.compiler.disable(torch.no_grad()(function))
