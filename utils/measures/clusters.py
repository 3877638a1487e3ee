"""Two groups of values that come in clusters: prompts of one request, say, which are no independent evidence."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import t as student_t

# fields of a prompt set whose prompts are variants of one matter, the first that is there by default
FIELDS = ("request", "matter", "triple")


def find_clusters(
    metadata: Mapping[str, Mapping[str, Any]], by: str, field: str = "auto"
) -> tuple[dict[str, str] | None, str]:
    """Return {prompt: cluster} and the field that says so; None where prompts are taken as independent.

    A prompt without the field is a cluster of its own.

    Args:
        metadata: {prompt: its fields}.
        by: The field that makes the groups, which cannot be that of the clusters too.
        field: One of the fields, "auto" for the first of `FIELDS` that several prompts share, or "none".

    Raises:
        ValueError: no prompt has the field.
    """
    there = {name for fields in metadata.values() for name in fields}
    if field == "none":
        return None, ""
    if field != "auto" and field not in there:
        raise ValueError(f"no prompt has a field {field!r}; choose {', '.join(sorted(there)) or 'none'}")

    for name in FIELDS if field == "auto" else (field,):
        found = {
            prompt: f"={fields[name]}" if name in fields else prompt for prompt, fields in metadata.items()
        }
        if name in there and (field != "auto" or (name != by and len(set(found.values())) < len(found))):
            return found, name

    return None, ""


def clustered_p(
    first: np.ndarray, second: np.ndarray, clusters: Sequence[str], draws: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p of a difference in means, (1 + #{|T*| ≥ |T|}) / (1 + draws), where values of
    one cluster may share anything.

    Where every cluster lies in one group, whole clusters change groups at random, and T is the difference:
    the test is exact. Otherwise T is the sum over clusters of Σ (x − x̄)(v − v̄), x saying which group a value
    v is in, and every cluster's part gets a random sign (Kline and Santos 2012, Journal of Econometric
    Methods 1:23).

    Args:
        clusters: Labels of the first group's values, then of the second's.
    """
    values = np.concatenate([first, second])
    is_first = np.arange(len(values)) < len(first)
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    share = np.bincount(index, is_first) / np.bincount(index)

    if np.isin(share, (0, 1)).all():
        chosen = _shuffles(tuple(share == 1), draws, seed)[:, index]  # [draws, n]
        n, total = chosen.sum(1), chosen @ values
        drawn = total / n - (values.sum() - total) / (len(values) - n)
        found = float(first.mean() - second.mean())
    else:
        parts = np.bincount(index, (is_first - is_first.mean()) * (values - values.mean()))
        drawn, found = _signs(len(labels), draws, seed) @ parts, float(parts.sum())

    reached = np.abs(drawn) >= abs(found) - 1e-9
    return float((1 + reached.sum()) / (1 + draws))


@lru_cache(maxsize=1)  # hundreds of vectors are compared on the same two groups
def _shuffles(is_first: tuple[bool, ...], draws: int, seed: int) -> np.ndarray:
    """Return the clusters' groups in random order, [draws, n_clusters], 1 for the first."""
    return np.random.default_rng(seed).permuted(np.tile(np.array(is_first, float), (draws, 1)), axis=1)


@lru_cache(maxsize=1)
def _signs(n: int, draws: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], (draws, n))


def jackknife_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    clusters: Sequence[str],
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of a statistic of two groups over clusters: it ± t·√((G − 1)/G · Σ (s_g − s̄)²),
    s_g being the statistic without cluster g, and t Student's with G − 1 degrees of freedom.

    Raises:
        ValueError: without some cluster, a group has fewer than two values.
    """
    labels = np.asarray(clusters)
    in_first, in_second = labels[: len(first)], labels[len(first) :]
    names = np.unique(labels)
    kept = [(first[in_first != name], second[in_second != name]) for name in names]
    if min(len(part) for pair in kept for part in pair) < 2:
        raise ValueError("a group rests on one cluster")

    without = np.array([statistic(*pair) for pair in kept])
    error = np.sqrt((len(names) - 1) / len(names) * ((without - without.mean()) ** 2).sum())
    reach = float(student_t.ppf(0.5 + level / 2, len(names) - 1) * error)
    value = statistic(first, second)
    return value - reach, value + reach
