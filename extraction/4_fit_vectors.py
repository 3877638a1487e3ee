"""Stage 4: one trait vector per method and layer, judged on held-out responses.

For example:

    python extraction/4_fit_vectors.py --experiment demo --traits behavioral/formality
"""

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from torch import Tensor

from traitscope.extraction.fitting.luck import count_candidates, project_held_out
from traitscope.extraction.fitting.methods import (
    DegenerateError,
    Fit,
    FitOptions,
    fit_directions,
    fit_functions,
    require_known,
)
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import remove
from traitscope.utils.files.paths import FIT, TraitPaths
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.records.activations import (
    SPLITS,
    Captured,
    FittedOn,
    fitted_sides,
    read_activations_about,
    read_captured,
    write_fitted_on,
)
from traitscope.utils.records.imported import clear_fitted, read_imported
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.scores import Thresholds, require_usable, usable_responses
from traitscope.utils.records.trained import METHODS as TRAINED
from traitscope.utils.records.vectors import Key, VectorAbout, write_about, write_vector
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.layers import parse_layers
from traitscope.utils.stage.stage import Stage

ALL = tuple(fit_functions(FitOptions()))
METHODS_HELP = (
    f"{', '.join(ALL)}: they replace all that this stage fitted for the trait before. In run_pipeline also "
    f"{', '.join(TRAINED)}, which train_vectors makes."
)


def own_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the methods that are fitted here; training leaves the others."""
    return tuple(method for method in methods if method not in TRAINED)


@dataclass(frozen=True)
class Asked:
    """Which methods."""

    methods: tuple[str, ...] = flag(ALL, METHODS_HELP, identify=own_methods)

    heading = "Fitting"
    is_setting = True  # a key of config.json


Fitted = dict[Key, tuple[Tensor, dict]]  # (method, layer) → vector [d_model], and what is measured of it


def fit_vectors(
    paths: TraitPaths,
    *,
    fit: FitOptions,
    thresholds: Thresholds,
    asked: Asked,
    fit_layers: Annotated[str, "Layers to fit: all, 16, 5-20, 0-75:5, 30%-60%."] = "all",
    no_vet: Annotated[bool, "Use every response, whatever its score."] = False,
    min_usable: Annotated[int, "Usable responses per side below which the trait stops."] = 10,
) -> dict:
    """Fit vectors that point from neg to pos, and measure how they separate held-out responses."""
    functions = fit_functions(fit)
    require_known(asked.methods, [*functions, *TRAINED])
    if not own_methods(asked.methods):
        raise UserError(f"--methods {','.join(asked.methods)} names none that is fitted here; add {ALL[0]}")
    captured = read_captured(paths)
    layers = parse_layers(fit_layers, captured.activations.shape[1])

    keys = None if no_vet else usable_responses(paths, thresholds, captured.about.responses_sha256)
    rows = [r for r in captured.rows if r.split in SPLITS and (keys is None or r.key in keys)]
    require_usable(paths.trait, [r.side for r in rows], min_usable)
    train, val = ([r.key for r in rows if r.split == split] for split in SPLITS)
    sha256 = captured.about.sha256
    fitted_on = FittedOn(trait=paths.trait, activations_sha256=sha256, train=train, val=val)

    fitted: Fitted = {}
    projected: list = []
    chosen = {method: functions[method] for method in own_methods(asked.methods)}
    for chunk in captured.chunks(layers):
        acts = fitted_sides(captured, fitted_on, chunk)
        found = _fit_chunk(paths.trait, chunk, chosen, acts)
        projected += project_held_out(found, chunk, acts)
        fitted |= found
    fitted_on = fitted_on.model_copy(update={"candidates": count_candidates(projected, fitted)})
    abouts = _write(paths, captured, fitted_on, fitted)

    best = best_held_out(paths, abouts)
    return {"vectors": len(fitted), "best held-out AUROC": str(best) if best else "none was measured"}


def _fit_chunk(
    trait: str, layers: list[int], functions: dict[str, Fit], acts: dict[tuple[str, str], Tensor]
) -> Fitted:
    """Fit every method at some layers."""
    found: Fitted = {}
    for method, function in functions.items():
        vectors = _fit(f"{trait}, method {method}", layers, function, acts)
        for i, layer in enumerate(layers):
            measured = describe_vector(vectors[i], {key: a[:, i] for key, a in acts.items()})
            found[method, layer] = vectors[i], measured

    return found


def _fit(what: str, layers: list[int], function: Fit, acts: dict[tuple[str, str], Tensor]) -> Tensor:
    try:
        return fit_directions(function, acts["pos", "train"], acts["neg", "train"])
    except DegenerateError as error:
        raise UserError(f"{what}, layer {layers[error.index]}: {error.cause}") from None
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def _write(paths: TraitPaths, captured: Captured, fitted_on: FittedOn, fitted: Fitted) -> list[VectorAbout]:
    """Write what was fitted, and measure what was imported anew, on the new activations."""
    imported = read_imported(paths, ALL)
    # only now that all are fitted; until their list is written at the end, none is believed
    remove(paths.fitted_on)
    clear_fitted(paths, [about.key for about, _, _ in imported])

    origin = {name: getattr(captured.about, name) for name in ("made_by", "component", "position")}
    origin["activations_sha256"] = captured.about.sha256
    written = [
        write_vector(paths, key, vector, origin | measured) for key, (vector, measured) in fitted.items()
    ]
    for about, vector, content in imported:
        acts = {key: a[:, 0] for key, a in fitted_sides(captured, fitted_on, [about.layer]).items()}
        measured = describe_vector(vector, acts) | {"activations_sha256": captured.about.sha256}
        write_about(paths, about.key, content | measured)
    digests = {paths.vector(*about.key).name: about.sha256 for about in written}
    write_fitted_on(paths, fitted_on.model_copy(update={"vectors": digests}))
    return written


def _inputs(paths: TraitPaths, params: dict) -> list[Path]:
    # the metadata carries the tensor's digest, so that a check need not read a large file
    return [paths.activations_metadata, *([] if params["no_vet"] else [paths.response_scores])]


def _outputs(paths: TraitPaths, params: dict) -> list[Path]:
    layers = parse_layers(params["fit_layers"], read_activations_about(paths).shape[1])
    keys = [(method, layer) for method in own_methods(params["methods"]) for layer in layers]
    return [paths.fitted_on, *(file(*key) for key in keys for file in (paths.vector, paths.vector_metadata))]


STAGE = Stage(name=FIT, run=fit_vectors, version=4, inputs=_inputs, outputs=_outputs)

if __name__ == "__main__":
    command(stage_command(STAGE))
