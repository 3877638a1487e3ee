"""Shared prefill: what all prompts of a batch begin with (a system message, say) is computed once per steering, not once per row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from utils.hooks import Push, steer
from utils.model import LM

MIN_SHARED = 8  # tokens; below it, a pass of its own saves nothing


def prefill_shared(lm: LM, prompts: Sequence[list[int]], plan: Sequence[Sequence[Push]], positions: str) -> DynamicCache | None:
    """Return the cache of the prompts' common beginning, one row per prompt, as left padding lays it out; None where sharing does not pay.

    With left padding, row i begins `pad` slots late. So its share of the cache holds `pad` masked slots and only the first
    `len(prefix) − pad` tokens of the prefix; the rest of its prompt is left to the ordinary prefill, at no extra width.

    Args:
        plan: What is done to each row; rows with equal pushes share one computation. With positions "response" nothing is done to the
            prefix, so that all rows share one.
    """
    prefix = common_prefix(prompts)
    padding = torch.tensor([max(map(len, prompts)) - len(p) for p in prompts])
    pushes = [tuple(row) if positions == "all" else () for row in plan]
    keys = [tuple((p.layer, p.coefficient, p.operation, id(p.vector), id(p.gate), p.threshold) for p in row) for row in pushes]
    distinct = list(dict(zip(keys, pushes, strict=True)).items())
    if len(prefix) < max(MIN_SHARED, int(padding.max())) or 2 * len(distinct) > len(prompts) or len(prefix) >= _window(lm):
        return None
    with steer(lm.model, [row for _, row in distinct]):
        cache = lm.model.base_model(input_ids=torch.tensor([prefix] * len(distinct), device=lm.device), use_cache=True).past_key_values
    order = {key: i for i, (key, _) in enumerate(distinct)}
    source = torch.tensor([order[key] for key in keys])
    slots = (torch.arange(len(prefix)) - padding[:, None]).clamp(min=0)  # [row, slot] → token of the prefix; padded slots are masked
    return DynamicCache([(_lay_out(keys_, source, slots), _lay_out(values, source, slots)) for keys_, values, *_ in cache], config=lm.model.config)


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, short of any prompt's last one: that is always fed, its output is the first new token."""
    shortest = min(map(len, prompts)) - 1
    return prompts[0][: next((i for i, column in enumerate(zip(*prompts, strict=False)) if i >= shortest or len(set(column)) > 1), shortest)]


def repeat_prefill(lm: LM, prefix: list[int], rows: int) -> DynamicCache | None:
    """Return the unsteered cache of a prefix, computed once and repeated for every row of a right-padded batch; None for a short prefix."""
    if len(prefix) < MIN_SHARED or rows < 2:
        return None
    cache = lm.model.base_model(input_ids=torch.tensor([prefix], device=lm.device), use_cache=True).past_key_values
    cache.batch_repeat_interleave(rows)
    return cache


def _lay_out(states: Tensor, source: Tensor, slots: Tensor) -> Tensor:
    """Turn [distinct, heads, prefix, head_dim] into [rows, heads, prefix, head_dim], each row shifted by its padding."""
    index = slots.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states[source.to(states.device)].gather(2, index)


def _window(lm: LM) -> float:
    """The shortest attention window: a cache that already dropped tokens cannot be shifted."""
    config: Any = lm.model.config.get_text_config()
    return getattr(config, "sliding_window", None) or float("inf")
