"""Do intervals of a mean cover it, at the sizes and in the shapes in which judges' scores come?"""

from collections.abc import Callable

import numpy as np
import pytest

from traitscope.utils.measures.intervals import mean_interval

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def near_floor(rng: np.random.Generator, size: tuple[int, ...], often: float) -> np.ndarray:
    """Whole scores piled at 0: half are 0–3, and some, which the treatment makes more often, are 5–39."""
    low = np.minimum(rng.poisson(1.0, size), 3) * (rng.random(size) < 0.5)
    return low + (rng.random(size) < often) * rng.integers(5, 40, size)


# each with the mean of what it draws, and how often a 95 % interval must hold that
SHAPES: dict[str, tuple[Draw, float, float]] = {
    "normal": (lambda rng, size: rng.normal(1, 2, size), 1.0, 0.93),
    "uniform": (lambda rng, size: rng.uniform(0, 100, size) - rng.uniform(0, 100, size), 0.0, 0.93),
    "beta": (lambda rng, size: 100 * (rng.beta(2, 8, size) - rng.beta(1, 9, size)), 10.0, 0.93),
    "at both ends": (
        lambda rng, size: 100 * (rng.beta(0.5, 0.5, size) - rng.beta(0.3, 0.9, size)),
        25.0,
        0.93,
    ),
    "near the floor": (lambda rng, size: near_floor(rng, size, 0.2) - near_floor(rng, size, 0.2), 0.0, 0.93),
    "off the floor": (lambda rng, size: near_floor(rng, size, 0.4) - near_floor(rng, size, 0.2), 4.4, 0.93),
    "lognormal": (lambda rng, size: rng.lognormal(0, 1, size), np.exp(0.5), 0.85),
}


def coverage(samples: np.ndarray, truth: float, clusters: np.ndarray | None = None) -> float:
    """Return the share of the samples [draws, n] whose 95 % interval holds the truth."""
    found = [mean_interval(values.astype(float), clusters) for values in samples]
    return float(np.mean([low <= truth <= high for _, low, high in found]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [8, 24])
def test_an_interval_covers_the_mean(shape, n):
    draw, truth, wanted = SHAPES[shape]
    rng = np.random.default_rng(n)
    # 400 draws: two standard errors of a coverage of 93 % are 2.6 points
    assert coverage(draw(rng, (400, n)), truth) >= wanted - 0.026


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [8, 16, 24, 40])
def test_an_interval_covers_the_mean_in_ten_thousand_draws(shape, n):
    draw, truth, wanted = SHAPES[shape]
    found = coverage(draw(np.random.default_rng(n), (10_000, n)), truth)
    print(f"{shape}, n = {n}: {found:.3f}")
    assert found >= wanted
    if shape == "normal":
        assert found <= 0.97  # it covers because it is right, and not because it is wide


def in_clusters(draws: int, sizes: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return values [draws, n] that correlate by 0.5 within a cluster, and the clusters [n]."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.normal(0, np.sqrt(0.5), (draws, len(sizes)))[:, clusters]
    return shared + rng.normal(0, np.sqrt(0.5), (draws, len(clusters))), clusters


@pytest.mark.parametrize("sizes", [[4] * 4, [4] * 10, [20, 2, 2, 2, 2, 2]])
def test_an_interval_over_clusters_covers_where_one_over_questions_does_not(sizes):
    values, clusters = in_clusters(600, sizes, np.random.default_rng(1))
    assert coverage(values, 0.0, clusters) >= 0.93
    assert coverage(values, 0.0) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[4] * g for g in range(4, 11)] + [[1, 2, 4, 9], [1, 1, 2, 4, 8, 8]])
def test_an_interval_over_clusters_covers_in_five_thousand_draws(sizes):
    values, clusters = in_clusters(5000, sizes, np.random.default_rng(2))
    found = coverage(values, 0.0, clusters)
    print(f"clusters of {sizes}: {found:.3f}; taken as independent {coverage(values, 0.0):.3f}")
    assert found >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16, 24, 40])
def test_where_one_question_in_eight_reacts_no_interval_sees_what_is_not_there(n):
    """With 8 questions none reacts in a third of the samples, and no interval can know of it."""
    rng = np.random.default_rng(n)
    reacts = rng.random((5000, n)) < 1 / 8
    values = rng.normal(0, 2, (5000, n)) + reacts * rng.normal(20, 5, (5000, n))
    found, seen = coverage(values, 20 / 8), reacts.any(1)
    among = coverage(values[seen], 20 / 8)
    print(
        f"n = {n}: {found:.3f}; none reacts in {1 - seen.mean():.3f}, and {among:.3f} of the rest are covered"
    )
    assert among >= (0.93 if n > 8 else 0.9)
    assert found >= {8: 0.65, 16: 0.83}.get(n, 0.93)


def test_an_interval_of_symmetric_values_is_students():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * np.sqrt(2.5 / 5)
    assert mean_interval(values) == pytest.approx((3.0, 3 - half, 3 + half))


def test_an_interval_reaches_further_towards_the_long_tail():
    values = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 1.0, 24.0])
    mean, low, high = mean_interval(values)
    assert high - mean > 1.3 * (mean - low)
    assert mean_interval(-values) == pytest.approx((-mean, -high, -low))


def test_clusters_of_one_change_nothing_and_equal_clusters_are_their_means():
    values = np.random.default_rng(0).normal(0, 1, 12)
    assert mean_interval(values, list("abcdefghijkl")) == pytest.approx(mean_interval(values))
    means = values.reshape(4, 3).mean(1)
    assert mean_interval(values, np.repeat(range(4), 3)) == pytest.approx(mean_interval(means))


def test_a_higher_level_is_wider():
    values = np.random.default_rng(0).normal(0, 1, 12)
    assert mean_interval(values, level=0.99)[1] < mean_interval(values)[1]


def test_too_little_has_no_interval_and_nothing_has_no_mean():
    assert mean_interval(np.array([3.0])) == (3.0, None, None)
    assert mean_interval(np.array([3.0, 5.0]), ["a", "a"]) == (4.0, None, None)
    assert mean_interval(np.array([2.0, 2.0])) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval(np.array([]))
    with pytest.raises(ValueError, match="1 cluster labels for 2 values"):
        mean_interval(np.array([1.0, 2.0]), ["a"])
