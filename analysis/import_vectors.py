"""Take vectors that were made elsewhere into an experiment, as a method beside those that were fitted."""

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from torch import Tensor

from analysis.exchange.bundle import Foreign, Shape
from analysis.exchange.facts import model_type, public_name
from analysis.exchange.formats import read_vectors
from analysis.separation import describe_vector
from extraction.activations import fitted_sides, read_captured
from extraction.imported import imported_metadata
from extraction.methods import FitOptions, fit_functions
from utils.artifacts import read_json, save_tensor, write_json
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from utils.layers import parse_layers
from utils.paths import TraitPaths
from utils.stage import provenance

NAME = re.compile(r"(?!.*_layer\d)[A-Za-z][\w-]{0,60}", re.ASCII)
SCRIPT = "import_vectors"


@dataclass(frozen=True)
class ImportOptions:
    """Import a trait's vectors from a file, as a method that stage 5 (--method) and all that reads vectors knows by its name.

    Args:
        experiment: Experiment, of the model that the vectors are for, whose stages 1 to 4 have run.
        trait: A trait, as category/name.
        file: The file.
        format: What it is: safetensors, gguf, repeng or persona_vectors.
        method: Name of the method that the vectors become; those of an earlier import under it are replaced.
        layers: Layers to take: all that are in the file, 16, 5-20, 0-75:5, 30%-60%.
        made_by: Who made them, and how, for the record; a file may say so itself.
    """

    experiment: str
    trait: str
    file: str
    format: str
    method: str = "imported"
    layers: str = "all"
    made_by: str = ""


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(ImportOptions)


def main(**given: Any) -> None:
    """Read, check, measure and store.

    Raises:
        UserError: a flag or the file is wrong, or the experiment has no activations to measure the vectors on.
    """
    options = pick(ImportOptions, given)
    paths, file = TraitPaths(options.experiment, options.trait), Path(options.file).expanduser()
    check_method(options.method)
    captured = read_captured(paths)
    fitted_on = read_json(paths.fitted_on)
    fitted_sides(captured, fitted_on, [0])  # refuses what could not be measured
    shape, model = Shape(*captured.activations.shape[1:]), captured.metadata["made_by"]["model"]
    foreign = read_vectors(file, options.format, shape)
    vectors = choose(foreign.vectors, options.layers, shape.n_layers, file)
    made_by = {"stage": SCRIPT, "model": model, "git_commit": provenance()["git_commit"]}
    about = {"made_by": made_by, "component": foreign.said.get("component", "residual"), "position": foreign.said.get("position")}
    about["origin"] = describe_origin(foreign, options)
    drop(paths, options.method)
    for layer, vector in vectors.items():
        identity = {"trait": paths.trait, "method": options.method, "layer": layer}
        measured = describe_vector(vector, {key: a[:, 0] for key, a in fitted_sides(captured, fitted_on, [layer]).items()})
        save_tensor(paths.vector(options.method, layer), vector)
        write_json(paths.vector_metadata(options.method, layer), identity | about | measured)
    print(f"{paths.trait}: {len(vectors)} vectors of {file.name} imported; 5_steer_evaluate --method {options.method} steers with them")
    for doubt in doubts(foreign.said, model, options.format == "persona_vectors" and shape.n_layers - 1 in vectors):
        print(f"note: {doubt}")


def describe_origin(foreign: Foreign, options: ImportOptions) -> dict:
    """Return where vectors come from, as their metadata and stage 5's results say it."""
    made_by = options.made_by or foreign.said.get("made_by")
    return {"file": Path(options.file).name, "sha256": foreign.sha256, "format": options.format, "made_by": made_by, "said": foreign.said}


def doubts(said: dict[str, str], model: dict, has_last_row: bool) -> list[str]:
    """Return what speaks against a file's being for this model; what a file says of itself proves nothing, so that it is not refused."""
    ours = {"model_type": model_type(model["architecture"]), "model_name": public_name(model["name"])}
    found = [f"the file says {key} {said[key]}; this experiment's is {value}" for key, value in ours.items() if said.get(key, value) != value]
    if has_last_row:
        found.append("if persona_vectors made this file, its last row comes from behind the final norm, and is not what the last block puts out")
    return found


def check_method(name: str) -> None:
    """Raise UserError for a name that is no file's, or that of a method which is fitted here."""
    if not NAME.fullmatch(name):
        raise UserError(f"--method {name!r}: letters, digits, '-' and '_', beginning with a letter, and no '_layer' with a number after it")
    if name in fit_functions(FitOptions()):
        raise UserError(f"--method {name}: that is a method of 4_fit_vectors; choose another name")


def choose(found: dict[int, Tensor], layers: str, n_layers: int, file: Path) -> dict[int, Tensor]:
    """Return the vectors of the layers asked for.

    Raises:
        UserError: the file has none for one of them.
    """
    if layers == "all":
        return found
    asked = parse_layers(layers, n_layers)
    if absent := [layer for layer in asked if layer not in found]:
        raise UserError(f"{file} has no vector for layer {absent[0]}; it has {', '.join(map(str, found))}")
    return {layer: found[layer] for layer in asked}


def drop(paths: TraitPaths, method: str) -> None:
    """Delete the vectors of an earlier import under this name."""
    for key in imported_metadata(paths):
        if key[0] == method:
            paths.vector(*key).unlink(missing_ok=True)
            paths.vector_metadata(*key).unlink()


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(ImportOptions) or "")
