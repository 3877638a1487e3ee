"""What stage 5 may steer with: vectors of several methods and layers, perhaps with other traits' added,
and where their nulls come from.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from traitscope.analysis.steering.setting import Candidates
from traitscope.extraction.fitting.methods import (
    FitOptions,
    fit_functions,
    fit_shuffled,
    require_known,
    rival_of,
)
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import FIT, TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.measures.directions import combine
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import (
    Captured,
    FittedOn,
    fitted_sides,
    is_of,
    read_captured,
    read_fitted_on,
)
from traitscope.utils.records.choice import keys_of, parse_weight
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.imported import imported_layers
from traitscope.utils.records.vectors import Key, Vector, read_vector
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.layers import USUAL_LAYERS


@dataclass(frozen=True)
class SteeringVectors:
    """Which vectors are steered with."""

    vectors_from: str = flag("", "Experiment whose vectors are used; by default this one.")
    layers: str = flag(USUAL_LAYERS, "Layers to steer: all, 16, 5-20, 0-75:5, 30%-60%.")
    method: tuple[str, ...] = flag(("mean_diff", "probe"), "Methods whose vectors are tried.")
    with_traits: tuple[str, ...] = flag(
        (),
        (
            "Other traits whose vectors are added to this one's, as category/name:weight; a weight below 0 "
            "subtracts."
        ),
    )
    gate_trait: str = flag(
        "",
        (
            "Steer only where this trait's vector (of the same method and layer) projects above a threshold "
            "found on dev."
        ),
    )

    heading = "Vectors"
    is_setting = True  # a key of config.json

    def keys(self, source: TraitPaths) -> list[Key]:
        """Return every (method, layer) asked for.

        Raises:
            UserError: an unknown method, a layer that the model does not have, or an imported method without
                any of the layers.
        """
        fitted = fit_functions(FitOptions())
        imported = {} if set(self.method) <= fitted.keys() else imported_layers(source)
        require_known(self.method, [*fitted, *imported])
        return keys_of(source, self.layers, self.method, imported)

    def gate(self, source: TraitPaths) -> TraitPaths | None:
        """Return the trait that opens the gate, where there is one."""
        return replace(source, trait=self.gate_trait) if self.gate_trait else None


@dataclass(frozen=True)
class Loaded:
    """Every vector that steering reads, and what of them is steered with."""

    source: TraitPaths
    vectors: dict[Key, Vector]  # of the trait itself
    added: list[tuple[float, dict[Key, Vector]]]  # other traits', by their weights
    gates: dict[Key, Vector] | None

    def combined(self, key: Key, main: Tensor) -> Tensor:
        """Return a vector with the other traits' of the same method and layer added; the main one may be
        a null's.
        """
        return (
            combine(main, [(weight, vectors[key].tensor) for weight, vectors in self.added])
            if self.added
            else main
        )

    def require_fit(self, lm: LM) -> None:
        """Refuse a model that one of the vectors does not belong on; say once where it is a sibling of
        the one they were fitted on.

        Raises:
            UserError: as `Vector.require_fit` says.
        """
        owners = [
            self.vectors,
            *(vectors for _, vectors in self.added),
            *([self.gates] if self.gates else []),
        ]
        for vectors in owners:
            notes = dict.fromkeys(note for vector in vectors.values() if (note := vector.require_fit(lm)))
            for note in notes:
                print(note, flush=True)


def load_vectors(source: TraitPaths, options: SteeringVectors) -> Loaded:
    """Read every vector that the options ask for.

    Raises:
        UserError: one is missing, damaged or unknown.
    """
    keys, gate = options.keys(source), options.gate(source)
    added = [
        (weight, {key: read_vector(paths, key) for key in keys})
        for weight, paths in parse_weighted(source, options.with_traits)
    ]
    gates = {key: read_vector(gate, key) for key in keys} if gate else None

    return Loaded(source, {key: read_vector(source, key) for key in keys}, added, gates)


def parse_weighted(source: TraitPaths, with_traits: tuple[str, ...]) -> list[tuple[float, TraitPaths]]:
    """Return (weight, paths) of traits written category/name:weight."""
    return [(weight, replace(source, trait=trait)) for trait, weight in map(parse_weight, with_traits)]


def vector_inputs(source: TraitPaths, options: SteeringVectors) -> list[Path]:
    """Return every file of an experiment that steering reads; the first one alone where it is missing."""
    if not is_there(source.activations_metadata):
        return [source.activations_metadata]

    gate = options.gate(source)
    owners = [
        source,
        *(paths for _, paths in parse_weighted(source, options.with_traits)),
        *([gate] if gate else []),
    ]
    values = [paths.vector(*key) for paths in owners for key in options.keys(source)]
    return [source.activations_metadata, source.fitted_on, *values]


def gather(loaded: Loaded, dataset: TraitDataset, fit: FitOptions, seed: int) -> Candidates:
    """Return what may be steered with.

    Raises:
        UserError: the vectors were not fitted on the activations that are there.
    """
    source = loaded.source
    captured, fitted_on = read_captured(source), read_fitted_on(source)
    if not is_of(captured, fitted_on):
        why = f"the vectors of {source.experiment} were not fitted on its activations"
        raise UserError(f"{source.trait}: {why}; run {FIT} first")

    def shuffled(method: str, layer: int) -> Tensor:
        return loaded.combined((method, layer), _shuffle(captured, fitted_on, fit, seed, (method, layer)))

    return Candidates(
        vectors={key: loaded.combined(key, vector.tensor) for key, vector in loaded.vectors.items()},
        # all responses, passed or not: those chosen because they show the trait would put it into every
        # "random" direction
        activations=lambda layer: captured.activations[:, layer].float(),
        is_pos=np.array([row.side == "pos" for row in captured.rows]),
        shuffled=shuffled,
        sign=-1 if dataset.direction == "negative" else 1,
        system_prompt=dataset.ask_for,
        gates={key: vector.tensor for key, vector in loaded.gates.items()} if loaded.gates else None,
        # a sum of several traits' vectors was not measured
        separation={
            key: v.about.val for key, v in loaded.vectors.items() if v.about.val and not loaded.added
        },
    )


def _shuffle(captured: Captured, fitted_on: FittedOn, fit: FitOptions, seed: int, key: Key) -> Tensor:
    """Return what a method fits at a layer to the same responses with their sides shuffled."""
    method, layer = key
    acts = fitted_sides(captured, fitted_on, [layer])
    return fit_shuffled(
        fit_functions(fit)[rival_of(method)], acts["pos", "train"], acts["neg", "train"], seed
    )
