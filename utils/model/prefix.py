"""Shared prefill: what rows of a batch have in common is computed once, not once per row: their whole
prompt, or how all prompts begin.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from traitscope.utils.model.anatomy import has_own_keys, place, shortest_window
from traitscope.utils.model.batching import pad_left
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM

MIN_SHARED = 8  # tokens; below it, a pass of its own saves nothing


def prefill_shared(
    lm: LM, prompts: Sequence[list[int]], plan: Sequence[Sequence[Push]], positions: str
) -> DynamicCache | None:
    """Return a cache of the prompts' tokens, one row per prompt, as left padding lays it out; None where
    sharing does not pay.

    Rows of one prompt and one steering share all of it but its last token, which is always fed: its output is
    the first new token. Otherwise all rows of one steering share what every prompt begins with.

    Args:
        plan: What is done to each row. With positions "response" nothing is done to a prompt before its last
            token, so that all configurations of a sweep share the prompts' cache.
    """
    if not lm.habits.keeps_tokens:
        return None

    pushes = [tuple(row) if positions == "all" else () for row in plan]
    keys = [
        tuple((p.layer, p.coefficient, p.operation, id(p.vector), id(p.gate), p.threshold) for p in row)
        for row in pushes
    ]
    whole = [(tuple(prompt), key) for prompt, key in zip(prompts, keys, strict=True)]
    if max(map(len, prompts)) > 1 and 2 * len(set(whole)) <= len(prompts):
        return _prefill_prompts(lm, whole, pushes)

    return _prefill_beginning(lm, prompts, keys, pushes)


def _prefill_prompts(lm: LM, whole: Sequence[tuple], pushes: Sequence[tuple[Push, ...]]) -> DynamicCache:
    """Compute every distinct row's prompt but for its last token."""
    first = {row: whole.index(row) for row in dict.fromkeys(whole)}
    ids, mask = pad_left([list(prompt) for prompt, _ in whole], lm.tokenizer.pad_token_id)
    chosen = list(first.values())
    ids, mask = ids[chosen, :-1].to(lm.device), mask[chosen, :-1].to(lm.device)

    with steer(lm.model, [pushes[i] for i in chosen]):
        cache = lm.model.base_model(input_ids=ids, **place(lm.model, mask), use_cache=True).past_key_values

    order = {row: i for i, row in enumerate(first)}
    cache.batch_select_indices(torch.tensor([order[row] for row in whole], device=lm.device))
    return cache


def _prefill_beginning(
    lm: LM, prompts: Sequence[list[int]], keys: Sequence[tuple], pushes: Sequence[tuple[Push, ...]]
) -> DynamicCache | None:
    """Compute what all prompts begin with, once per steering.

    With left padding, row i begins `pad` slots late. So its share of the cache holds `pad` masked slots and
    only the first `len(prefix) − pad` tokens of the prefix; the rest of its prompt is left to the ordinary
    prefill, at no extra width.
    """
    prefix = common_prefix(prompts)
    padding = torch.tensor([max(map(len, prompts)) - len(p) for p in prompts])
    distinct = list(dict(zip(keys, pushes, strict=True)).items())
    if (
        len(prefix) < max(MIN_SHARED, int(padding.max()))
        or 2 * len(distinct) > len(prompts)
        or len(prefix) >= shortest_window(lm)
    ):
        return None

    with steer(lm.model, [row for _, row in distinct]):
        cache = lm.model.base_model(
            input_ids=torch.tensor([prefix] * len(distinct), device=lm.device), use_cache=True
        ).past_key_values

    order = {key: i for i, (key, _) in enumerate(distinct)}
    source = torch.tensor([order[key] for key in keys])
    # [row, slot] → token of the prefix; padded slots are masked
    slots = (torch.arange(len(prefix)) - padding[:, None]).clamp(min=0)

    for layer in cache.layers:
        if has_own_keys(layer):
            layer.keys, layer.values = (
                _lay_out(layer.keys, source, slots),
                _lay_out(layer.values, source, slots),
            )

    return cache


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, short of any prompt's last one: that is always fed,
    its output is the first new token.
    """
    shortest = min(map(len, prompts)) - 1
    return prompts[0][
        : next(
            (
                i
                for i, column in enumerate(zip(*prompts, strict=False))
                if i >= shortest or len(set(column)) > 1
            ),
            shortest,
        )
    ]


def _lay_out(states: Tensor, source: Tensor, slots: Tensor) -> Tensor:
    """Turn [distinct, heads, prefix, head_dim] into [rows, heads, prefix, head_dim], each row shifted by
    its padding.
    """
    index = slots.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states[source.to(states.device)].gather(2, index)
