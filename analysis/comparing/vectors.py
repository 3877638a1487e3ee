"""Which vectors of a trait stand side by side: those of one layer, fitted on one model's activations."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from traitscope.analysis.comparing.options import ComparisonOptions
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.vectors import RANDOM, Key, Vector, list_vectors, read_vector
from traitscope.utils.stage.layers import parse_layers, usual_layer


class Choice(NamedTuple):
    """Which vectors are compared."""

    layers: list[int]
    keys: list[Key]
    notes: list[str]  # methods that have no vector there, and where they have one


def choose_vectors(paths: TraitPaths, options: ComparisonOptions) -> Choice:
    """Return method and layer of every vector that is compared; the random ones only where they are named.

    Raises:
        UserError: a method is unknown, or no vector is at any of the layers.
    """
    n_layers = read_activations_about(paths).shape[1]
    spec = options.compare_layers
    layers = parse_layers(spec, n_layers) if spec else [usual_layer(n_layers)]
    found = list_vectors(paths)
    known = list(dict.fromkeys(method for method, _ in found))
    methods = list(dict.fromkeys(options.compare_methods)) or [m for m in known if m != RANDOM]
    if unknown := [method for method in methods if method not in known]:
        raise UserError(
            f"{paths.trait} has no vector of {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )

    keys = [(method, layer) for layer in layers for method in methods if (method, layer) in found]
    if not keys:
        there = sorted({layer for method, layer in found if method in methods})
        raise UserError(f"{paths.trait} has no vector at layer {_said(layers)}; there are at {_said(there)}")
    return Choice(layers, keys, [note for m in methods if (note := _absence(m, layers, found))])


def _absence(method: str, layers: list[int], found: Iterable[Key]) -> str:
    """Return a note on the layers at which a method has no vector; empty where there are none."""
    own = sorted(layer for m, layer in found if m == method)
    lacking = [layer for layer in layers if layer not in own]
    return f"{method} has no vector at layer {_said(lacking)}, but at {_said(own)}" if lacking else ""


def _said(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def read_vectors(paths: TraitPaths, keys: Iterable[Key], lm: LM) -> tuple[list[Vector], list[str]]:
    """Return vectors that belong on a model, and notes on those that were made with other settings of it.

    Raises:
        UserError: one is damaged, of other activations, of another width, or of another model: a cosine between
            vectors of two models says nothing.
    """
    vectors = [read_vector(paths, key) for key in keys]
    notes = [note for vector in vectors if (note := vector.require_fit(lm))]
    for vector in vectors:
        fitted = vector.about.made_by.get("model") or {}
        if fitted.get("identity") not in (None, lm.identity["identity"]):
            raise UserError(
                f"the {vector.method} vector of {paths.trait} is of {fitted.get('name')}, and not of "
                f"{lm.identity['name']}: vectors of two models are not compared"
            )
    return vectors, list(dict.fromkeys(notes))


def cosines_of(vectors: list[Vector]) -> list[dict]:
    """Return the cosine of every vector with every other one of its layer."""
    units = {vector.about.key: vector.unit.double() for vector in vectors}
    return [
        {"layer": a[1], "method": a[0], "other": b[0], "cosine": float(units[a] @ units[b])}
        for a in units
        for b in units
        if a[1] == b[1] and a != b
    ]


def push_of(vector: Vector, dose: float) -> Tensor:
    """Return what is added at a dose: [d_model], on the CPU, float32."""
    push = vector.push(dose)
    return push.coefficient * push.vector
