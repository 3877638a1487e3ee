"""Vectors on disk, as steering takes them: of several methods and layers, perhaps with other traits' vectors added."""

from pathlib import Path

from torch import Tensor

from extraction.imported import Key, imported_layers
from extraction.methods import FitOptions, fit_functions, require_known
from utils.artifacts import load_tensor, read_json
from utils.directions import combine
from utils.errors import UserError
from utils.layers import parse_layers
from utils.model import LM
from utils.paths import TraitPaths


def vector_keys(source: TraitPaths, layers: str, methods: tuple[str, ...]) -> list[Key]:
    """Return every (method, layer) asked for; of an imported method the layers that there are.

    Raises:
        UserError: an unknown method, a layer that the model does not have, or an imported method without any of the layers.
    """
    fitted = fit_functions(FitOptions())
    imported = {} if fitted.keys() >= set(methods) else imported_layers(source)
    require_known(methods, [*fitted, *imported])
    asked = parse_layers(layers, read_json(source.activations_metadata)["shape"][1])
    keys = [(m, layer) for m in methods for layer in asked if m in fitted or layer in imported[m]]
    for method in set(methods) - {m for m, _ in keys}:
        raise UserError(f"{method} was imported at {', '.join(map(str, imported[method]))}, and --layers {layers} names none of these")
    return keys


def load_vectors(source: TraitPaths, keys: list[Key], with_traits: tuple[str, ...] = ()) -> dict[Key, Tensor]:
    """Return {(method, layer): [d_model]}, each with the other traits' vectors of the same method and layer added by their weights."""
    d_model = read_json(source.activations_metadata)["shape"][2]
    return {key: add_traits(source, key, load_tensor(source.vector(*key), (d_model,)), with_traits) for key in keys}


def add_traits(source: TraitPaths, key: Key, main: Tensor, with_traits: tuple[str, ...]) -> Tensor:
    """Return a vector with other traits' vectors of the same method and layer added by their weights; the main one may be a null's."""
    added = [(weight, load_tensor(paths.vector(*key), tuple(main.shape))) for weight, paths in parse_weighted(source, with_traits)]
    return combine(main, added) if added else main


def parse_weighted(source: TraitPaths, with_traits: tuple[str, ...]) -> list[tuple[float, TraitPaths]]:
    """Return (weight, paths) of traits written category/name:weight; the weight is 1 where none is written.

    Raises:
        UserError: a weight is no number.
    """
    parsed = []
    for text in with_traits:
        trait, _, weight = text.partition(":")
        try:
            parsed.append((float(weight or 1), TraitPaths(source.experiment, trait, source.root)))
        except ValueError:
            raise UserError(f"--with-traits {text!r}: write category/name:weight, such as epistemic/confidence:0.5") from None
    return parsed


def vector_files(source: TraitPaths, params: dict) -> list[Path]:
    """Return every file of an experiment that steering reads, by the parameters of its stage; the first one alone where it is missing."""
    if not source.activations_metadata.exists():
        return [source.activations_metadata]
    gate = [TraitPaths(source.experiment, params["gate_trait"], source.root)] if params["gate_trait"] else []
    owners = [source, *(paths for _, paths in parse_weighted(source, params["with_traits"])), *gate]
    keys = vector_keys(source, params["layers"], params["method"])
    return [source.activations_metadata, source.fitted_on, *(paths.vector(*key) for paths in owners for key in keys)]


def require_fit(source: TraitPaths, lm: LM) -> None:
    """Raise UserError when the vectors are for a model of another shape."""
    n_layers, d_model = read_json(source.activations_metadata)["shape"][1:]
    if (lm.n_layers, lm.d_model) != (n_layers, d_model):
        raise UserError(
            f"the vectors of {source.experiment} are for {n_layers} layers of width {d_model}; {lm.identity['name']} has {lm.n_layers} of width "
            f"{lm.d_model}: steer a sibling of that model"
        )
