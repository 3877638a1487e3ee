"""How well a direction separates two groups of projections."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm, rankdata

if TYPE_CHECKING:  # a laptop without torch compares groups too
    from torch import Tensor


def describe_vector(vector: "Tensor", acts: Mapping[tuple[str, str], "Tensor"]) -> dict:
    """Return norm, centre and separation of one vector; projections are onto v̂, and the centre is midway
    between the training means.

    Args:
        vector: [d_model].
        acts: (side, split) → [n, d_model] at the vector's layer, for both sides and the splits "train" and
            "val".
    """
    unit = vector.double() / vector.double().norm()
    projections = {k: (a.double() @ unit).numpy() for k, a in acts.items()}
    centre = float((projections["pos", "train"].mean() + projections["neg", "train"].mean()) / 2)
    quality = {
        split: separation(projections["pos", split], projections["neg", split], centre)
        for split in ("train", "val")
    }

    return {"norm": round(float(vector.norm()), 6), "centre": round(centre, 6)} | quality


def separation(pos: np.ndarray, neg: np.ndarray, centre: float) -> dict | None:
    """Return accuracy at the centre, AUROC and Cohen's d with their 95 % intervals, and the sample sizes;
    None with fewer than 2 of a side.

    Args:
        pos, neg: Projections onto the vector, [n].
        centre: The threshold, midway between the fitting data's means.
    """
    if min(len(pos), len(neg)) < 2:
        return None

    auroc = auroc_of(pos, neg)
    low, high = auroc_interval(auroc, len(pos), len(neg))
    values = {
        "accuracy": float(((pos > centre).sum() + (neg <= centre).sum()) / (len(pos) + len(neg))),
        "auroc": auroc,
        "auroc_low": low,
        "auroc_high": high,
    }
    d = cohens_d(pos, neg)
    d_low, d_high = cohens_d_interval(d, len(pos), len(neg))
    values |= {"cohens_d": d, "cohens_d_low": d_low, "cohens_d_high": d_high}
    return {k: round(v, 6) for k, v in values.items()} | {"n_pos": len(pos), "n_neg": len(neg)}


def auroc_of(pos: np.ndarray, neg: np.ndarray) -> float:
    """Return the probability that a pos value exceeds a neg one, ties counting half (Mann–Whitney U /
    (n_pos · n_neg)).
    """
    ranks = rankdata(np.concatenate([pos, neg]))
    return float((ranks[: len(pos)].sum() - len(pos) * (len(pos) + 1) / 2) / (len(pos) * len(neg)))


def independent_candidates(
    projections: np.ndarray, n_pos: int, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> float:
    """Return how many independent vectors several amount to, when the best AUROC among them is taken: from
    1 (all alike) to about k.

    The sides are shuffled, all vectors at once, so that their correlation stays. The largest |AUROC − ½| of
    a shuffle stays below some limit in 95 % of them (max-T, Westfall and Young 1993), and that of so many
    independent vectors stays below the same limit as often (Šidák 1967).

    Args:
        projections: [k, n], first those of the pos side.
    """
    ranks = rankdata(projections, axis=1)  # [k, n]
    n = ranks.shape[1]
    pairs = n_pos * (n - n_pos)
    rng = np.random.default_rng(seed)
    chosen = rng.permuted(np.tile(np.arange(n) < n_pos, (draws, 1)), axis=1)  # [draws, n]

    aurocs = (ranks @ chosen.T.astype(float) - n_pos * (n_pos + 1) / 2) / pairs
    largest = np.abs(aurocs - 0.5).max(0) / np.sqrt((n + 1) / (12 * pairs))
    # a trifle more, so that rounding never excludes the limit itself
    z = float(np.quantile(largest, level, method="higher")) * (1 + 1e-6)
    return max(1.0, float(np.log(level) / np.log1p(-2 * norm.sf(z))))


def auroc_interval(auroc: float, n_pos: int, n_neg: int, level: float = 0.95) -> tuple[float, float]:
    """Return a score-type interval of an AUROC, which stays honest at 1.0 (Newcombe 2006, Statistics in
    Medicine 25:559, method 5).

    It holds every A with |A − auroc| ≤ z·√V(A), V being Hanley and McNeil's variance with n* = (n_pos +
    n_neg)/2 − 1.
    """
    grid = np.linspace(0, 1, 4001)
    n_star = (n_pos + n_neg) / 2 - 1
    variance = (
        grid * (1 - grid) * (1 + n_star * ((1 - grid) / (2 - grid) + grid / (1 + grid))) / (n_pos * n_neg)
    )
    inside = grid[np.abs(grid - auroc) <= norm.ppf(0.5 + level / 2) * np.sqrt(variance) + 1e-12]

    return float(inside.min(initial=auroc)), float(inside.max(initial=auroc))


def cohens_d(pos: np.ndarray, neg: np.ndarray) -> float:
    """Return (mean pos − mean neg) / pooled standard deviation (n − 1 in each variance)."""
    pooled = ((len(pos) - 1) * pos.var(ddof=1) + (len(neg) - 1) * neg.var(ddof=1)) / (len(pos) + len(neg) - 2)
    return float((pos.mean() - neg.mean()) / np.sqrt(max(pooled, 1e-24)))


def cohens_d_interval(d: float, n_pos: int, n_neg: int, level: float = 0.95) -> tuple[float, float]:
    """Return the large-sample interval of Cohen's d, d ± z·√((n_pos + n_neg)/(n_pos·n_neg) + d²/(2(n_pos
    + n_neg))) (Hedges and Olkin 1985).
    """
    error = np.sqrt((n_pos + n_neg) / (n_pos * n_neg) + d**2 / (2 * (n_pos + n_neg)))
    z = float(norm.ppf(0.5 + level / 2))
    return float(d - z * error), float(d + z * error)
