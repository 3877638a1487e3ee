"""Intervals and nulls for paired effects."""

from functools import lru_cache

import numpy as np
from scipy.stats import false_discovery_control


def bootstrap_mean(
    values: np.ndarray, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return (mean, low, high): the percentile bootstrap interval of a mean over questions. Differences
    per question make it a paired one.
    """
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def t_statistic(values: np.ndarray) -> float:
    """Return mean / standard error, with the error kept above 1e-9."""
    return (
        float(values.mean() / max(values.std(ddof=1) / np.sqrt(len(values)), 1e-9))
        if len(values) > 1
        else 0.0
    )


def effective_number(directions: np.ndarray) -> float:
    """Return how many independent candidates several directions [k, d] amount to, from 1 (all alike) to k
    (all orthogonal).

    (Σ√λ)² / Σλ over the eigenvalues of their cosine matrix (Galwey 2009, Genetic Epidemiology 33:559).
    """
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    eigenvalues = np.clip(np.linalg.eigvalsh(unit @ unit.T), 0, None)
    return float(np.sqrt(eigenvalues).sum() ** 2 / eigenvalues.sum())


def permutation_p(values: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p of a mean of paired differences under random signs, (1 + #{|mean*| ≥
    |mean|}) / (1 + draws).
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (draws, len(values)))
    reached = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
    return float((1 + reached.sum()) / (1 + draws))


def permutation_p_of_groups(
    first: np.ndarray, second: np.ndarray, draws: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p of a difference in means when the labels are shuffled, (1 + #{|difference*|
    ≥ |difference|}) / (1 + draws).
    """
    both, n = np.concatenate([first, second]), len(first)
    total = _shuffles(len(both), n, draws, seed) @ both
    # the sum of the first group fixes the difference in means: sum/n − (all − sum)/m
    differences = total / n - (both.sum() - total) / len(second)
    reached = np.abs(differences) >= abs(first.mean() - second.mean()) - 1e-9
    return float((1 + reached.sum()) / (1 + draws))


@lru_cache(maxsize=1)  # hundreds of vectors are compared on the same two groups
def _shuffles(n: int, chosen: int, draws: int, seed: int) -> np.ndarray:
    """Return random choices of `chosen` among n, [draws, n], 1 for the chosen."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    return (order < chosen).astype(float)


def benjamini_hochberg(p_values: list[float | None]) -> list[float | None]:
    """Return the p values adjusted for the false discovery rate over those that are there (Benjamini and
    Hochberg 1995).
    """
    known = np.array([p for p in p_values if p is not None], dtype=float)
    adjusted = iter(false_discovery_control(known).tolist())
    return [None if p is None else next(adjusted) for p in p_values]
