"""Two groups of prompts, compared on every vector's mean projection. Pure statistics."""

from collections.abc import Mapping, Sequence

import numpy as np

from traitscope.utils.measures.intervals import benjamini_hochberg, permutation_p_of_groups
from traitscope.utils.measures.separation import auroc_interval, auroc_of, cohens_d, cohens_d_interval


def compare(first: np.ndarray, second: np.ndarray) -> dict | None:
    """Return both means, Cohen's d and AUROC (first over second) with 95 % intervals, and the permutation
    p; None with fewer than 2 in a group.
    """
    sizes = len(first), len(second)
    if min(sizes) < 2:
        return None

    d, auroc = cohens_d(first, second), auroc_of(first, second)
    figures = {
        "means": [float(first.mean()), float(second.mean())],
        "d": d,
        "d_interval": list(cohens_d_interval(d, *sizes)),
    }
    return figures | {
        "auroc": auroc,
        "auroc_interval": list(auroc_interval(auroc, *sizes)),
        "p": permutation_p_of_groups(first, second),
        "n": list(sizes),
    }


def compare_all(
    values: Mapping[str, Mapping[str, float]], groups: Sequence[set[str]]
) -> dict[str, dict | None]:
    """Compare two groups on several readings, with p adjusted for the false discovery rate over all of
    them as `q`.

    Args:
        values: {reading: {prompt: value}}.
        groups: The prompts of the first and of the second group.
    """
    found = {
        name: compare(*(np.array([v for prompt, v in row.items() if prompt in group]) for group in groups))
        for name, row in values.items()
    }
    adjusted = benjamini_hochberg([row["p"] if row else None for row in found.values()])
    return {
        name: row | {"q": q} if row else None for (name, row), q in zip(found.items(), adjusted, strict=True)
    }


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
