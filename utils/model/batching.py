"""Batches: planned from the whole list, so that a resumed run meets the same ones, padded, and halved
when memory ends.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")
Answer = TypeVar("Answer")


def plan_batches(
    lengths: Sequence[int],
    *,
    max_tokens: int | None = None,
    max_rows: int | None = None,
    rows: str = "padded",
) -> list[list[int]]:
    """Group row indices, longest first, so that no batch exceeds `max_tokens` with its padding or
    `max_rows`; a batch has at least one row.

    Longest first: if memory does not suffice, it shows in the first batch and not in the last.

    Args:
        rows: Which rows may share a batch: "padded" (any), "equal" (of one length) or "single" (none).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    width = 0

    for i in order:
        last = batches[-1] if batches else None
        is_full = (
            last is None
            or (max_rows and len(last) >= max_rows)
            or (max_tokens and (len(last) + 1) * width > max_tokens)
            or (rows == "equal" and lengths[i] < width)
            or rows == "single"
        )
        if is_full:
            batches.append([i])
            width = lengths[i]
        else:
            batches[-1].append(i)

    return batches


def pad_left(sequences: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask [batch, width]; padded on the left, so that the last column is every row's last
    token.
    """
    width = max(len(s) for s in sequences)
    ids = torch.tensor([[pad] * (width - len(s)) + s for s in sequences])
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences])
    return ids, mask


def halve_on_oom(run: Callable[[Sequence[Row]], list[Answer]], rows: Sequence[Row]) -> list[Answer]:
    """Run a batch; when memory runs out, run its halves. What belongs to a row must travel inside the row."""
    try:
        return run(rows)
    except RuntimeError as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise

    free_memory()
    middle = len(rows) // 2
    return halve_on_oom(run, rows[:middle]) + halve_on_oom(run, rows[middle:])


def free_memory() -> None:
    """Give freed GPU memory back to the driver."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell an exhausted GPU or CPU allocator from other runtime errors."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )
