"""The tables and the picture of a trait's rollouts, and the line that says what they show."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from traitscope.inference.rolling.draw import draw_rollouts
from traitscope.inference.rolling.tables import as_frame, as_records, describe, per_question, per_variant
from traitscope.utils.files.artifacts import write_figure
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.rollouts import PLAIN, Rollouts, write_tables


def report(paths: TraitPaths, found: Rollouts, written: int, used: Mapping[str, Any]) -> str:
    """Write the tables and the picture beside the rows, and return what they show in a line.

    Args:
        written: How many rows are new.
        used: What the judge used.
    """
    rows = as_frame(found)
    variants = per_variant(rows)
    write_tables(paths, {"questions": per_question(rows), "variants": variants})
    write_figure(paths.rollouts_figure, draw_rollouts(paths.trait, variants))

    size = f"{len(rows)} texts ({written} new) of {len(variants)} variants × {rows['question'].nunique()} questions"
    cost = [f"{name} {amount}" for name, amount in used.items()]
    said = [size, *_findings(found, variants), *cost, paths.relative(paths.rollouts)]
    return f"[roll_out] {paths.trait}: {'; '.join(said)}"


def _findings(found: Rollouts, variants: pd.DataFrame) -> list[str]:
    """Return the trait score of plain, what moved it most, told or steered, each way, and how good the classifier is."""
    said = [
        f"classifier {describe(who)}" for who in found.scored_by.values() if who.get("judge") == "classifier"
    ][-1:]
    known = [row for row in as_records(variants) if row["trait"] is not None]
    if not known:
        return ["no trait score yet (--score judge)", *said]

    plain = [f"plain {row['trait']:.1f}" for row in known if row["arm"] == PLAIN]
    moved = [row for row in known if row["trait_difference"] is not None]
    told = sorted((row for row in moved if not row["method"]), key=_change)
    steered = sorted((row for row in moved if row["method"]), key=_change)
    most = [row for part in (told, steered) for row in (*part[-1:], *part[:1])]
    return [*plain, *dict.fromkeys(map(_say, most)), *said]


def _change(row: Mapping[str, Any]) -> float:
    return row["trait_difference"]


def _say(row: Mapping[str, Any]) -> str:
    low, high = row["trait_difference_low"], row["trait_difference_high"]
    between = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    coherence = "" if row["coherence"] is None else f", coherence {row['coherence']:.0f}"
    return f"{row['variant']}: {_change(row):+.1f}{between}{coherence}"
