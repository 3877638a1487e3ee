"""Greedy decoding on a GPU: a step that touches nothing but tensors that never move, captured once a
batch as a CUDA graph and replayed.

Step by step, Python and kernel launches take tens of milliseconds for what the GPU computes in one or a few.
A graph launches a whole step at once. No GPU has run this yet, so it is off: TRAITSCOPE_CUDA_GRAPHS=1 turns
it on, and otherwise transformers decodes.
"""

import os
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import DynamicCache

from traitscope.utils.model import graphs
from traitscope.utils.model.anatomy import end_tokens, takes_fixed_cache
from traitscope.utils.model.cache import FixedLayer, fix, make_room
from traitscope.utils.model.hooks import SteerCheck
from traitscope.utils.model.loading import LM

WORTH = 12  # steps to come; for fewer, a capture costs more than it saves
PATIENCE = 8  # steps between two looks at whether every row has ended: a look waits for the GPU

_refused: WeakSet[Any] = WeakSet()  # models with a graph that failed


def can_decode(lm: LM) -> bool:
    """Tell whether `decode` is the way: it is switched on, and the model lies on one GPU whole, keeps
    ordinary keys and values, and takes a cache of fixed size.
    """
    is_wanted = lm.device.type == "cuda" and os.environ.get("TRAITSCOPE_CUDA_GRAPHS") == "1"
    is_whole = len(set(getattr(lm.model, "hf_device_map", {}).values())) <= 1

    return is_wanted and is_whole and lm.habits.keeps_tokens and takes_fixed_cache(lm.model)


@torch.inference_mode()
def decode(
    lm: LM, batch: tuple[Tensor, Tensor], shared: DynamicCache | None, limit: int, check: SteerCheck
) -> Tensor:
    """Return the greedy continuation [batch, limit], on the CPU; after a row's end-of-text token comes
    padding.

    Args:
        batch: Ids and mask [batch, width], padded on the left.
        shared: How the prompts begin, already computed.
        check: Of the steering that is active; a replayed step does not run the hooks' Python, but does what
            they did when it was captured.
    """
    width = batch[0].shape[1]
    state = prefill(lm, batch, shared, limit)
    replay = replay_on(lm.device) if limit - 1 >= WORTH and lm.model not in _refused else None

    try:
        advance = replay if replay and _captured(state, replay, check) else state.step
        for i in range(width + limit - 1 - int(state.slot)):
            if i % PATIENCE == 0 and bool(state.finished.all()):
                break
            advance()
        return state.text[:, width : width + limit].cpu()
    finally:
        if replay:
            replay.close()


def replay_on(device: torch.device) -> graphs.Replay | None:
    """Return a graph to be captured; None where every step is taken eagerly."""
    return graphs.Replay(device) if device.type == "cuda" else None


def _captured(state: "Decoding", replay: graphs.Replay, check: SteerCheck) -> bool:
    """Tell whether the step is captured and does what it should; if not, say so once for this model."""
    if trouble := graphs.capture(state, replay, check):
        print(f"{state.lm.identity['name']} is decoded without CUDA graphs: {trouble}", flush=True)
        _refused.add(state.lm.model)
    return not trouble


@dataclass
class Decoding:
    """A batch that is being decoded. A step reads and writes these tensors, in place, and nothing else."""

    lm: LM
    layers: list[FixedLayer]
    cache: DynamicCache  # of those layers
    slot: Tensor  # [1]; of the newest token, which is the next to be fed
    text: Tensor  # [batch, slots]; prompts and what was written so far
    finished: Tensor  # [batch]; rows that have ended
    # [batch, slots]; closed for padding; the slots to come are closed by the model, which gets `slot` from
    # the cache
    mask: Tensor
    padding: Tensor  # [batch, 1]; slots before a row's first token
    ends: Tensor  # end-of-text tokens

    @property
    def counters(self) -> list[Tensor]:
        """The whole numbers and truth values that a step changes."""
        return [self.slot, self.text, self.finished]

    @property
    def states(self) -> list[Tensor]:
        """Every layer's keys and values, [batch, heads, slots, head_dim]."""
        return [t for layer in self.layers for t in (layer.keys, layer.values)]

    def written(self, count: int) -> list[Tensor]:
        """Return the keys and values of the last tokens that were fed."""
        end = int(self.slot)
        return [
            t[..., end - count - layer.first : end - layer.first, :]
            for layer in self.layers
            for t in (layer.keys, layer.values)
        ]

    def step(self) -> None:
        """Feed the newest token and write the next."""
        token, place = self.text.index_select(1, self.slot), self.slot - self.padding
        self.append(_logits(self.lm, token, self.mask, place, self.cache))

    def append(self, logits: Tensor) -> None:
        """Write the likeliest token by logits [batch, vocabulary], or padding for rows that have ended,
        into the next slot.
        """
        token = logits.argmax(-1).masked_fill(self.finished, self.lm.tokenizer.pad_token_id)[:, None]
        self.slot.add_(1)
        self.text.index_copy_(1, self.slot, token)
        self.finished.logical_or_((token == self.ends).any(-1))


def prefill(lm: LM, batch: tuple[Tensor, Tensor], shared: DynamicCache | None, limit: int) -> Decoding:
    """Compute what is left of the prompts, write the first new token, and fix the cache."""
    ids, mask = (t.to(lm.device) for t in batch)
    rows, width = ids.shape
    # attention on a GPU pads a mask whose rows are no multiple of eight, in every layer
    room = limit + -(width + limit) % 8
    cache = make_room(shared, lm.model.config, room)
    seen, places = cache.get_seq_length(), (mask.cumsum(-1) - 1).clamp(min=0)
    logits = _logits(lm, ids[:, seen:], mask, places[:, seen:], cache)
    slot = torch.tensor([width - 1], device=lm.device)
    state = Decoding(
        lm,
        layers=fix(cache, slot, width + room),
        cache=cache,
        slot=slot,
        text=torch.cat([ids, ids.new_full((rows, room), lm.tokenizer.pad_token_id)], dim=1),
        finished=torch.zeros(rows, dtype=torch.bool, device=lm.device),
        mask=torch.cat([mask.bool(), mask.new_ones((rows, room), dtype=torch.bool)], dim=1),
        padding=width - mask.sum(-1, keepdim=True),
        ends=torch.tensor(end_tokens(lm), dtype=torch.long, device=lm.device),
    )
    state.append(logits)

    return state


def _logits(lm: LM, ids: Tensor, mask: Tensor, places: Tensor, cache: DynamicCache) -> Tensor:
    output = lm.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]
