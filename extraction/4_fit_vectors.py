"""Stage 4: one trait vector per method and layer, judged on held-out responses."""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from torch import Tensor

from analysis.separation import describe_vector
from extraction.activations import SPLITS, Captured, fitted_sides, read_captured
from extraction.imported import Key, clear_fitted, read_imported
from extraction.methods import DegenerateError, Fit, FitOptions, fit_directions, fit_functions, require_known
from extraction.vetting import Thresholds, require_usable, usable_responses
from utils.artifacts import read_json, save_tensor, write_json
from utils.errors import UserError
from utils.experiment import stage_main
from utils.layers import parse_layers
from utils.paths import TraitPaths
from utils.stage import Stage

NAME = "4_fit_vectors"


def fit_vectors(
    paths: TraitPaths,
    *,
    fit: FitOptions,
    thresholds: Thresholds,
    methods: tuple[str, ...] = ("mean_diff", "probe", "ica", "gradient", "random"),
    fit_layers: str = "all",
    no_vet: bool = False,
    min_usable: int = 10,
) -> dict:
    """Fit vectors that point from neg to pos, and measure how they separate held-out responses.

    Args:
        methods: mean_diff, probe, ica, gradient, random.
        fit_layers: Layers to fit: all, 16, 5-20, 0-75:5, 30%-60%.
        no_vet: Use every response, whatever its score.
        min_usable: Usable responses per side below which the trait stops.
    """
    functions = fit_functions(fit)
    require_known(methods, functions)
    captured = read_captured(paths)
    layers = parse_layers(fit_layers, captured.activations.shape[1])
    keys = None if no_vet else usable_responses(paths, thresholds, captured.metadata["responses_sha256"])
    rows = [r for r in captured.rows if keys is None or r["key"] in keys]
    require_usable(paths.trait, [r["side"] for r in rows], min_usable)
    fitted_on = {"activations_sha256": captured.metadata["sha256"]} | {s: [r["key"] for r in rows if r["split"] == s] for s in SPLITS}
    fitted: dict[Key, tuple[Tensor, dict]] = {}
    for chunk in captured.chunks(layers):
        fitted |= _fit_chunk(paths.trait, chunk, {method: functions[method] for method in methods}, fitted_sides(captured, fitted_on, chunk))
    foreign = read_imported(paths, captured.activations.shape[2])
    clear_fitted(paths, foreign)  # only now that all are fitted: vectors of an earlier run must not stay among them
    for (method, layer), (vector, metadata) in fitted.items():
        save_tensor(paths.vector(method, layer), vector)
        write_json(paths.vector_metadata(method, layer), {"trait": paths.trait, "method": method, "layer": layer} | _origin(captured) | metadata)
    for (method, layer), (vector, known) in foreign.items():  # what was imported is measured on the new activations
        acts = {key: a[:, 0] for key, a in fitted_sides(captured, fitted_on, [layer]).items()}
        write_json(paths.vector_metadata(method, layer), known | describe_vector(vector, acts))
    write_json(paths.fitted_on, fitted_on)
    best = max((m["val"]["auroc"] for (method, _), (_, m) in fitted.items() if method != "random" and m["val"]), default=0.0)
    return {"vectors": len(fitted), "best held-out AUROC": best}


def _fit_chunk(trait: str, layers: list[int], functions: dict[str, Fit], acts: dict[tuple[str, str], Tensor]) -> dict[Key, tuple[Tensor, dict]]:
    """Return {(method, layer): (vector, what is measured of it)} for some layers."""
    found: dict[Key, tuple[Tensor, dict]] = {}
    for method, function in functions.items():
        vectors = _fit(f"{trait}, method {method}", layers, function, acts)
        found |= {(method, n): (vectors[i], describe_vector(vectors[i], {key: a[:, i] for key, a in acts.items()})) for i, n in enumerate(layers)}
    return found


def _fit(what: str, layers: list[int], function: Fit, acts: dict[tuple[str, str], Tensor]) -> Tensor:
    try:
        return fit_directions(function, acts["pos", "train"], acts["neg", "train"])
    except DegenerateError as error:
        raise UserError(f"{what}, layer {layers[error.index]}: {error.cause}") from None
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None


def _origin(captured: Captured) -> dict:
    return {name: captured.metadata[name] for name in ("made_by", "component", "position")}


def _vector_files(paths: TraitPaths, params: dict) -> list[Path]:
    layers = parse_layers(params["fit_layers"], read_json(paths.activations_metadata)["shape"][1])
    return [paths.fitted_on] + [file(m, layer) for m in params["methods"] for layer in layers for file in (paths.vector, paths.vector_metadata)]


STAGE = Stage(
    name=NAME,
    run=fit_vectors,
    version=3,
    # the metadata carries the tensor's digest, so that a check need not read a large file
    inputs=lambda paths, params: [paths.activations_metadata, *([] if params["no_vet"] else [paths.response_scores])],
    outputs=_vector_files,
)

if __name__ == "__main__":
    stage_main(STAGE)
