"""One trait's vectors compared, as a stage of its own: it runs when what it reads has changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from traitscope.analysis.comparing.arms import Pushes, draw_randoms, measure_arms
from traitscope.analysis.comparing.costs import Costs
from traitscope.analysis.comparing.figures import draw_cosines, draw_costs
from traitscope.analysis.comparing.options import ComparisonOptions
from traitscope.analysis.comparing.rows import add_costs, describe
from traitscope.analysis.comparing.texts import HeldOutTexts, held_out_texts, neutral_texts
from traitscope.analysis.comparing.vectors import choose_vectors, cosines_of, push_of, read_vectors
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import remove, write_figure
from traitscope.utils.files.journal import Journal
from traitscope.utils.files.paths import SIDES, TraitPaths, question_pool
from traitscope.utils.files.reading import is_there
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.activations import Captured, read_captured
from traitscope.utils.records.compared_vectors import (
    TABLES,
    as_table,
    record_file,
    table_file,
    write_compared,
)
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.own_texts import Text
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.vectors import Vector
from traitscope.utils.stage.stage import Stage

NAME = "compare_vectors"
FIGURES = {"cosines": draw_cosines, "costs": draw_costs}


def compare(
    paths: TraitPaths,
    *,
    model: ModelOptions,
    comparison: ComparisonOptions,
    thresholds: Thresholds,
    no_vet: Annotated[bool, "Use every response, whatever its score."] = False,
) -> dict:
    """Compare a trait's vectors: write the tables and the figures.

    Raises:
        UserError: a vector is missing, damaged, or of another model.
    """
    comparison.check()
    choice = choose_vectors(paths, comparison)
    captured = read_captured(paths)
    if captured.about.component != "residual":
        raise UserError(
            f"{paths.trait}: its vectors are of {captured.about.component}; vectors of the residual stream are compared"
        )

    lm = load_lm(model)
    vectors, notes = read_vectors(paths, choice.keys, lm)
    limits = None if no_vet else thresholds
    own = held_out_texts(paths, lm, captured.about, limits, comparison.compare_texts)
    neutral = neutral_texts(paths, lm, comparison.neutral_texts, Journal(paths.journal(NAME)))
    notes += choice.notes + _absences(own)

    rows: dict[str, list[dict]] = {"vectors": [], "cosines": cosines_of(vectors), "costs": []}
    for layer in choice.layers:
        here = [vector for vector in vectors if vector.layer == layer]
        if here:
            found, costs = _compare_layer(paths, lm, here, captured, Read(own, neutral), comparison)
            rows["vectors"] += found
            rows["costs"] += costs

    _write(paths, lm, rows, comparison, notes)
    return _summary(rows, own, notes)


@dataclass(frozen=True)
class Read:
    """What is read under every push."""

    own: HeldOutTexts
    neutral: list[Text]


def _compare_layer(
    paths: TraitPaths,
    lm: LM,
    vectors: Sequence[Vector],
    captured: Captured,
    texts: Read,
    options: ComparisonOptions,
) -> tuple[list[dict], list[dict]]:
    """Return one layer's rows of the tables `vectors` and `costs`."""
    layer, dose = vectors[0].layer, options.compare_dose
    rows = [describe(paths, vector, dose) for vector in vectors]
    activations = captured.activations[:, layer].float()  # all, passed or not: as in stage 5
    randoms = draw_randoms(activations, [v.tensor for v in vectors], options.compare_draws, options.null_seed)
    pushes = Pushes(layer, {v.method: push_of(v, dose) for v in vectors}, randoms)

    costs = Costs.at(lm, layer, options.positions)
    measured = measure_arms(costs, texts.own, pushes)
    for row in rows:
        add_costs(row, measured)
    _add_divergences(rows, costs, texts.neutral, pushes)
    return rows, measured


