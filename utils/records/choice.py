"""Which of a trait's vectors are meant: the best one, or those that a command line asks for."""

import re
from collections.abc import Mapping

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import FIT, TraitPaths
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.vectors import Key, list_vectors
from traitscope.utils.records.verdict import WORKS, read_verdict
from traitscope.utils.stage.layers import parse_layers

_BEST = re.compile(r"best(?:([+-])(\d+))?")


def best_of(paths: TraitPaths) -> tuple[Key, str]:
    """Return method and layer of a trait's best vector, and why: what steering proved to work, else what
    separates best.

    Raises:
        UserError: the trait has no vectors.
    """
    found = list_vectors(paths)
    if not found:
        advice = (
            f"run extraction/run_pipeline.py --experiment {paths.experiment} --traits {paths.trait} first"
        )
        raise UserError(f"{paths.trait} has no vectors in {paths.experiment}; {advice}")

    steered = read_verdict(paths)
    if steered and steered.verdict == WORKS and steered.chosen.key in found:
        return steered.chosen.key, "steering works there"  # type: ignore[return-value]

    best = best_held_out(paths, list(found.values()))
    if best is None:
        raise UserError(
            f"{paths.trait}: no vector was measured on held-out responses; name one with --layers and "
            "--method"
        )

    return best.key, f"best held-out AUROC, {best}"


def choose_keys(paths: TraitPaths, layers: str, method: str) -> list[tuple[Key, str]]:
    """Return ((method, layer), why) of what `--layers best,best+5,16` and `--method` ask for; no method
    means the best one's.

    Raises:
        UserError: the spec is malformed, or there is no such vector.
    """
    found = list_vectors(paths)
    parts = [part.strip() for part in layers.split(",")]
    best, reason = (method, 0), ""
    if not method or any(_BEST.fullmatch(part) for part in parts):
        best, reason = best_of(paths)
    n_layers = 1 + max((layer for _, layer in found), default=-1)

    chosen: dict[Key, str] = {}
    for part in parts:
        relative = _BEST.fullmatch(part)
        named = (
            [best[1] + int(f"{relative[1] or '+'}{relative[2] or 0}")]
            if relative
            else parse_layers(part, n_layers)
        )
        for layer in named:
            key = (method or best[0], layer)
            if key not in found:
                at = ", ".join(str(other) for name, other in sorted(found) if name == key[0]) or "no layer"
                raise UserError(
                    f"{paths.trait} has no vector of {key[0]} at layer {layer} in {paths.experiment}; there is one at {at}"
                )
            chosen.setdefault(key, reason if relative and key == best else f"asked for as {part}")
    return list(chosen.items())


def keys_of(
    paths: TraitPaths, layers: str, methods: tuple[str, ...], imported: Mapping[str, list[int]]
) -> list[Key]:
    """Return every (method, layer) that is asked for; of an imported method the layers that there are.

    Args:
        imported: {method: layers} of those among the methods that were made elsewhere.

    Raises:
        UserError: a layer that the model does not have, or an imported method without any of the layers.
    """
    asked = parse_layers(layers, read_activations_about(paths).shape[1])
    keys = [(m, layer) for m in methods for layer in asked if m not in imported or layer in imported[m]]
    for method in set(methods) - {m for m, _ in keys}:
        there = ", ".join(map(str, imported[method]))
        raise UserError(f"{method} was imported at {there}, and --layers {layers} names none of these")
    return keys


def parse_weight(text: str) -> tuple[str, float]:
    """Return trait and weight of a text such as category/name:0.5; the weight is 1 where none is written.

    Raises:
        UserError: the weight is no number.
    """
    trait, _, weight = text.partition(":")
    try:
        return trait, float(weight or 1)
    except ValueError:
        example = "write category/name:weight, such as epistemic/confidence:0.5"
        raise UserError(f"--with-traits {text!r}: {example}") from None


def explain_absence(paths: TraitPaths, method: str, layer: int | None = None) -> UserError:
    """Return the error of a vector that is not there, with what there is."""
    there = sorted({m for m, _ in list_vectors(paths)})
    if layer is not None and method in there:
        advice = f"choose others with --layers, or fit it ({FIT})"
        return UserError(
            f"{paths.trait} has no vector of {method!r} at layer {layer} in {paths.experiment}; {advice}"
        )

    advice = f"there are {', '.join(there)}" if there else f"run {FIT} first"
    return UserError(f"{paths.trait} has no vector of {method!r} in {paths.experiment}; {advice}")
