"""Projections of every token onto many vectors at once, inside the hook: what leaves a forward pass is
[n_vectors, n_tokens].
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import require_room
from traitscope.utils.model.batching import halve_on_oom, plan_batches
from traitscope.utils.model.encode import encode
from traitscope.utils.model.hooks import record
from traitscope.utils.model.loading import LM
from traitscope.utils.model.passes import pad_right, tokens_a_pass
from traitscope.utils.model.tokens import token_texts
from traitscope.utils.records.readings import Projections
from traitscope.utils.records.recorded import SINK
from traitscope.utils.records.vectors import Vector


@dataclass
class Readout:
    """The last forward pass, projected."""

    # layer → h·v̂, [batch, pos, vectors of the layer], float32 on the CPU
    dots: dict[int, Tensor] = field(default_factory=dict)
    norms: dict[int, Tensor] = field(default_factory=dict)  # layer → ‖h‖, [batch, pos]


def check_vectors(lm: LM, vectors: Sequence[Vector]) -> None:
    """Refuse vectors that do not belong on the model; print a note for those of a sibling.

    Raises:
        UserError: one does not fit, or they were fitted on different components or positions, so that their
            scores mean different things.
    """
    for what, found in (
        ("components", {vector.about.component for vector in vectors}),
        ("positions", {vector.about.position for vector in vectors} - {None}),
    ):
        if len(found) > 1:
            raise UserError(
                f"vectors of different {what} ({', '.join(sorted(map(str, found)))}) cannot be read "
                "together; name fewer traits"
            )

    notes = {note.replace(vector.trait, "…"): note for vector in vectors if (note := vector.require_fit(lm))}
    for note in notes.values():
        print(note, flush=True)


@contextmanager
def project(lm: LM, vectors: Sequence[Vector], until: int | None = None) -> Iterator[Readout]:
    """While active, every forward pass leaves its projections onto all vectors: one matrix product a layer.

    Args:
        until: Where the first forward pass, and the `with` block, may end (see `record`).
    """
    readout = Readout()
    by_layer = {
        layer: torch.stack([c.unit for c in vectors if c.layer == layer])
        for layer in {c.layer for c in vectors}
    }

    def read(layer: int, hidden: Tensor) -> None:
        if layer in by_layer:
            by_layer[layer] = by_layer[layer].to(hidden.device)
            values = hidden.float()
            readout.dots[layer] = (values @ by_layer[layer].T).cpu()
            readout.norms[layer] = values.norm(dim=-1).cpu()

    with record(lm.model, read, vectors[0].about.component if vectors else "residual", until):
        yield readout


def scores_of(readout: Readout, vectors: Sequence[Vector], row: int, n_tokens: int) -> list[Projections]:
    """Return one row's projections, in the order of the vectors."""
    place: dict[int, int] = {}
    found = []

    for vector in vectors:
        k = place[vector.layer] = place.get(vector.layer, -1) + 1
        found.append(
            Projections(
                vector.origin,
                readout.dots[vector.layer][row, :n_tokens, k].numpy(),
                readout.norms[vector.layer][row, :n_tokens].numpy(),
            )
        )

    return found


def project_texts(
    lm: LM,
    sequences: Sequence[list[int]],
    vectors: Sequence[Vector],
    keep: Callable[[int, list[Projections]], None],
    batch_tokens: int = 0,
) -> None:
    """Feed known token ids and hand each sequence's projections to `keep(index, scores)` as soon as they
    are there.

    Batches are sorted by length under a token budget; blocks above the last layer asked for and the
    vocabulary projection are not computed.

    Raises:
        UserError: a projection is not finite.
    """
    require_room(lm, max(map(len, sequences), default=0))
    budget = batch_tokens or tokens_a_pass(lm)
    for batch in plan_batches([len(s) for s in sequences], max_tokens=budget):
        rows = halve_on_oom(lambda part: _project_batch(lm, part, vectors), [sequences[i] for i in batch])
        for i, scores in zip(batch, rows, strict=True):
            if not all(np.isfinite(s.raw).all() and np.isfinite(s.norms).all() for s in scores):
                raise UserError(
                    f"projections are not finite in {lm.identity['dtype']}; try --dtype float32 or bfloat16"
                )
            keep(i, scores)


@torch.inference_mode()
def _project_batch(
    lm: LM, sequences: Sequence[list[int]], vectors: Sequence[Vector]
) -> list[list[Projections]]:
    ids = pad_right(sequences)  # without a mask: exact for the real tokens of a causal model
    with project(lm, vectors, until=max(vector.layer for vector in vectors)) as readout:
        lm.model.base_model(input_ids=ids.to(lm.device), use_cache=False)
    return [scores_of(readout, vectors, row, len(sequence)) for row, sequence in enumerate(sequences)]


def project_text(lm: LM, vector: Vector, text: str) -> list[tuple[str, float]]:
    """Return every token of a text with its centred projection on one vector; the first token, a sink, is
    left out.

    Raises:
        UserError: the vector does not belong on the model.
    """
    check_vectors(lm, [vector])
    ids = encode(lm, text)
    require_room(lm, len(ids))
    scores = _project_batch(lm, [ids], [vector])[0][0].on("centered")
    return [(token, float(score)) for token, score in zip(token_texts(lm, ids), scores, strict=True)][SINK:]
