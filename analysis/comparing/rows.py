"""One row a vector: what is known of it from its files, and what it costs."""

from typing import Any

import numpy as np

from traitscope.analysis.comparing.arms import NOISE
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.records.compared_vectors import ARMS, cost_column
from traitscope.utils.records.trained import Training, Tried, read_training
from traitscope.utils.records.vectors import Vector, coefficient_of, dose_of


def describe(paths: TraitPaths, vector: Vector, dose: float) -> dict[str, Any]:
    """Return what a vector's files say of it; what they do not say is left out."""
    norm, mean_norm = float(vector.tensor.norm()), vector.mean_norm
    assert mean_norm is not None  # its activations' metadata were read
    read = vector.about.val
    row: dict[str, Any] = {
        "layer": vector.layer,
        "method": vector.method,
        "sha256": vector.sha256,
        "norm": norm,
        "mean_norm": mean_norm,
        "norm_as_dose": dose_of(1.0, mean_norm, norm),
        "dose": dose,
        "push_norm": dose * mean_norm,
        "coefficient": coefficient_of(dose, mean_norm, norm),
    }
    if read:
        row |= {
            "auroc": read.auroc,
            "auroc_low": read.auroc_low,
            "auroc_high": read.auroc_high,
            "auroc_n_pos": read.n_pos,
            "auroc_n_neg": read.n_neg,
        }
    return row | _trained(paths, vector)


def _trained(paths: TraitPaths, vector: Vector) -> dict[str, Any]:
    """Return how a vector was trained; nothing where no record says."""
    if not is_there(paths.training(vector.method)):
        return {}
    record = read_training(paths, vector.method)
    kept = next((t for t in record.tried if t.is_kept and t.layer == vector.layer), None)
    row: dict[str, Any] = {"objective": record.objective}
    if kept is None:  # nothing was lowered
        return row

    _require_same(vector, record, kept)
    agree = record.seeds_agree.get(str(vector.layer), [])
    row |= {
        "learning_rate": kept.learning_rate,
        "best_step": kept.best_step,
        "validation_loss": kept.best_loss,
        "plain_loss": record.plain_loss,
        "seeds": len({t.seed for t in record.tried if t.layer == vector.layer}),
    }
    return row | ({"seeds_cosine": float(np.mean(agree)), "seeds_cosine_lowest": min(agree)} if agree else {})


def _require_same(vector: Vector, record: Training, kept: Tried) -> None:
    """Refuse a record of another training than the vector's: of a run that was killed between the two."""
    said = (vector.about.origin or {}).get("said") or {}
    theirs = {"learning_rate": kept.learning_rate, "seed": kept.seed, "best_step": kept.best_step}
    if any(said.get(name, value) != value for name, value in theirs.items()):
        raise UserError(
            f"{record.trait}: the record of {record.method} is of another training than its vector; "
            "run train_vectors again"
        )


def add_costs(row: dict[str, Any], costs: list[dict]) -> None:
    """Add to a vector's row what the arms of its layer cost, where there are texts."""
    here = {(c["side"], c["arm"]): c for c in costs if c["method"] in (None, row["method"])}
    for side, arms in ARMS.items():
        for arm in arms:
            for what in ("loss", "perplexity"):
                row[cost_column(side, arm, what)] = here.get((side, arm), {}).get(what)
    if ("pos", "plus") not in here:
        return

    plus, random = here["pos", "plus"], here["pos", "random"]
    row |= {"texts": plus["n_texts"], "tokens": plus["n_tokens"]}
    row |= {f"loss_random_{end}": random[f"loss_{end}"] for end in ("lowest", "highest")}
    row |= {name: plus[name] for name in ("change", "change_low", "change_high")}
    row["efficiency"] = -plus["change"] / row["push_norm"]
    for share in NOISE:
        row[f"noise_{round(100 * share)}"] = here["pos", f"noise {share:g}"]["loss"] - plus["loss"]
