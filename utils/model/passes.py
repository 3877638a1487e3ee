"""Forward passes over known token ids: batches of similar lengths, padded on the right, whose common
beginning is computed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from traitscope.utils.model.anatomy import has_own_keys, require_room, shortest_window
from traitscope.utils.model.batching import plan_batches
from traitscope.utils.model.loading import LM
from traitscope.utils.model.prefix import MIN_SHARED, common_prefix

CANDIDATES = 8  # ways of grouping that are compared
# share of the tokens that must still be fed, at most, for sharing to pay: attention after a cache needs a
# mask
WORTH = 0.9


def tokens_a_pass(lm: LM) -> int:
    """Return how many tokens one forward pass over known ids takes: few on a CPU, whose caches they
    should fit.
    """
    return 16384 if lm.device.type == "cuda" else 512


@dataclass(frozen=True)
class Batch:
    """Rows that are fed together."""

    rows: list[int]
    n_shared: int  # tokens that all of them begin with, and of which nothing is read


@dataclass(frozen=True)
class Beginning:
    """What the rows of a batch begin with, already computed."""

    n_tokens: int = 0
    cache: DynamicCache | None = None  # one row, read by every row and never written

    def arguments(self, sequences: Sequence[list[int]], device: torch.device) -> dict[str, Any]:
        """Return what the model is called with for the rest of these sequences.

        Right padding without a mask is exact for the real tokens of a causal model.
        """
        ids = send(pad_right([s[self.n_tokens :] for s in sequences]), device)
        return {"input_ids": ids, "past_key_values": self.cache, "use_cache": self.cache is not None}


class SharedLayer(DynamicLayer):
    """One layer's keys and values of a beginning, [1, heads, n, head_dim]: a pass attends to them and
    leaves nothing behind.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the beginning's keys and values before those of the pass, for every row."""
        assert self.keys is not None
        assert self.values is not None
        rows = len(key_states)
        pairs = ((self.keys, key_states), (self.values, value_states))
        keys, values = (torch.cat([own.expand(rows, -1, -1, -1), new], dim=-2) for own, new in pairs)
        return keys, values


def pad_right(sequences: Sequence[list[int]]) -> Tensor:
    """Return ids [batch, width], padded with token 0."""
    width = max(map(len, sequences))
    return torch.tensor([s + [0] * (width - len(s)) for s in sequences])


def send(values: Tensor, device: torch.device) -> Tensor:
    """Move a tensor from the CPU to a device, without making a GPU's queue wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def plan_passes(
    lm: LM, sequences: Sequence[list[int]], unread: Sequence[int], max_tokens: int
) -> Iterator[tuple[list[int], Beginning]]:
    """Yield batches of indices into `sequences`, each with what its rows begin with.

    Args:
        unread: How many tokens at the beginning of each sequence nobody reads: only those can be shared.
        max_tokens: Tokens of a batch, padding included.

    Raises:
        UserError: a sequence is longer than the model's context.
    """
    require_room(lm, max(map(len, sequences), default=0))
    held: tuple[list[int], Beginning] = [], Beginning()
    most = shortest_window(lm) - 1 if lm.habits.keeps_tokens else 0

    for batch in group_alike(sequences, [int(min(n, most)) for n in unread], max_tokens):
        prefix = sequences[batch.rows[0]][: batch.n_shared]
        if prefix != held[0]:
            held = prefix, _compute(lm, prefix)
        yield batch.rows, held[1]


def group_alike(sequences: Sequence[list[int]], unread: Sequence[int], max_tokens: int) -> list[Batch]:
    """Plan batches of rows that begin alike where that feeds fewer tokens, of similar lengths in any case.

    Rows are put into the order of their text and cut into families where neighbours share fewer tokens than a
    threshold; every family is batched by length. Several thresholds are tried.
    """
    heads = [s[:n] for s, n in zip(sequences, unread, strict=True)]
    order = sorted(range(len(heads)), key=heads.__getitem__)
    alike = [
        len(common_prefix([heads[i], heads[j]])) if heads[i] and heads[j] else 0 for i, j in pairwise(order)
    ]
    levels = sorted({n for n in alike if n >= MIN_SHARED})
    plain = _by_length(sequences, max_tokens)
    plans = [
        _by_family(sequences, heads, _split(order, alike, level), max_tokens)
        for level in levels[:: -(-len(levels) // CANDIDATES) or 1]
    ]
    best = min(plans, key=lambda plan: _cost(plan, sequences, max_tokens), default=plain)

    return (
        best if _cost(best, sequences, max_tokens) <= WORTH * _cost(plain, sequences, max_tokens) else plain
    )


def _by_length(sequences: Sequence[list[int]], max_tokens: int) -> list[Batch]:
    return [Batch(rows, 0) for rows in plan_batches([len(s) for s in sequences], max_tokens=max_tokens)]


def _split(order: list[int], alike: list[int], level: int) -> list[list[int]]:
    families = [order[:1]]
    for row, shared in zip(order[1:], alike, strict=True):
        if shared >= level:
            families[-1].append(row)
        else:
            families.append([row])
    return families


def _by_family(
    sequences: Sequence[list[int]], heads: list[list[int]], families: list[list[int]], max_tokens: int
) -> list[Batch]:
    """Batch every family by length; those with the longest rows first, so that memory that does not
    suffice shows early.
    """
    batches = []
    for family in sorted(families, key=lambda rows: -max(len(sequences[i]) for i in rows)):
        n_shared = len(common_prefix([heads[i] for i in family])) if len(family) > 1 else 0
        found = plan_batches([len(sequences[i]) - n_shared for i in family], max_tokens=max_tokens)
        batches += [Batch([family[k] for k in rows], n_shared) for rows in found]
    return batches


def _cost(plan: list[Batch], sequences: Sequence[list[int]], max_tokens: int) -> float:
    """Return the tokens that a plan feeds, each pass counted as some more: its weights are read whatever
    it holds.
    """
    tokens, before = 0.0, [0]
    for batch in plan:
        width, prefix = max(len(sequences[i]) for i in batch.rows), sequences[batch.rows[0]][: batch.n_shared]
        tokens += len(batch.rows) * (width - len(prefix)) + max_tokens / 8
        if prefix and prefix != before:
            tokens += len(prefix) + max_tokens / 8
        before = prefix

    return tokens


@torch.inference_mode()
def _compute(lm: LM, prefix: list[int]) -> Beginning:
    if not prefix:
        return Beginning()

    cache = lm.model.base_model(
        input_ids=torch.tensor([prefix], device=lm.device), use_cache=True
    ).past_key_values
    cache.layers = [_shared(layer) if has_own_keys(layer) else layer for layer in cache.layers]
    return Beginning(len(prefix), cache)


def _shared(own: DynamicLayer) -> SharedLayer:
    layer = SharedLayer()
    layer.lazy_initialization(own.keys, own.values)  # type: ignore[arg-type]
    layer.keys, layer.values = own.keys, own.values
    return layer
