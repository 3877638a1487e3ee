"""Projections kept on disk: what is there and fresh stays, what is missing comes from raw streams or from feeding the recorded tokens."""

from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from inference.projection import project_texts
from inference.raw import has_raw, project_raw
from inference.records import Record, Scores, read_scores, write_scores
from utils.journal import key_of
from utils.model import LM
from utils.paths import InferencePaths
from utils.vectors import Card


def vector_id(origin: dict[str, Any]) -> tuple:
    """Return what makes two readings the same: the vector, by its content."""
    return origin["trait"], origin["method"], origin["layer"], origin["sha256"]


def made_from(record: Record, reader: dict) -> dict[str, Any]:
    """Return what projections say of themselves: whose tokens, read by which model."""
    return {"tokens_sha256": key_of(record.ids), "model": reader}


def score_records(paths: InferencePaths, records: Sequence[Record], cards: list[Card], reader: dict, load: Callable[[], LM]) -> int:
    """Complete the projections of every record on every card, and return for how many records something was computed.

    Args:
        reader: Identity of the model that reads.
        load: Loads that model, and checks that the cards belong on it; called only when something is missing that no raw stream holds.
    """
    missing = {r.id: _missing(paths, r, cards, reader) for r in records}
    todo = [r for r in records if missing[r.id]]
    raw = [r for r in todo if has_raw(paths, r, made_from(r, reader)) and all(c.component == "residual" for c in missing[r.id])]
    for r in raw:
        _merge(paths, r, project_raw(paths, r, missing[r.id]), reader)
    rest = [r for r in todo if r not in raw]
    if rest:
        with tqdm(total=len(rest), desc="project", unit="text", disable=None, leave=False) as bar:

            def keep(i: int, scores: list[Scores]) -> None:
                _merge(paths, rest[i], scores, reader)
                bar.update()

            project_texts(load(), [r.ids for r in rest], cards, keep)
    return len(todo)


def _missing(paths: InferencePaths, record: Record, cards: list[Card], reader: dict) -> list[Card]:
    there = {vector_id(s.origin) for s in read_scores(paths, record.id, made_from(record, reader))}
    return [card for card in cards if vector_id(card.origin) not in there]


def _merge(paths: InferencePaths, record: Record, scores: list[Scores], reader: dict) -> None:
    """Add projections to those that are there; a vector that was fitted again replaces its older self."""
    kept = {(s.origin["experiment"], *vector_id(s.origin)[:3]): s for s in [*read_scores(paths, record.id, made_from(record, reader)), *scores]}
    write_scores(paths, record.id, list(kept.values()), made_from(record, reader))
