"""Projections kept on disk: what is there and fresh stays, what is missing comes from raw streams or from
feeding the recorded tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from tqdm import tqdm

from traitscope.inference.watch.projection import project_texts
from traitscope.inference.watch.raw import project_raw
from traitscope.utils.errors import UserError
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.loading import LM
from traitscope.utils.records.readings import (
    Projections,
    has_stream,
    made_from,
    read_projections,
    vector_id,
    write_projections,
)
from traitscope.utils.records.recorded import Record
from traitscope.utils.records.vectors import Vector


def only_one(paths: InferencePaths, *, wait: bool | None = None) -> AbstractContextManager[None]:
    """Keep a second process off what is captured of a prompt set."""
    busy = f"another process is capturing or projecting {paths.prompt_set} in {paths.experiment}"
    return hold(paths.lock, busy, wait=wait)


def score_records(
    paths: InferencePaths,
    records: Sequence[Record],
    vectors: list[Vector],
    reader: dict,
    load: Callable[[], LM],
) -> int:
    """Complete the projections of every record on every vector, and return for how many records something
    was computed.

    Args:
        reader: Identity of the model that reads.
        load: Loads that model, and checks that the vectors belong on it; called only when something is
            missing that no raw stream holds.
    """
    missing = {r.id: _missing(paths, r, vectors, reader) for r in records}
    todo = [r for r in records if missing[r.id]]
    raw = [
        r
        for r in todo
        if has_stream(paths, r.id, made_from(r, reader))
        and all(c.about.component == "residual" for c in missing[r.id])
    ]
    for r in raw:
        _merge(paths, r, project_raw(paths, r, missing[r.id]), reader)
    rest = [r for r in todo if r not in raw]
    if rest:
        with tqdm(total=len(rest), desc="project", unit="text", disable=None, leave=False) as bar:

            def keep(i: int, scores: list[Projections]) -> None:
                _merge(paths, rest[i], scores, reader)
                bar.update()

            project_texts(load(), [r.ids for r in rest], vectors, keep)
    return len(todo)


def _missing(paths: InferencePaths, record: Record, vectors: list[Vector], reader: dict) -> list[Vector]:
    there = {vector_id(s.origin) for s in _known(paths, record, reader)}
    return [vector for vector in vectors if vector_id(vector.origin) not in there]


def _merge(paths: InferencePaths, record: Record, scores: list[Projections], reader: dict) -> None:
    """Add projections to those that are there; a vector that was fitted again replaces its older self."""
    kept = {
        (s.origin["experiment"], *vector_id(s.origin)[:3]): s
        for s in [*_known(paths, record, reader), *scores]
    }
    write_projections(paths, record.id, list(kept.values()), made_from(record, reader))


def _known(paths: InferencePaths, record: Record, reader: dict) -> list[Projections]:
    """Return the projections that are there; what is damaged is made again."""
    try:
        found = read_projections(paths, record.id, made_from(record, reader))
    except UserError:
        return []
    return [scores for scores in found if len(scores.raw) == len(record.ids)]
