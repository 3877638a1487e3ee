"""A vector from two lists of texts, without an experiment."""

import hashlib
from collections.abc import Sequence

from traitscope.extraction.fitting.methods import (
    DegenerateError,
    FitOptions,
    fit_directions,
    fit_functions,
    require_known,
)
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.model.capture import Pooled, Reading, pool_activations
from traitscope.utils.model.encode import encode
from traitscope.utils.model.loading import LM
from traitscope.utils.records.vectors import Vector, VectorAbout


def fit_texts(lm: LM, pos: Sequence[str], neg: Sequence[str], layer: int, method: str) -> Vector:
    """Fit a method to the mean activations of two lists of texts at one layer; token 0 is left out of the
    means.

    Raises:
        UserError: the method is unknown.
        ValueError: the model has no such layer, a side has fewer than two texts, or no direction follows from
            them.
    """
    if isinstance(pos, str) or isinstance(neg, str):
        raise ValueError("a side is a list of texts, not one text")
    pos, neg = list(pos), list(neg)
    functions = fit_functions(FitOptions())
    require_known([method], functions)
    if not 0 <= layer < lm.n_layers:
        raise ValueError(f"no layer {layer}; the model has layers 0 to {lm.n_layers - 1}")

    pooled = _pool(lm, [*pos, *neg])
    acts = {"pos": pooled.activations[: len(pos), layer], "neg": pooled.activations[len(pos) :, layer]}
    try:
        direction = fit_directions(functions[method], acts["pos"][:, None], acts["neg"][:, None])[0]
    except DegenerateError as error:
        raise ValueError(f"layer {layer}: {error.cause}") from None

    nobody = {(side, "val"): rows[:0] for side, rows in acts.items()}  # no text was held out
    measured = describe_vector(direction, {(side, "train"): rows for side, rows in acts.items()} | nobody)
    about = VectorAbout(
        trait="fitted here",
        method=method,
        layer=layer,
        made_by={"stage": "fit", "model": lm.identity},
        component="residual",
        position="text[1:]",
        **measured,
    )
    values = direction.numpy()
    values.setflags(write=False)
    sha256 = hashlib.sha256(values.tobytes()).hexdigest()
    return Vector(
        "memory",
        about,
        values,
        lm.n_layers,
        lambda: float(pooled.norms[layer]),
        sha256,
        "fitted on two lists of texts",
    )


def _pool(lm: LM, texts: Sequence[str]) -> Pooled:
    ids = [encode(lm, text) if text else [] for text in texts]
    short = [text for text, row in zip(texts, ids, strict=True) if len(row) < 2]
    if short:
        raise ValueError(f"{short[0]!r} has fewer than two tokens; nothing of it can be read")
    return pool_activations(lm, [Reading(row, list(range(1, len(row)))) for row in ids], label="read texts")
