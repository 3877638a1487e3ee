"""Activations of known token ids: all layers in one forward pass, pooled inside the hook, so memory is
[n, n_layers, d_model] and no more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import require_room
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.hooks import record
from traitscope.utils.model.loading import LM
from traitscope.utils.model.passes import Beginning, plan_passes, send, tokens_a_pass

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
        position: `prompt` or `response` with a Python index or slice: response[:], response[:5],
            response[-1], prompt[-1]. Token 0, often an attention sink, far longer than any other, is
            never among them.

    Raises:
        UserError: the position is not of that form.
    """
    match = _POSITION.fullmatch(position)
    if not match:
        raise UserError(
            f"unknown position {position!r}; write response[:], response[:5], response[-1], prompt[-1] or "
            "the like"
        )

    part, index, start, stop = match.groups()
    span = list(range(n_prompt)) if part == "prompt" else list(range(n_prompt, n_prompt + n_response))
    if ":" in index:
        chosen = span[slice(int(start) if start else None, int(stop) if stop else None)]
    else:
        chosen = [span[int(index)]] if -len(span) <= int(index) < len(span) else []

    return [i for i in chosen if i > 0]


def pool_activations(
    lm: LM,
    readings: Sequence[Reading],
    *,
    component: str = "residual",
    batch_tokens: int = 0,
    label: str = "capture",
) -> Pooled:
    """Capture the mean activation of every reading at every layer.

    Batches hold texts of similar lengths under a token budget (`batch_tokens`, 0 chooses: 512 on a CPU, 16384
    on a GPU), so hardly any position is padding; what texts begin with, short of the first position that is
    read, is computed once for many; the vocabulary projection is never computed. Rows are halved when memory
    runs out.

    Raises:
        UserError: an activation is not finite.
    """
    is_gpu = lm.device.type == "cuda"
    # pinned: a GPU writes to it while it computes on
    activations = torch.empty(len(readings), lm.n_layers, lm.d_model, pin_memory=is_gpu)
    norms = torch.empty(len(readings), lm.n_layers, pin_memory=is_gpu)
    plan = plan_passes(
        lm, [r.ids for r in readings], [min(r.positions) for r in readings], batch_tokens or tokens_a_pass(lm)
    )

    with tqdm(total=len(readings), desc=label, unit="text", disable=None, leave=False) as bar:
        for batch, beginning in plan:
            rows = halve_on_oom(partial(_pool_batch, lm, component, beginning), [readings[i] for i in batch])
            for i, (pooled, norm) in zip(batch, rows, strict=True):
                activations[i].copy_(pooled, non_blocking=is_gpu)
                norms[i].copy_(norm, non_blocking=is_gpu)
            bar.update(len(batch))

    if is_gpu:
        torch.cuda.synchronize(lm.device)
    # all at once, it takes more than they do
    bad = [layer for layer in range(lm.n_layers) if not activations[:, layer].isfinite().all()]
    if bad:
        raise UserError(
            f"activations of layer {bad[0]} are not finite in {lm.identity['dtype']}; try --dtype float32 "
            "or bfloat16"
        )

    return Pooled(activations, norms.mean(0))


@torch.inference_mode()
def _pool_batch(
    lm: LM, component: str, beginning: Beginning, readings: Sequence[Reading]
) -> list[tuple[Tensor, Tensor]]:
    """Return each row's means [n_layers, d_model] and mean norms [n_layers], on the model's device."""
    start = beginning.n_tokens
    weights = torch.zeros(len(readings), max(len(r.ids) for r in readings) - start)
    for row, reading in enumerate(readings):
        weights[row, [p - start for p in reading.positions]] = 1 / len(reading.positions)
    shares: dict[torch.device, Tensor] = {}  # the weights, once on every device that holds a layer
    # one block for all layers: small tensors, kept from between the large ones of every layer, would each
    # hold open a hole in the heap
    activations = torch.empty(len(readings), lm.n_layers, lm.d_model, device=lm.device)
    norms = torch.empty(len(readings), lm.n_layers, device=lm.device)

    def pool(layer: int, hidden: Tensor) -> None:
        share = shares.get(hidden.device)
        if share is None:
            share = shares[hidden.device] = send(weights, hidden.device)
        activations[:, layer] = torch.bmm(share[:, None], hidden.float())[:, 0]
        norms[:, layer] = (hidden.float().norm(dim=-1) * share).sum(-1)

    with record(lm.model, pool, component):
        lm.model.base_model(**beginning.arguments([r.ids for r in readings], lm.device))
    return list(zip(activations, norms, strict=True))


@torch.inference_mode()
def record_stream(lm: LM, ids: Sequence[int]) -> Tensor:
    """Return the output of every block at every token, [n_layers, n_tokens, d_model], float32 on the CPU."""
    require_room(lm, len(ids))
    streams = torch.empty(lm.n_layers, len(ids), lm.d_model)

    def read(layer: int, hidden: Tensor) -> None:
        streams[layer] = hidden[0].float().cpu()

    with record(lm.model, read):
        lm.model.base_model(input_ids=torch.tensor([ids], device=lm.device), use_cache=False)
    return streams
