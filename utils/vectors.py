"""Vector cards: a trait vector with all that is known of where it came from. Whatever reads vectors to use them on a model reads them here."""

import re
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from utils.artifacts import digest, load_tensor, read_json
from utils.errors import UserError
from utils.layers import parse_layers
from utils.model import LM
from utils.paths import ExperimentPaths, TraitPaths

_BEST = re.compile(r"best(?:([+-])(\d+))?")
_FILE = re.compile(r"(.+)_layer(\d+)_metadata")


@dataclass(frozen=True)
class Card:
    """A vector as it was fitted, frozen: nothing that uses it may change it."""

    experiment: str
    trait: str
    method: str
    layer: int
    vector: Tensor  # [d_model], float32
    centre: float  # midpoint of the two sides' mean projections on the unit vector
    component: str
    position: str | None  # the tokens that the fitted activations were averaged over; None where a file from elsewhere does not say
    model: dict  # identity of the model that it was fitted on
    n_layers: int | None  # of that model, where its activations' metadata is there
    mean_norm: float | None  # mean residual norm of that model at the layer, likewise
    sha256: str
    why: str  # why this method and layer

    @cached_property
    def unit(self) -> Tensor:
        """The vector's direction, [d_model], of length 1."""
        return self.vector / self.vector.norm()

    @property
    def origin(self) -> dict:
        """What an artifact says about the vector it used."""
        names = ("experiment", "trait", "method", "layer", "centre", "component", "position", "sha256", "why")
        return {name: getattr(self, name) for name in names} | {"norm": round(float(self.vector.norm()), 6)}


def traits_with_vectors(paths: ExperimentPaths) -> list[str]:
    """Return every trait of an experiment that has vectors."""
    base = paths.dir / "extraction"
    return sorted({file.parents[1].relative_to(base).as_posix() for file in base.rglob("vectors/*_metadata.json")})


def cells(paths: TraitPaths) -> dict[tuple[str, int], dict]:
    """Return {(method, layer): metadata} of every vector of a trait."""
    files = {match: file for file in sorted(paths.vectors.glob("*_metadata.json")) if (match := _FILE.fullmatch(file.stem))}
    return {(match[1], int(match[2])): read_json(file) for match, file in files.items()}


def best_cell(paths: TraitPaths) -> tuple[str, int, str]:
    """Return method, layer and why: what steering proved to work, else what separates held-out responses best.

    Raises:
        UserError: the trait has no vectors.
    """
    found = cells(paths)
    if not found:
        raise UserError(f"{paths.trait} has no vectors in {paths.experiment}; run extraction/run_pipeline.py --experiment {paths.experiment} first")
    steered = read_json(paths.steering_results) if paths.steering_results.exists() else {}
    if steered.get("verdict") == "works" and (steered["chosen"]["method"], steered["chosen"]["layer"]) in found:
        return steered["chosen"]["method"], steered["chosen"]["layer"], "steering works there"
    measured = {cell: m["val"] for cell, m in found.items() if cell[0] != "random" and m.get("val")}
    if not measured:
        raise UserError(f"{paths.trait}: no vector was measured on held-out responses; name one with --layers and --method")
    method, layer = max(measured, key=lambda cell: (measured[cell]["auroc"], measured[cell]["cohens_d"]))
    return method, layer, f"best held-out AUROC, {measured[method, layer]['auroc']:.2f}"


def choose_cells(paths: TraitPaths, layers: str, method: str) -> list[tuple[str, int, str]]:
    """Return (method, layer, why) of what `--layers best,best+5,16` and `--method` ask for; no method means the best one's.

    Raises:
        UserError: the spec is malformed, or there is no such vector.
    """
    found = cells(paths)
    parts = [part.strip() for part in layers.split(",")]
    best = best_cell(paths) if not method or any(_BEST.fullmatch(part) for part in parts) else (method, 0, "")
    n_layers = 1 + max(layer for _, layer in found)
    chosen: dict[tuple[str, int], str] = {}
    for part in parts:
        relative = _BEST.fullmatch(part)
        named = [best[1] + int(f"{relative[1] or '+'}{relative[2] or 0}")] if relative else parse_layers(part, n_layers)
        for layer in named:
            if (method or best[0], layer) not in found:
                raise UserError(f"{paths.trait} has no vector of {method or best[0]} at layer {layer} in {paths.experiment}")
            why = best[2] if relative and (method or best[0], layer) == best[:2] else f"asked for as {part}"
            chosen.setdefault((method or best[0], layer), why)
    return [(*cell, why) for cell, why in chosen.items()]


def load_card(paths: TraitPaths, method: str, layer: int, why: str = "asked for") -> Card:
    """Read one vector and what is known of it.

    Raises:
        UserError: a file is missing or damaged, or says nothing about its model.
    """
    file, about = paths.vector(method, layer), read_json(paths.vector_metadata(method, layer))
    vector = load_tensor(file, (None,)).float()
    if not float(vector.norm()):
        raise UserError(f"{file} holds a zero vector, which has no direction")
    captured = read_json(paths.activations_metadata) if paths.activations_metadata.exists() else {}
    try:
        return Card(
            paths.experiment,
            paths.trait,
            method,
            layer,
            vector,
            float(about["centre"]),
            about["component"],
            about["position"],
            about["made_by"]["model"],
            captured["shape"][1] if captured else None,
            captured["mean_norms"][layer] if captured else None,
            str(digest(file)),
            why,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{paths.vector_metadata(method, layer)} lacks or garbles {error}; run 4_fit_vectors with --force") from None


def require_match(card: Card, lm: LM) -> str | None:
    """Refuse a vector that does not belong on a model.

    Returns:
        A note where the model is not the one that the vector was fitted on, but a sibling of it: same architecture and shape.

    Raises:
        UserError: another width, depth or architecture, or 4-bit weights on one side only (they are known to break directions).
    """
    who, here = f"the {card.trait} vector of {card.experiment}", lm.identity
    mismatches = {
        "width": (len(card.vector), lm.d_model),
        "layers": (card.n_layers or lm.n_layers, lm.n_layers),
        "architecture": (card.model.get("architecture"), here["architecture"]),
        "4-bit weights": (card.model.get("quantization") == "int4", here["quantization"] == "int4"),
    }
    for what, (theirs, ours) in mismatches.items():
        if theirs != ours:
            raise UserError(f"{who} does not fit {here['name']}: {what} {theirs} against {ours}; use vectors that were fitted on this model or a sibling")
    if card.layer >= lm.n_layers:
        raise UserError(f"{who} is for layer {card.layer}; {here['name']} has layers 0 to {lm.n_layers - 1}")
    known = {name: (card.model.get(name), here.get(name)) for name in ("identity", "dtype", "quantization", "chat_template")}
    differs = [f"{name} {theirs} → {ours}" for name, (theirs, ours) in known.items() if theirs is not None and theirs != ours]
    return f"note: {who} was fitted on {card.model.get('name')}, used on {here['name']} ({', '.join(differs)})" if differs else None
