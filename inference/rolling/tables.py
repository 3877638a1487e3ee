"""Tables of rollouts: per question and per variant, with intervals over questions."""

from typing import Any

import numpy as np
import pandas as pd

from traitscope.utils.measures.intervals import mean_interval
from traitscope.utils.records.rollouts import PLAIN, SCORES, Rollouts

ABOUT = ["arm", "method", "layer", "dose", "coefficient", "norm", "system_prompt"]  # of a variant
IDS = ("prompt_ids", "response_ids", "response", "system_prompt_text")  # what no table needs


def as_frame(found: Rollouts) -> pd.DataFrame:
    """Return the rows without their texts."""
    kept = [name for name in found.rows.column_names if name not in IDS]
    return found.rows.select(kept).to_pandas(types_mapper=_nullable)


def _nullable(kind: object) -> object:
    return pd.Int64Dtype() if str(kind) == "int64" else None  # a missing layer stays a missing whole number


def per_question(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per variant and question: how many texts, and the mean of their scores; missing where none is
    scored.
    """
    grouped = rows.groupby(["variant", "question"], sort=False)
    means = grouped[[*(f"{name}_score" for name in SCORES), "words"]].mean().astype(float)
    counts = grouped[[f"{name}_score" for name in SCORES]].count()
    counts.columns = [f"{name}_scored" for name in SCORES]
    return pd.concat([grouped.size().rename("rows"), means, counts], axis=1).reset_index()


def per_variant(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per variant: every score's mean over questions with its 95 % interval, the difference to plain paired
    by question, what could not be scored, length, and sizes. Of a push whose opposite was rolled out too, the trait
    score's odd part, (score(+v) − score(−v)) / 2 paired by question: what it does because of its sign.

    Rollouts of one question are not independent: their mean is one value.
    """
    questions = per_question(rows)
    opposite = _opposites(rows)
    found = []
    for name, own in rows.groupby("variant", sort=False):
        about = own.iloc[0][ABOUT].to_dict()
        sizes = {"questions": own["question"].nunique(), "rows": len(own)}
        lengths = {"words": float(own["words"].mean()), "finished": float(own["is_finished"].mean())}
        figures = {"variant": name} | about | sizes | lengths
        for score in SCORES:
            figures |= _figures(questions, str(name), score) | _states(own, score)
        found.append(figures | _odd_part(questions, str(name), opposite.get(str(name))))
    return pd.DataFrame(found).convert_dtypes(convert_string=False, convert_floating=False)


def _figures(questions: pd.DataFrame, variant: str, score: str) -> dict:
    """Return a score's mean over questions, and its difference to plain."""
    by_question = questions.pivot(index="question", columns="variant", values=f"{score}_score")
    own = by_question[variant].dropna().to_numpy(float)
    figures = _interval(f"{score}", own, (0, 100))
    if PLAIN not in by_question or variant == PLAIN:
        return figures | _interval(f"{score}_difference", np.empty(0), (-100, 100))
    difference = (by_question[variant] - by_question[PLAIN]).dropna().to_numpy(float)
    return figures | _interval(f"{score}_difference", difference, (-100, 100))


def _opposites(rows: pd.DataFrame) -> dict[str, str]:
    """Return {a variant that pushes along its vector: the one that pushes as far the other way}."""
    pushes = rows.drop_duplicates("variant").dropna(subset=["coefficient"])
    places: dict[tuple, dict[float, str]] = {}
    for row in pushes.to_dict("records"):
        place = row["arm"], str(row["layer"]), str(row["system_prompt"])
        places.setdefault(place, {})[round(float(row["coefficient"]), 6)] = str(row["variant"])
    return {
        name: there[-far]
        for there in places.values()
        for far, name in there.items()
        if far > 0 and -far in there
    }


def _odd_part(questions: pd.DataFrame, plus: str, minus: str | None) -> dict:
    if minus is None:
        return _interval("trait_odd", np.empty(0), (-100, 100))
    scores = questions.pivot(index="question", columns="variant", values="trait_score")
    half = ((scores[plus] - scores[minus]) / 2).dropna().to_numpy(float)
    return _interval("trait_odd", half, (-100, 100))


def _interval(name: str, values: np.ndarray, scale: tuple[float, float]) -> dict:
    """Return a mean with its interval, of which what lies beyond the scale is cut away: no mean is there."""
    mean, low, high = mean_interval(values) if len(values) else (None, None, None)
    low, high = (None if end is None else float(np.clip(end, *scale)) for end in (low, high))
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(values)}


def _states(own: pd.DataFrame, score: str) -> dict[str, int]:
    """Return how many texts were scored, refused, could not be scored, and were never asked about."""
    states = own[f"{score}_state"]
    counts = {
        "scored": int((states == "scored").sum()),
        "refused": int((states == "refused").sum()),
        "unasked": int(states.isna().sum()),
    }
    counts["unscored"] = len(own) - sum(counts.values())
    return {f"{score}_{what}": n for what, n in counts.items()}


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows, None where something is missing."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


def describe(identity: dict) -> str:
    """Return how well a classifier tells unseen texts apart, in words."""
    low, high = identity["held_out_auroc_low"], identity["held_out_auroc_high"]
    return (
        f"held-out AUROC {identity['held_out_auroc']:.2f} [{low:.2f}, {high:.2f}], accuracy "
        f"{identity['held_out_accuracy']:.2f}"
    )
