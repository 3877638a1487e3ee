"""Intervals and nulls for paired effects."""

import numpy as np


def bootstrap_mean(values: np.ndarray, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Return (mean, low, high): the percentile bootstrap interval of a mean over questions. Differences per question make it a paired one."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def t_statistic(values: np.ndarray) -> float:
    """Return mean / standard error, with the error kept above 1e-9."""
    return float(values.mean() / max(values.std(ddof=1) / np.sqrt(len(values)), 1e-9)) if len(values) > 1 else 0.0


def compare_with_null(value: float, null: np.ndarray) -> dict:
    """Compare an odd part with those of ± pairs of random directions.

    A random direction has no sign, so its odd part is as often positive as negative: the null's mean is 0 and its spread is the root mean
    square. The rank is two-sided, p = (1 + #{|null| ≥ |value|}) / (1 + n), and never below 1 / (1 + n).
    """
    spread = float(np.sqrt(np.mean(null**2)))
    p = (1 + int((np.abs(null) >= abs(value)).sum())) / (1 + len(null))
    return {"n": len(null), "spread": spread, "range": [float(null.min()), float(null.max())], "z": value / max(spread, 1e-9), "p": p}
