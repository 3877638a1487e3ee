"""The tables and the picture of a trait's rollouts, and the line that says what they show."""

from typing import Any

import pandas as pd

from traitscope.inference.rolling.draw import draw_rollouts
from traitscope.inference.rolling.tables import as_frame, describe, per_question, per_variant
from traitscope.utils.files.artifacts import write_figure
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.rollouts import PLAIN, Rollouts, write_tables


def report(paths: TraitPaths, found: Rollouts, written: int) -> str:
    """Write the tables and the picture beside the rows, and return what they show in a line."""
    rows = as_frame(found)
    variants = per_variant(rows)
    write_tables(paths, {"questions": per_question(rows), "variants": variants})
    write_figure(paths.rollouts_figure, draw_rollouts(paths.trait, variants))

    size = f"{len(rows)} texts ({written} new) of {len(variants)} variants × {rows['question'].nunique()} questions"
    said = [size, *_findings(found, variants), paths.relative(paths.rollouts)]
    return f"[roll_out] {paths.trait}: {'; '.join(said)}"


def _findings(found: Rollouts, variants: pd.DataFrame) -> list[str]:
    """Return the trait score of plain, what moved it most, told or steered, each way, and how good the classifier is."""
    said = [
        f"classifier {describe(who)}" for who in found.scored_by.values() if who.get("judge") == "classifier"
    ][-1:]
    known = variants[variants["trait"].notna()]
    if known.empty:
        return ["no trait score yet (--score judge)", *said]

    plain = [f"plain {row['trait']:.1f}" for _, row in known[known["arm"] == PLAIN].iterrows()]
    moved = known[known["trait_difference"].notna()].set_index("variant", drop=False)
    told, steered = moved[moved["method"].isna()], moved[moved["method"].notna()]
    by = "trait_difference"
    extremes = [part[by].astype(float) for part in (told, steered) if len(part)]
    names = dict.fromkeys(name for values in extremes for name in (values.idxmax(), values.idxmin()))
    return [*plain, *(_say(moved.loc[name]) for name in names), *said]


def _say(row: "pd.Series[Any]") -> str:
    low, high = row["trait_difference_low"], row["trait_difference_high"]
    between = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    coherence = "" if pd.isna(row["coherence"]) else f", coherence {row['coherence']:.0f}"
    return f"{row['variant']}: {row['trait_difference']:+.1f}{between}{coherence}"
