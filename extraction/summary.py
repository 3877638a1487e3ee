"""What a run found, in one row per trait: a table, summary.json and summary.csv."""

import textwrap
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from extraction.vetting import Thresholds, read_scores
from utils.artifacts import read_json, write_json, write_text
from utils.paths import ExperimentPaths, TraitPaths

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
        "scenario_pass_rate": _pass_rate(paths, "0_vet_scenarios", paths.scenario_scores, thresholds),
        "response_pass_rate": _pass_rate(paths, "2_vet_responses", paths.response_scores, thresholds),
        **_fitted(paths),
    }
    results = read_json(steered.steering_results) if _has_completed(steered, "5_steer_evaluate") else {}
    chosen, null, coherence = results.get("chosen") or {}, results.get("random") or {}, results.get("coherence") or {}
    return row | {
        "method": chosen.get("method"),
        "layer": chosen.get("layer"),
        "dose": chosen.get("dose"),
        "effect": results.get("effect"),
        "odd_part": results.get("odd_part"),
        "random_range": null.get("range"),
        "z": null.get("z"),
        "p": null.get("p"),
        "permutation_p": results.get("permutation_p"),
        "q": None,  # permutation p adjusted over the traits of a run: whoever knows them all fills it in
        "coherence_before": coherence.get("unsteered"),
        "coherence_after": coherence.get("plus"),
        "verdict": results.get("verdict"),
        "why": results.get("why"),
        "example": results.get("example"),
    }


def _has_completed(paths: TraitPaths, stage: str) -> bool:
    return paths.manifest(stage).exists()


def _pass_rate(paths: TraitPaths, stage: str, path: Path, thresholds: Thresholds) -> float | None:
    if not _has_completed(paths, stage):
        return None
    content = read_json(path)
    rate = thresholds.pass_rate([(row["side"], score) for row, score in zip(content["rows"], read_scores(content), strict=True)])
    return None if rate is None else round(rate, 4)


def _fitted(paths: TraitPaths) -> dict:
    """The number of vectors, and the best held-out AUROC over all but the random ones."""
    if not _has_completed(paths, "4_fit_vectors"):
        return {"vectors": 0, "held_out": None}
    vectors = [read_json(file) for file in sorted(paths.vectors.glob("*_metadata.json"))]
    real = [v for v in vectors if v["method"] != "random" and v["val"]]
    best = max(real, key=lambda v: (v["val"]["auroc"], v["val"]["cohens_d"]), default=None)
    keys = ("auroc", "auroc_low", "auroc_high", "cohens_d", "cohens_d_low", "cohens_d_high", "n_pos", "n_neg")
    held_out = {"method": best["method"], "layer": best["layer"], "best_of": len(real), **{k: best["val"][k] for k in keys}} if best else None
    return {"vectors": len(vectors), "held_out": held_out}


def write_summary(paths: ExperimentPaths, rows: list[dict]) -> None:
    """Write summary.json and summary.csv (nested values become columns such as effect.low)."""
    write_json(paths.summary("json"), rows)
    write_text(paths.summary("csv"), pd.json_normalize([{k: v for k, v in row.items() if k != "example"} for row in rows]).to_csv(index=False))


def render_table(rows: list[dict]) -> str:
    """Return the table for a terminal, one row per trait."""
    return pd.DataFrame([_cells(row) for row in rows]).rename(columns=HEADINGS).to_string(index=False)


def _cells(row: dict) -> dict[str, str]:
    held, effect, null = row["held_out"], row["effect"], row["random_range"]
    cells = {
        "trait": row["trait"],
        "scenario_pass_rate": _percent(row["scenario_pass_rate"]),
        "response_pass_rate": _percent(row["response_pass_rate"]),
        "vectors": str(row["vectors"]),
        "held_out": f"{held['auroc']:.2f} [{held['auroc_low']:.2f}, {held['auroc_high']:.2f}]" if held else "–",
        "chosen": f"{row['method']} × {row['layer']} × {row['dose']:g}" if row["method"] else "–",
        "odd_part": f"{row['odd_part']['mean']:+.1f}" if row["odd_part"] else "–",
        "effect": f"{effect['mean']:+.1f} [{effect['low']:+.1f}, {effect['high']:+.1f}]" if effect else "–",
        "random": f"{null[0]:+.1f} … {null[1]:+.1f}" if null else "–",
        "z": f"{row['z']:.1f}" if row["z"] is not None else "–",
        "q": f"{row['q']:.3f}" if row["q"] is not None else "–",
        "coherence": f"{row['coherence_before']:.0f} → {row['coherence_after']:.0f}" if row["coherence_after"] is not None else "–",
    }
    cells["verdict"] = row["verdict"] or "–"
    return {name: cells[name] for name in HEADINGS}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def render_example(row: dict) -> str:
    """Return one trait's example answers side by side: unsteered, +vector, −vector."""
    example = row["example"]
    if not example:
        return ""
    columns = {"unsteered": example["unsteered"], "+vector": example["plus"], "−vector": example["minus"]}
    wrapped = [[name, "-" * WIDTH, *textwrap.wrap(text or "(nothing)", WIDTH)] for name, text in columns.items()]
    lines = ["  ".join(cell.ljust(WIDTH) for cell in line).rstrip() for line in zip_longest(*wrapped, fillvalue="")]
    return "\n".join([f"{row['trait']}: {example['question']}", *lines])