def _add_divergences(rows: list[dict], costs: Costs, neutral: Sequence[Text], pushes: Pushes) -> None:
    """Add how far every vector and the random directions move the predictions on neutral answers."""
    if not neutral:
        return
    every = torch.cat([torch.stack(list(pushes.vectors.values())), pushes.random()])
    lengths = torch.tensor([len(text.response_ids) for text in neutral]).double().numpy()
    found = costs.divergence(neutral, every) @ (lengths / lengths.sum())
    own, random = found[: len(rows)], found[len(rows) :]
    for row, value in zip(rows, own, strict=True):
        row |= {
            "kl": float(value),
            "kl_random": float(random.mean()),
            "kl_random_lowest": float(random.min()),
            "kl_random_highest": float(random.max()),
        }


def _absences(own: HeldOutTexts) -> list[str]:
    """Return notes on what there is no text for."""
    lacking = {
        "no positive response that passed is held out: no loss is measured on any": not own.pos,
        "no negative response that passed is held out: no loss is measured on any": not own.neg,
        "the prompts with which responses were generated do not ask for the trait: no loss is of a prompted model": own.pos
        and not any(own.prompted),
    }
    return [note for note, is_so in lacking.items() if is_so]


def _write(
    paths: TraitPaths, lm: LM, rows: dict[str, list[dict]], options: ComparisonOptions, notes: Sequence[str]
) -> None:
    folder = paths.compared_vectors
    tables = {name: as_table(rows[name], columns) for name, columns in TABLES.items()}
    layers = sorted(set(tables["vectors"]["layer"].tolist()))
    for old in folder.glob("*.png"):  # of other layers
        remove(old)
    for name, draw in FIGURES.items():
        for layer in layers:
            here = {key: table[table["layer"] == layer] for key, table in tables.items()}
            write_figure(figure_file(folder, name, layer), draw(f"{paths.trait}, layer {layer}", here))
    about: dict[str, Any] = {
        "trait": paths.trait,
        "made_by": {"stage": NAME, "model": lm.identity},
        "options": asdict(options),
        "layers": layers,
        "notes": list(notes),
    }
    write_compared(folder, about, tables)


def figure_file(folder: Path, name: str, layer: int) -> Path:
    """Return where a figure lies."""
    return table_file(folder, f"{name}_layer{layer}", "png")


def _summary(rows: dict[str, list[dict]], own: HeldOutTexts, notes: Sequence[str]) -> dict:
    measured = [row for row in rows["vectors"] if row.get("loss_plus") is not None]
    best = min(measured, key=lambda row: row["change"], default=None)
    return {
        "vectors": len(rows["vectors"]),
        "held-out texts": len(own.pos) + len(own.neg),
        "loss": best and f"{best['loss_unsteered']:.3f} → {best['loss_plus']:.3f} ({best['method']})",
        "note": "; ".join(notes) or None,
    }


def _inputs(paths: TraitPaths, params: dict[str, Any]) -> list[Path]:
    """Return every file that is read; the activations' alone where they are missing."""
    if not is_there(paths.activations_metadata):
        return [paths.activations_metadata]

    options = ComparisonOptions(
        compare_methods=params["compare_methods"], compare_layers=params["compare_layers"]
    )
    keys = choose_vectors(paths, options).keys
    pool = question_pool(paths.root)
    maybe = [
        paths.fitted_on,
        paths.steering_results,
        *(paths.training(m) for m in dict.fromkeys(k[0] for k in keys)),
    ]
    return [
        paths.activations_metadata,
        *(paths.responses(side) for side in SIDES),
        *([] if params["no_vet"] else [paths.response_scores]),
        *(file for key in keys for file in (paths.vector(*key), paths.vector_metadata(*key))),
        *dataset_files(paths),
        *([pool] if pool.is_relative_to(paths.root) else []),
        *(file for file in maybe if is_there(file)),
    ]


def _outputs(paths: TraitPaths, params: dict[str, Any]) -> list[Path]:
    folder = paths.compared_vectors
    tables = [table_file(folder, name, ending) for name in TABLES for ending in ("parquet", "csv")]
    return [record_file(folder), *tables, *sorted(folder.glob("*.png"))]


COMPARE = Stage(name=NAME, run=compare, inputs=_inputs, outputs=_outputs)
