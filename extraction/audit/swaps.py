"""The null of an audit: for mirrored pairs, "no difference" means that the two sides of any pair could be
swapped.
"""

from collections.abc import Callable

import numpy as np

DRAWS = 1000


def is_significant(p: float, n: int) -> bool:
    """Tell whether a difference is no accident: p < 0.01, or, of n < 9 pairs, that all or nearly all
    point the same way.
    """
    return p < max(0.01, 1.5 * 2.0 ** (1 - n))


def swap_sides(differences: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the statistic of the summed differences under random swaps of the sides, [DRAWS].

    Args:
        differences: pos − neg per pair, [n_pairs, n_features].
        statistic: Maps sums [draws, n_features] to [draws].
    """
    signs = np.random.default_rng(0).choice(
        np.array([-1.0, 1.0], dtype=np.float32), (DRAWS, len(differences))
    )
    return statistic(signs @ differences.astype(np.float32))


def p_value(value: float, null: np.ndarray) -> float:
    """Return (1 + #{null ≥ value}) / (1 + n)."""
    return (1 + int((null >= value - 1e-6).sum())) / (1 + len(null))


def tell_apart(differences: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the share of pairs that all other pairs' mean difference puts the right way round, and the
    same under swaps of the sides.

    A word counts by 1 / √(pairs it differs in), so that many rare words weigh as much as one frequent one. A
    pair that no word speaks for or against counts half.
    """
    often = np.maximum(np.abs(differences).sum(0), 1)
    agreement = (differences / often) @ differences.T
    np.fill_diagonal(agreement, 0)  # a pair has no say in its own case
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (DRAWS, len(differences)))
    signs = np.vstack([np.ones(len(differences)), signs])
    told = (0.5 + 0.5 * np.sign(np.round(signs * (signs @ agreement), 9))).mean(1)

    return float(told[0]), told[1:]
