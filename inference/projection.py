"""Projections of every token onto many vectors at once, inside the hook: what leaves a forward pass is [n_vectors, n_tokens]."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from inference.records import Scores
from utils.batching import halve_on_oom, plan_batches
from utils.errors import UserError
from utils.hooks import record
from utils.model import LM
from utils.passes import pad_right
from utils.vectors import Card, require_match

BATCH_TOKENS = {"cuda": 16384, "cpu": 512}


@dataclass
class Readout:
    """The last forward pass, projected."""

    dots: dict[int, Tensor] = field(default_factory=dict)  # layer → h·v̂, [batch, pos, cards of the layer], float32 on the CPU
    norms: dict[int, Tensor] = field(default_factory=dict)  # layer → ‖h‖, [batch, pos]


def check_cards(lm: LM, cards: Sequence[Card]) -> None:
    """Refuse vectors that do not belong on the model; print a note for those of a sibling.

    Raises:
        UserError: one does not fit, or they were fitted on different components or positions, so that their scores mean different things.
    """
    for what, found in (("components", {card.component for card in cards}), ("positions", {card.position for card in cards} - {None})):
        if len(found) > 1:
            raise UserError(f"vectors of different {what} ({', '.join(sorted(map(str, found)))}) cannot be read together; name fewer traits")
    notes = {note.replace(card.trait, "…"): note for card in cards if (note := require_match(card, lm))}
    for note in notes.values():
        print(note, flush=True)


@contextmanager
def project(lm: LM, cards: Sequence[Card], until: int | None = None) -> Iterator[Readout]:
    """While active, every forward pass leaves its projections onto all cards: one matrix product a layer.

    Args:
        until: Where the first forward pass, and the `with` block, may end (see `record`).
    """
    readout = Readout()
    by_layer = {layer: torch.stack([c.unit for c in cards if c.layer == layer]) for layer in {c.layer for c in cards}}

    def read(layer: int, hidden: Tensor) -> None:
        if layer in by_layer:
            by_layer[layer] = by_layer[layer].to(hidden.device)
            values = hidden.float()
            readout.dots[layer] = (values @ by_layer[layer].T).cpu()
            readout.norms[layer] = values.norm(dim=-1).cpu()

    with record(lm.model, read, cards[0].component if cards else "residual", until):
        yield readout


def scores_of(readout: Readout, cards: Sequence[Card], row: int, n_tokens: int) -> list[Scores]:
    """Return one row's projections, in the order of the cards."""
    place: dict[int, int] = {}
    found = []
    for card in cards:
        k = place[card.layer] = place.get(card.layer, -1) + 1
        found.append(Scores(card.origin, readout.dots[card.layer][row, :n_tokens, k].numpy(), readout.norms[card.layer][row, :n_tokens].numpy()))
    return found


def project_texts(lm: LM, sequences: Sequence[list[int]], cards: Sequence[Card], keep: Callable[[int, list[Scores]], None], batch_tokens: int = 0) -> None:
    """Feed known token ids and hand each sequence's projections to `keep(index, scores)` as soon as they are there.

    Batches are sorted by length under a token budget; blocks above the last layer asked for and the vocabulary projection are not computed.

    Raises:
        UserError: a projection is not finite.
    """
    budget = batch_tokens or BATCH_TOKENS.get(lm.device.type, 512)
    for batch in plan_batches([len(s) for s in sequences], max_tokens=budget):
        rows = halve_on_oom(lambda part: _project_batch(lm, part, cards), [sequences[i] for i in batch])
        for i, scores in zip(batch, rows, strict=True):
            if not all(np.isfinite(s.raw).all() and np.isfinite(s.norms).all() for s in scores):
                raise UserError(f"projections are not finite in {lm.identity['dtype']}; try --dtype float32 or bfloat16")
            keep(i, scores)


@torch.inference_mode()
def _project_batch(lm: LM, sequences: Sequence[list[int]], cards: Sequence[Card]) -> list[list[Scores]]:
    ids = pad_right(sequences)  # without a mask: exact for the real tokens of a causal model
    with project(lm, cards, until=max(card.layer for card in cards)) as readout:
        lm.model.base_model(input_ids=ids.to(lm.device), use_cache=False)
    return [scores_of(readout, cards, row, len(sequence)) for row, sequence in enumerate(sequences)]
