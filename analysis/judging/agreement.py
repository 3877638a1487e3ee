"""How far two judges agree on the same responses."""

from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr

BANDS = ("low", "middle", "high")


def compare_scores(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray, low: float, high: float, draws: int = 2000
) -> dict:
    """Compare two judges' scores of the same texts.

    Args:
        first, second: Scores [n], NaN where a judge could not say. Only texts that both scored are compared.
        groups: [n]; texts of one group share a topic and are drawn together by the bootstrap.
        low, high: The thresholds at which a negative and a positive text pass.

    Returns:
        Spearman's rank correlation, the mean difference (first − second), the share of texts in the same band and Cohen's kappa (1960),
        each with a 95 % cluster bootstrap interval, and the confusion of the bands [first][second].
    """
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b, clusters = first[both], second[both], groups[both]
    confusion = band_confusion(a, b, low, high)
    statistics: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "rank_correlation": rank_correlation,
        "mean_difference": lambda x, y: float((x - y).mean()),
        "mean_absolute_difference": lambda x, y: float(np.abs(x - y).mean()),
        "same_band": lambda x, y: float(np.trace(band_confusion(x, y, low, high)) / len(x)),
        "kappa": lambda x, y: kappa(band_confusion(x, y, low, high)),
    }
    samples = _resample(clusters, draws) if len(a) > 2 else []
    figures = (
        {name: _with_interval(f, a, b, samples) for name, f in statistics.items()}
        if len(a) > 2
        else dict.fromkeys(statistics)
    )

    return {
        "n": int(both.sum()),
        "n_asked": len(first),
        **figures,
        "confusion": {"bands": BANDS, "counts": confusion.tolist()},
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's ρ, ties at their mean rank; NaN where a judge gave one score to all."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


def band_confusion(a: np.ndarray, b: np.ndarray, low: float, high: float) -> np.ndarray:
    """Count texts by band: [first judge's band, second judge's band] over ≤ low, between, ≥ high."""
    bands = [np.where(x >= high, 2, np.where(x <= low, 0, 1)) for x in (a, b)]
    counts = np.zeros((3, 3), dtype=int)
    np.add.at(counts, tuple(bands), 1)
    return counts


def kappa(confusion: np.ndarray) -> float:
    """Return Cohen's kappa: agreement beyond what the two judges' band shares give by chance; 1 where
    there is only one band.
    """
    shares = confusion / confusion.sum()
    by_chance = float(shares.sum(1) @ shares.sum(0))
    return 1.0 if by_chance == 1 else float((np.trace(shares) - by_chance) / (1 - by_chance))


def _resample(groups: np.ndarray, draws: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    return [
        np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        for _ in range(draws)
    ]


def _with_interval(
    f: Callable[[np.ndarray, np.ndarray], float], a: np.ndarray, b: np.ndarray, samples: list[np.ndarray]
) -> dict | None:
    value = f(a, b)
    if np.isnan(value):
        return None
    drawn = np.array([f(a[rows], b[rows]) for rows in samples])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
