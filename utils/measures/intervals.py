"""Intervals and nulls for paired effects."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.stats import false_discovery_control
from scipy.stats import t as student_t


def mean_interval(
    values: np.ndarray, clusters: Sequence | None = None, level: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return (mean, low, high): the interval of a mean over questions. Differences per question make it a
    paired one.

    It holds both Student's interval and the one that Hall's transformation makes of it, which reaches
    further where the values are skewed (Hall 1992, JRSS B 54:221). Nothing is drawn. Questions of one
    cluster are taken together: the standard error is robust to whatever they share, by CR2, with Bell and
    McCaffrey's degrees of freedom (2002, Survey Methodology 28:169), which are the number of clusters − 1
    where these are of one size.

    Values without any spread give low = high = mean. That is no certainty but a lack of evidence: of n
    questions that all said the same, up to 3 / n of the others may say something else.

    Args:
        clusters: Any label per value; by default every value is a cluster of its own.

    Returns:
        low and high are None with fewer than two clusters, from which no interval follows.

    Raises:
        ValueError: there are no values, or not a label for each.
    """
    if not len(values):
        raise ValueError("no values have no mean")

    mean, residuals, freedom = _cluster_residuals(values, clusters)
    if len(residuals) < 2:
        return mean, None, None

    error = float(np.linalg.norm(residuals)) / len(values)
    reach = float(student_t.ppf(0.5 + level / 2, freedom))
    below, above = _skewed(np.array([reach, -reach]), residuals)
    return mean, mean - max(reach, below) * error, mean + max(reach, -above) * error


def interval_of(values: np.ndarray, clusters: Sequence | None = None) -> dict | None:
    """Return mean, low, high and n as results say them, of the values that are known (no NaN); None where no
    interval follows.
    """
    known = ~np.isnan(values)
    labels = None if clusters is None else np.asarray(clusters)[known]
    if not known.any():
        return None

    mean, low, high = mean_interval(values[known], labels)
    if low is None or high is None:
        return None
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "n": int(known.sum())}


def _cluster_residuals(
    values: np.ndarray, clusters: Sequence | None
) -> tuple[float, np.ndarray, float | None]:
    """Return the mean of n values, what each cluster adds to n · (mean − truth), and the degrees of freedom.

    A cluster of share h sums its deviations u; u / √(1 − h) has the size that it would have about the true
    mean (CR2). The degrees of freedom match the first two moments of the sum of their squares for
    independent values, for which cov(u_g, u_k) = n_g δ_gk − n_g n_k / n.
    """
    labels = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} cluster labels for {len(values)} values")

    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    mean = float(values.mean())
    if len(sizes) < 2:
        return mean, np.zeros(len(sizes)), None

    shares = sizes / len(values)
    residuals = np.bincount(index, values - mean) / np.sqrt(1 - shares)
    weight = np.sqrt(sizes / (1 - shares))
    covariance = np.diag(weight**2) - np.outer(weight, weight) * np.sqrt(np.outer(shares, shares))
    return mean, residuals, float(np.trace(covariance) ** 2 / (covariance**2).sum())


def _skewed(t: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return the studentised means whose transform t + g t²/3 + g² t³/27 + g/(6 n), with g = skewness / √n,
    is t: Hall's, which is monotone.
    """
    n = len(residuals)
    spread = np.mean(residuals**2) ** 1.5
    skew = float(np.mean(residuals**3) / spread / np.sqrt(n)) if spread else 0.0
    if abs(skew) < 1e-6:  # the limit, where the formula would divide by it
        return t
    return 3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1)


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
