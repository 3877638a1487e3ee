"""Activations of known token ids: all layers in one forward pass, pooled inside the hook, so memory is [n, n_layers, d_model] and no more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from utils.batching import halve_on_oom, plan_batches
from utils.errors import UserError
from utils.hooks import record
from utils.model import LM

_POSITION = re.compile(r"(prompt|response)\[(-?\d+|(-?\d+)?:(-?\d+)?)\]")


@dataclass(frozen=True)
class Reading:
    """One sequence and the positions in it that are pooled."""

    ids: list[int]
    positions: list[int]  # never empty, never 0


@dataclass(frozen=True)
class Pooled:
    """Means over the chosen positions, and the mean length of the residual vectors there."""

    activations: Tensor  # [n, n_layers, d_model], float32
    norms: Tensor  # [n_layers], mean over rows of the mean ‖h‖ of the pooled tokens, float32


def select_positions(position: str, n_prompt: int, n_response: int) -> list[int]:
    """Return the token indices that a position names in a prompt followed by a response.

    Args:
        position: `prompt` or `response` with a Python index or slice: response[:], response[:5], response[-1], prompt[-1]. Token 0, an
            attention sink with a norm a hundred times any other's, is never among them.

    Raises:
        UserError: the position is not of that form.
    """
    match = _POSITION.fullmatch(position)
    if not match:
        raise UserError(f"unknown position {position!r}; write response[:], response[:5], response[-1], prompt[-1] or the like")
    part, index, start, stop = match.groups()
    span = list(range(n_prompt)) if part == "prompt" else list(range(n_prompt, n_prompt + n_response))
    if ":" in index:
        chosen = span[slice(int(start) if start else None, int(stop) if stop else None)]
    else:
        chosen = [span[int(index)]] if -len(span) <= int(index) < len(span) else []
    return [i for i in chosen if i > 0]


def pool_activations(lm: LM, readings: Sequence[Reading], *, component: str = "residual", batch_tokens: int = 0, label: str = "capture") -> Pooled:
    """Capture the mean activation of every reading at every layer.

    Batches are sorted by length under a token budget (`batch_tokens`, 0 chooses: 512 on a CPU, 16384 on a GPU), so hardly any
    position is padding; the vocabulary projection is never computed. Rows are halved when memory runs out.

    Raises:
        UserError: an activation is not finite.
    """
    activations = torch.empty(len(readings), lm.n_layers, lm.d_model)
    norms = torch.empty(len(readings), lm.n_layers)
    budget = batch_tokens or (16384 if lm.device.type == "cuda" else 512)
    with tqdm(total=len(readings), desc=label, unit="text", disable=None, leave=False) as bar:
        for batch in plan_batches([len(r.ids) for r in readings], max_tokens=budget):
            rows = halve_on_oom(lambda part: _pool_batch(lm, part, component), [readings[i] for i in batch])
            for i, (pooled, norm) in zip(batch, rows, strict=True):
                activations[i], norms[i] = pooled, norm
            bar.update(len(batch))
    bad = (~torch.isfinite(activations)).any(dim=-1).any(dim=0).nonzero()
    if len(bad):
        raise UserError(f"activations of layer {int(bad[0])} are not finite in {lm.identity['dtype']}; try --dtype float32 or bfloat16")
    return Pooled(activations, norms.mean(0))


@torch.inference_mode()
def _pool_batch(lm: LM, readings: Sequence[Reading], component: str) -> list[tuple[Tensor, Tensor]]:
    width = max(len(r.ids) for r in readings)
    ids = torch.zeros(len(readings), width, dtype=torch.long)
    weights = torch.zeros(len(readings), width)
    for row, reading in enumerate(readings):  # right padding without a mask is exact for the real tokens of a causal model
        ids[row, : len(reading.ids)] = torch.tensor(reading.ids)
        weights[row, reading.positions] = 1 / len(reading.positions)
    pooled: dict[int, tuple[Tensor, Tensor]] = {}  # fetched when the pass is over: a copy in between would make a GPU wait at every layer

    def pool(layer: int, hidden: Tensor) -> None:
        share = weights.to(hidden.device)
        pooled[layer] = torch.bmm(share[:, None], hidden.float())[:, 0], (hidden.float().norm(dim=-1) * share).sum(-1)

    with record(lm.model, pool, component):
        lm.model.base_model(input_ids=ids.to(lm.device), use_cache=False)
    activations, norms = (torch.stack([pooled[layer][i].cpu() for layer in range(lm.n_layers)], dim=1) for i in (0, 1))
    return list(zip(activations, norms, strict=True))
