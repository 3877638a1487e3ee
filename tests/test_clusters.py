"""Are prompts that come in clusters taken for the evidence that they are?"""

import numpy as np
import pytest

from traitscope.utils.measures.clusters import clustered_p, find_clusters, jackknife_interval
from traitscope.utils.measures.groups import compare, compare_all
from traitscope.utils.measures.intervals import permutation_p_of_groups

REQUESTS = np.repeat(np.arange(10), 10)


def draw(rng: np.random.Generator, clusters: np.ndarray = REQUESTS) -> np.ndarray:
    """Return values that share half of their variance within a cluster."""
    shared = rng.normal(size=clusters.max() + 1)[clusters]
    return np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=len(clusters))


def nested(rng: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
    """Every cluster lies in one group."""
    n = clusters.max() + 1
    return (rng.permutation(n) < n // 2)[clusters]


def matched(rng: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
    """Every cluster has both groups."""
    return rng.random(len(clusters)) < 0.5


def leaning(rng: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
    """Clusters lean to one group each, as outcomes of a request do."""
    lean = rng.normal(size=clusters.max() + 1)[clusters]
    return 0.8 * lean + 0.6 * rng.normal(size=len(clusters)) > 0


def p_of(values: np.ndarray, is_first: np.ndarray, clusters: np.ndarray, draws: int = 400) -> float:
    order = np.concatenate([clusters[is_first], clusters[~is_first]])
    return clustered_p(values[is_first], values[~is_first], order, draws)


@pytest.mark.parametrize("layout", [nested, matched, leaning])
@pytest.mark.parametrize("sizes", [[10] * 10, [6] * 5 + [2] * 30 + [1] * 10])
def test_where_nothing_differs_little_is_found(layout, sizes):
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    ps = np.array([p_of(draw(rng, clusters), layout(rng, clusters), clusters) for _ in range(600)])
    print(f"{layout.__name__}, {len(sizes)} clusters: {(ps <= 0.05).mean():.3f}")
    assert 0.02 <= (ps <= 0.05).mean() <= 0.07


def test_taken_as_independent_half_of_all_nulls_are_found():
    rng = np.random.default_rng(1)
    ps = []
    for _ in range(200):
        values, is_first = draw(rng), nested(rng, REQUESTS)
        ps.append(permutation_p_of_groups(values[is_first], values[~is_first], 400))
    assert np.mean(np.array(ps) <= 0.05) > 0.3


@pytest.mark.parametrize("layout", [nested, matched])
def test_a_planted_difference_is_found(layout):
    rng = np.random.default_rng(2)
    shift = {nested: 2.5, matched: 0.8}[layout]
    found = []
    for _ in range(60):
        is_first = layout(rng, REQUESTS)
        found.append(p_of(draw(rng) + shift * is_first, is_first, REQUESTS) <= 0.05)
    assert np.mean(found) >= 0.9


def test_the_interval_of_d_over_clusters_covers_and_over_prompts_does_not():
    rng = np.random.default_rng(3)
    covered = {True: 0, False: 0}
    for _ in range(200):
        values, is_first = draw(rng), nested(rng, REQUESTS)
        order = np.concatenate([REQUESTS[is_first], REQUESTS[~is_first]])
        for known in covered:
            row = compare(values[is_first], values[~is_first], order if known else None)
            covered[known] += row["d_interval"][0] <= 0 <= row["d_interval"][1]
    assert covered[True] >= 0.9 * 200
    assert covered[False] < 0.75 * 200


def test_an_interval_over_clusters_is_never_narrower_and_stays_an_auroc():
    values = np.arange(20.0)
    alone = compare(values[10:], values[:10])
    row = compare(values[10:], values[:10], np.tile(np.repeat(range(5), 2), 2))
    assert row["auroc_interval"] == alone["auroc_interval"]
    assert row["d_interval"][0] <= alone["d_interval"][0]
    assert row["auroc"] == row["auroc_interval"][1] == 1.0


def test_a_group_of_one_cluster_is_not_compared():
    values = np.arange(8.0)
    assert compare(values[:4], values[4:], ["a"] * 4 + ["b", "b", "c", "c"]) is None
    with pytest.raises(ValueError, match="one cluster"):
        jackknife_interval(lambda a, b: a.mean() - b.mean(), values[:4], values[4:], ["a"] * 4 + list("bbcc"))


def test_prompts_keep_their_cluster_whatever_their_order():
    rng = np.random.default_rng(4)
    values = {f"p{i}": v for i, v in enumerate(draw(rng))}
    clusters = {f"p{i}": f"r{c}" for i, c in enumerate(REQUESTS)}
    groups = [{f"p{i}" for i in range(50)}, {f"p{i}" for i in range(50, 100)}]
    shuffled = dict(rng.permutation(list(values.items())).tolist())
    shuffled = {name: float(value) for name, value in shuffled.items()}
    there, back = (compare_all({"v": row}, groups, clusters)["v"] for row in (values, shuffled))
    assert there["p"] == pytest.approx(back["p"], abs=0.02)
    assert there["d_interval"] == pytest.approx(back["d_interval"])


def test_the_field_of_the_clusters_is_found_or_named():
    rows = {f"p{i}": {"request": i // 2, "pattern": i % 2, "triple": i} for i in range(4)}
    assert find_clusters(rows, "pattern") == ({"p0": "=0", "p1": "=0", "p2": "=1", "p3": "=1"}, "request")
    assert find_clusters(rows, "success", "pattern")[1] == "pattern"
    assert find_clusters(rows, "request") == (None, "")  # triple holds one prompt each
    assert find_clusters(rows, "pattern", "none") == (None, "")
    lone = {**rows, "p4": {}}
    assert find_clusters(lone, "pattern")[0]["p4"] == "p4"
    with pytest.raises(ValueError, match="no prompt has a field 'colour'; choose pattern, request, triple"):
        find_clusters(rows, "pattern", "colour")
