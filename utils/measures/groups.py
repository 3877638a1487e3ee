"""Two groups of prompts, compared on every vector's mean projection. Pure statistics."""

from collections.abc import Mapping, Sequence

import numpy as np

from traitscope.utils.measures.clusters import clustered_p, jackknife_interval
from traitscope.utils.measures.intervals import benjamini_hochberg, permutation_p_of_groups
from traitscope.utils.measures.separation import auroc_interval, auroc_of, cohens_d, cohens_d_interval


def compare(first: np.ndarray, second: np.ndarray, clusters: Sequence[str] | None = None) -> dict | None:
    """Return both means, Cohen's d and AUROC (first over second) with 95 % intervals, and the permutation
    p; None with fewer than 2 in a group, or with all of a group in one cluster.

    Over clusters an interval is never narrower than over independent values: where the first group lies
    wholly above the second, leaving clusters out changes nothing, and that is no certainty.

    Args:
        clusters: Labels of the first group's values, then of the second's; by default all are independent.
    """
    sizes = len(first), len(second)
    if min(sizes) < 2:
        return None

    d, auroc = cohens_d(first, second), auroc_of(first, second)
    intervals = {"d": cohens_d_interval(d, *sizes), "auroc": auroc_interval(auroc, *sizes)}
    if clusters is not None:
        try:
            by_cluster = {
                name: jackknife_interval(statistic, first, second, clusters)
                for name, statistic in (("d", cohens_d), ("auroc", auroc_of))
            }
        except ValueError:
            return None
        intervals = {name: _wider(found, by_cluster[name]) for name, found in intervals.items()}

    low, high = intervals["auroc"]
    return {
        "means": [float(first.mean()), float(second.mean())],
        "d": d,
        "d_interval": list(intervals["d"]),
        "auroc": auroc,
        "auroc_interval": [max(0.0, low), min(1.0, high)],
        "p": permutation_p_of_groups(first, second)
        if clusters is None
        else clustered_p(first, second, clusters),
        "n": list(sizes),
    }


def _wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def compare_all(
    values: Mapping[str, Mapping[str, float]],
    groups: Sequence[set[str]],
    clusters: Mapping[str, str] | None = None,
) -> dict[str, dict | None]:
    """Compare two groups on several readings, with p adjusted for the false discovery rate over all of
    them as `q`.

    Args:
        values: {reading: {prompt: value}}.
        groups: The prompts of the first and of the second group.
        clusters: {prompt: cluster}; by default prompts are independent.
    """
    found = {name: _compare_reading(row, groups, clusters) for name, row in values.items()}
    adjusted = benjamini_hochberg([row["p"] if row else None for row in found.values()])
    return {
        name: row | {"q": q} if row else None for (name, row), q in zip(found.items(), adjusted, strict=True)
    }


def _compare_reading(
    row: Mapping[str, float], groups: Sequence[set[str]], clusters: Mapping[str, str] | None
) -> dict | None:
    prompts = [[prompt for prompt in row if prompt in group] for group in groups]
    first, second = (np.array([row[prompt] for prompt in side]) for side in prompts)
    labels = [clusters[prompt] for side in prompts for prompt in side] if clusters else None
    return compare(first, second, labels)


def top_spans(differences: Mapping[str, np.ndarray], window: int, top: int) -> list[tuple[str, int, float]]:
    """Return the stretches of `window` tokens whose mean difference is largest in size: (prompt, first
    token, mean), none overlapping another.

    Args:
        differences: {prompt: [n_tokens]}; a text shorter than the window is one stretch.
    """
    found = []
    for prompt, values in differences.items():
        width = min(window, len(values))
        if width:
            means = np.convolve(values, np.ones(width) / width, "valid")
            found += [(prompt, int(i), float(mean)) for i, mean in enumerate(means)]

    chosen: list[tuple[str, int, float]] = []

    for prompt, start, mean in sorted(found, key=lambda span: -abs(span[2])):
        if len(chosen) == top:
            break
        if all(prompt != other or abs(start - begin) >= window for other, begin, _ in chosen):
            chosen.append((prompt, start, mean))

    return chosen
