"""What a run found, in one row per trait: a table, summary.json and summary.csv."""

import textwrap
from itertools import zip_longest
from typing import Literal

import pandas as pd

from traitscope.extraction.report.words import fall_of, percent
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import FIT, VET_RESPONSES, VET_SCENARIOS, ExperimentPaths, TraitPaths
from traitscope.utils.measures.intervals import benjamini_hochberg
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.scores import Thresholds, read_scores
from traitscope.utils.records.shaped import Shaped
from traitscope.utils.records.vectors import list_vectors
from traitscope.utils.records.verdict import Verdict, read_verdict

WIDTH = 46  # of one column of example text
HEADINGS = {
    "trait": "trait",
    "scenario_pass_rate": "scenarios pass",
    "response_pass_rate": "responses pass",
    "vectors": "vectors",
    "held_out": "best held-out AUROC",
    "chosen": "method × layer × dose",
    "effect": "effect [95 %]",
    "odd_part": "odd part",
    "random": "random odd parts",
    "z": "z",
    "p": "p",
    "q": "q",
    "coherence": "coherence",
    "verdict": "verdict",
}


def summarise(paths: TraitPaths, steered: TraitPaths, thresholds: Thresholds) -> dict:
    """Return one trait's results as they stand on disk; None for what no completed stage has left there.

    Args:
        paths: Where the vectors were made.
        steered: Where they were steered with; often the same.
        thresholds: Which scores pass.
    """
    row = {
        "trait": paths.trait,
        "scenario_pass_rate": _pass_rate(paths, "scenarios", thresholds),
        "response_pass_rate": _pass_rate(paths, "responses", thresholds),
        **_fitted(paths),
    }
    return row | _steered(read_verdict(steered))


def _steered(found: Verdict | None) -> dict:
    """Return what stage 5 found; q stays open until somebody knows all traits of the experiment, over which
    p is adjusted: the p that the verdict rests on.
    """
    names = (
        *("method", "layer", "dose", "effect", "odd_part", "random_range", "z", "p", "q"),
        *("coherence_before", "coherence_after", "verdict", "why", "example"),
    )
    if found is None:
        return dict.fromkeys(names)

    null = found.random
    values = (
        *(found.chosen.method, found.chosen.layer, found.chosen.dose),
        *(_plain(found.effect), _plain(found.odd_part)),
        *((list(null.range), null.z, found.rests_on) if null else (None, None, None)),
        *(None, found.coherence.get("unsteered"), found.coherence.get("plus")),
        *(found.verdict, found.why, _plain(found.example)),
    )
    return dict(zip(names, values, strict=True))


def _plain(part: Shaped | None) -> dict | None:
    return part.model_dump() if part else None


def _pass_rate(
    paths: TraitPaths, of: Literal["scenarios", "responses"], thresholds: Thresholds
) -> float | None:
    if not paths.has_completed(VET_SCENARIOS if of == "scenarios" else VET_RESPONSES):
        return None
    rate = thresholds.pass_rate(read_scores(paths, of).sided)
    return None if rate is None else round(rate, 4)


def _fitted(paths: TraitPaths) -> dict:
    """Return the number of vectors, and the best held-out AUROC over all but the random ones, with intervals
    that allow for its being the best.
    """
    if not paths.has_completed(FIT):
        return {"vectors": 0, "held_out": None}

    vectors = list(list_vectors(paths).values())
    best = best_held_out(paths, vectors)
    if best is None:
        return {"vectors": len(vectors), "held_out": None}

    names = (
        "auroc",
        "auroc_low",
        "auroc_high",
        "cohens_d",
        "cohens_d_low",
        "cohens_d_high",
        "n_pos",
        "n_neg",
    )
    figures = {name: getattr(best.separation, name) for name in names}
    return {
        "vectors": len(vectors),
        "held_out": {
            "method": best.about.method,
            "layer": best.about.layer,
            "best_of": best.best_of,
            **figures,
        },
    }


