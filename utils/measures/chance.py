"""Where a value stands among those of directions that mean nothing."""

import numpy as np


def compare_with_null(value: float, null: np.ndarray, *, has_sign: bool = False) -> dict:
    """Compare a vector's signal with those of random directions, by its rank among them.

    If the vector were one more random direction, each of the 1 + n would be the largest equally often,
    whatever the distribution: p = (1 + #{null ≥ value}) / (1 + n). A random direction's odd part has no sign:
    it is compared by size, and a vector that means nothing points the wrong way half of the time, so p is half
    of that where the value is positive, and one less half of that where it is not.

    Args:
        has_sign: The signals are effects of what has no opposite, whose sign means something.

    Returns:
        n, spread (root mean square), range, z = value / spread (None where the spread is 0), reach_it (how many
        are as large), p (one-sided, exact), and p_least, the smallest p that n directions can give.
    """
    n, sizes = len(null), null if has_sign else np.abs(null)
    reach_it = int((sizes >= (value if has_sign else abs(value))).sum())
    share = (1 + reach_it) / (1 + n)
    half = share / 2 if value > 0 else 1 - share / 2
    spread = float(np.sqrt(np.mean(null**2)))

    return {
        "n": n,
        "spread": spread,
        "range": [float(null.min()), float(null.max())],
        "z": value / spread if spread else None,
        "reach_it": reach_it,
        "p": share if has_sign else half,
        "p_least": 1 / (1 + n) if has_sign else 0.5 / (1 + n),
    }
