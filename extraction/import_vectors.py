"""Take vectors that were made elsewhere into an experiment, as a method beside those that were fitted.

For example:

    python extraction/import_vectors.py --experiment demo --trait behavioral/formality --file v.gguf --format gguf
"""

import os
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from torch import Tensor

from traitscope.analysis.exchange.bundle import Foreign, Shape
from traitscope.analysis.exchange.facts import model_type, public_name
from traitscope.analysis.exchange.formats import read_vectors
from traitscope.extraction.fitting.methods import FitOptions, fit_functions
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import sweep_temporaries
from traitscope.utils.files.paths import FIT, TraitPaths
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.records.activations import fitted_sides, read_captured, read_fitted_on
from traitscope.utils.records.imported import write_imported
from traitscope.utils.records.trained import METHODS as TRAINED
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.layers import parse_layers
from traitscope.utils.stage.manifest import provenance
from traitscope.utils.stage.stage import only_one

NAME = re.compile(r"(?!.*_layer\d)[A-Za-z][\w-]{0,60}", re.ASCII)
SCRIPT = "import_vectors"


@dataclass(frozen=True)
class ImportOptions:
    """Import a trait's vectors from a file, as a method that stage 5 (--method) and all that reads
    vectors knows by its name.
    """

    experiment: str = flag(
        help="Experiment, of the model that the vectors are for, whose stages 1 to 4 have run."
    )
    trait: str = flag(help="A trait, as category/name.", also=("traits",))
    file: str = flag(help="The file.")
    format: str = flag(help="What it is: safetensors, gguf, repeng or persona_vectors.")
    method: str = flag(
        "imported",
        "Name of the method that the vectors become; those of an earlier import under it are replaced.",
    )
    layers: str = flag("all", "Layers to take: all that are in the file, 16, 5-20, 0-75:5, 30%-60%.")
    made_by: str = flag("", "Who made them, and how, for the record; a file may say so itself.")
    wait: bool = flag(False, "Wait for another process that writes vectors of the same trait.")


def import_vectors(options: ImportOptions) -> None:
    """Read, check, measure and store a file's vectors.

    Raises:
        UserError: a flag or the file is wrong, or the experiment has no activations to measure the vectors
            on.
    """
    check_method(options.method)
    paths = TraitPaths(options.experiment, options.trait)
    with only_one(FIT, paths, wait=options.wait):  # both write into the trait's vectors
        _import(paths, options)


def _import(paths: TraitPaths, options: ImportOptions) -> None:
    sweep_temporaries(paths.vectors)
    file = Path(os.path.expanduser(options.file))
    captured, fitted_on = read_captured(paths), read_fitted_on(paths)
    fitted_sides(captured, fitted_on, [0])  # refuses what could not be measured

    shape, model = Shape(*captured.activations.shape[1:]), captured.about.made_by["model"]
    foreign = read_vectors(file, options.format, shape)
    vectors = choose(foreign.vectors, options.layers, shape.n_layers, file)
    about = {
        "made_by": {"stage": SCRIPT, "model": model, "git_commit": provenance()["git_commit"]},
        "component": foreign.said.get("component", "residual"),
        "position": foreign.said.get("position"),
        "origin": describe_origin(foreign, options),
        "activations_sha256": captured.about.sha256,
    }

    measured = {}  # all of it before anything is written
    for layer, vector in vectors.items():
        acts = {key: a[:, 0] for key, a in fitted_sides(captured, fitted_on, [layer]).items()}
        measured[layer] = vector, about | describe_vector(vector, acts)
    write_imported(paths, options.method, measured)

    next_step = f"5_steer_evaluate --method {options.method} steers with them"
    print(f"{paths.trait}: {len(vectors)} vectors of {file.name} imported; {next_step}")
    for doubt in doubts(
        foreign.said, model, options.format == "persona_vectors" and shape.n_layers - 1 in vectors
    ):
        print(f"note: {doubt}")


def describe_origin(foreign: Foreign, options: ImportOptions) -> dict:
    """Return where vectors come from, as their metadata and stage 5's results say it."""
    made_by = options.made_by or foreign.said.get("made_by")
    return {
        "file": Path(options.file).name,
        "sha256": foreign.sha256,
        "format": options.format,
        "made_by": made_by,
        "said": foreign.said,
    }


def doubts(said: dict[str, str], model: dict, has_last_row: bool) -> list[str]:
    """Return what speaks against a file's being for this model; what a file says of itself proves
    nothing, so that it is not refused.
    """
    ours = {"model_type": model_type(model["architecture"]), "model_name": public_name(model["name"])}
    found = [
        f"the file says {key} {said[key]}; this experiment's is {value}"
        for key, value in ours.items()
        if said.get(key, value) != value
    ]
    if has_last_row:
        found.append(
            "if persona_vectors made this file, its last row comes from behind the final norm, and is not "
            "what the last block puts out"
        )

    return found


def check_method(name: str) -> None:
    """Raise UserError for a name that is no file's, or that of a method which is fitted here."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"--method {name!r}: letters, digits, '-' and '_', beginning with a letter, and no '_layer' "
            "with a number after it"
        )
    if name in fit_functions(FitOptions()) or name in TRAINED:
        raise UserError(f"--method {name}: that is a method of traitscope's own; choose another name")


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


if __name__ == "__main__":
    command(import_vectors)