def summarise_all(paths: ExperimentPaths, steered: str, thresholds: Thresholds) -> dict[str, dict]:
    """Return {trait: its results} of every trait of an experiment, and write them into summary.json and
    summary.csv; of a trait whose files cannot be read, only `problem`, a line that says why.

    The file is the same whichever run writes it last, of whichever traits.

    Args:
        steered: The experiment whose model was steered; often the same.
    """
    with hold(paths.summary_lock, "", wait=True):
        traits = [TraitPaths(paths.experiment, trait, paths.root) for trait in paths.traits]
        rows = [_summarise_one(trait, trait.within(steered), thresholds) for trait in traits]
        values = [row.get("p") for row in rows]
        for row, q in zip(rows, benjamini_hochberg(values), strict=True):
            row["q"] = None if q is None else round(q, 6)
        _write(paths, rows)

    return {row["trait"]: row for row in rows}


def _summarise_one(paths: TraitPaths, steered: TraitPaths, thresholds: Thresholds) -> dict:
    try:
        return summarise(paths, steered, thresholds)
    except UserError as error:
        return {"trait": paths.trait, "problem": str(error)}


def _write(paths: ExperimentPaths, rows: list[dict]) -> None:
    """Write both files; in the CSV nested values become columns such as effect.low."""
    write_json(paths.summary("json"), rows)
    flat = pd.json_normalize([{k: v for k, v in row.items() if k != "example"} for row in rows])
    write_text(paths.summary("csv"), flat.to_csv(index=False))


def render_table(rows: list[dict]) -> str:
    """Return the table for a terminal, one row per trait."""
    return pd.DataFrame([_cells(row) for row in rows]).rename(columns=HEADINGS).to_string(index=False)


def _cells(row: dict) -> dict[str, str]:
    held, effect, null = row["held_out"], row["effect"], row["random_range"]
    cells = {
        "trait": row["trait"],
        "scenario_pass_rate": percent(row["scenario_pass_rate"]),
        "response_pass_rate": percent(row["response_pass_rate"]),
        "vectors": str(row["vectors"]),
        "held_out": best_auroc(held),
        "chosen": f"{row['method']} × {row['layer']} × {row['dose']:g}" if row["method"] else "–",
        "odd_part": f"{row['odd_part']['mean']:+.1f}" if row["odd_part"] else "–",
        "effect": f"{effect['mean']:+.1f} [{effect['low']:+.1f}, {effect['high']:+.1f}]" if effect else "–",
        "random": f"{null[0]:+.1f} … {null[1]:+.1f}" if null else "–",
        "z": f"{row['z']:.1f}" if row["z"] is not None else "–",
        "p": f"{row['p']:.3f}" if row["p"] is not None else "–",
        "q": f"{row['q']:.3f}" if row["q"] is not None else "–",
        "coherence": fall_of(row["coherence_before"], row["coherence_after"]),
    }
    cells["verdict"] = row["verdict"] or "–"

    return {name: cells[name] for name in HEADINGS}


def best_auroc(held: dict | None) -> str:
    """Return the best held-out AUROC of a row as people read it."""
    if not held:
        return "–"
    return f"{held['auroc']:.2f} [{held['auroc_low']:.2f}, {held['auroc_high']:.2f}] of {held['best_of']}"


def render_example(row: dict) -> str:
    """Return one trait's example answers side by side: unsteered, +vector, −vector."""
    example = row["example"]
    if not example:
        return ""

    columns = {"unsteered": example["unsteered"], "+vector": example["plus"], "−vector": example["minus"]}
    wrapped = [
        [name, "-" * WIDTH, *textwrap.wrap(text or "(nothing)", WIDTH)] for name, text in columns.items()
    ]
    lines = [
        "  ".join(cell.ljust(WIDTH) for cell in line).rstrip() for line in zip_longest(*wrapped, fillvalue="")
    ]
    return "\n".join([f"{row['trait']}: {example['question']}", *lines])
