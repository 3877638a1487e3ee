"""How many independent vectors the fitted ones amount to, which says how lucky the best of them may be."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from traitscope.utils.files.paths import SIDES
from traitscope.utils.measures.separation import independent_candidates
from traitscope.utils.records.vectors import RANDOM, Key

Fitted = Mapping[Key, tuple[Tensor, dict]]  # (method, layer) → vector [d_model], and what is measured of it


def project_held_out(
    fitted: Fitted, layers: Sequence[int], acts: Mapping[tuple[str, str], Tensor]
) -> list[np.ndarray]:
    """Return the held-out responses' projections [n] on every vector that may be the best, the pos side's
    first.

    Args:
        layers: Those of the activations, in their order.
        acts: (side, split) → [n, len(layers), d_model].
    """
    held_out = [acts[side, "val"].double() for side in SIDES]
    return [
        np.concatenate([(side[:, layers.index(layer)] @ vector.double()).numpy() for side in held_out])
        for (method, layer), (vector, _) in fitted.items()
        if method != RANDOM
    ]


def count_candidates(projected: Sequence[np.ndarray], fitted: Fitted) -> float | None:
    """Return how many independent vectors the projected ones amount to; None where none was measured."""
    measured = [about["val"] for _, about in fitted.values() if about["val"]]
    if not projected or not measured:
        return None
    return round(independent_candidates(np.stack(projected), measured[0]["n_pos"]), 4)
