"""A repeated step as a CUDA graph: warmed up, captured, put on trial against the eager step, and left
aside when anything is amiss.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from traitscope.utils.errors import first_line
from traitscope.utils.model.batching import free_memory, is_out_of_memory
from traitscope.utils.model.hooks import SteerCheck

CHECKED = (
    2  # steps that a graph takes on trial: the second tells whether anything of the first was frozen into it
)
NEAR = 0.05  # of the norm of what a row's trial wrote; kernels may round differently


class Steps(Protocol):
    """What can be captured: a step that changes nothing but tensors, in place."""

    @property
    def counters(self) -> list[Tensor]:
        """Whole numbers and truth values that a step changes; they must come out the same."""

    @property
    def states(self) -> list[Tensor]:
        """Other numbers that a step changes, [batch, …]."""

    def written(self, count: int) -> list[Tensor]:
        """Return the parts of `states` that the last `count` steps wrote."""

    def step(self) -> None:
        """Take one step."""


class Replay:
    """One step as a CUDA graph, captured on a side stream and replayed on the current one. Nothing else
    here needs a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream, self.graph = _side_stream(device), torch.cuda.CUDAGraph()

    def warm_up(self, step: Callable[[], None]) -> None:
        """Take two real steps where the capture will be, so that libraries set themselves up there; the
        second may not wait for the GPU.

        Raises:
            RuntimeError: it would, and so cannot be captured; it breaks off where it would.
        """
        current, mode = torch.cuda.current_stream(self.stream.device), torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(current)

        try:
            # that the mode is a prototype
            with torch.cuda.stream(self.stream), warnings.catch_warnings(action="ignore"):
                step()
                torch.cuda.set_sync_debug_mode("error")
                step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            current.wait_stream(self.stream)

    def capture(self, step: Callable[[], None]) -> None:
        """Record a step without taking it."""
        # the outer `with` puts the current stream back when a capture fails, which `graph` does not
        with (
            torch.cuda.stream(self.stream),
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            step()

    def __call__(self) -> None:
        self.graph.replay()

    def close(self) -> None:
        """Give the graph's memory back."""
        self.graph.reset()
        free_memory()


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    # one for all batches: matrix libraries keep a workspace for every stream they have met
    return torch.cuda.Stream(device)


def capture(work: Steps, replay: Replay, check: SteerCheck) -> str:
    """Warm a graph up, capture it and try it, which takes a few real steps; return what speaks against
    it, or nothing.

    Whatever happens, the steps taken so far are eager ones, and the next may be taken eagerly.
    """
    try:
        with check.forgiving():
            replay.warm_up(work.step)
            replay.capture(work.step)
        return "" if _agrees(work, replay) else "its graph computes something else"
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return first_line(error)


def _agrees(work: Steps, replay: Replay) -> bool:
    """Take steps by the graph, take them back, take them again eagerly, and tell whether both wrote the
    same.
    """
    ours = [*work.counters, *work.states]
    others = [t.clone() for t in ours]

    try:
        for _ in range(CHECKED):
            replay()
    finally:
        for our, other in zip(ours, others, strict=True):
            _swap(our, other)

    for _ in range(CHECKED):
        work.step()
    n = len(work.counters)
    is_same = all(map(torch.equal, ours[:n], others[:n]))
    return is_same and all(map(_is_near, ours[n:], others[n:], work.written(CHECKED)))


def _swap(a: Tensor, b: Tensor) -> None:
    """Exchange contents; neither moves."""
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def _is_near(wanted: Tensor, found: Tensor, written: Tensor) -> bool:
    """Tell whether no row differs by more than a share of the norm of what was written."""
    # a row that is steered too hard overflows, and does so both ways
    difference = wanted.nan_to_num() - found.nan_to_num()
    return bool((_norms(difference) <= NEAR * _norms(written.nan_to_num())).all())


def _norms(states: Tensor) -> Tensor:
    return states.flatten(1).norm(dim=1, dtype=torch.float32)
