"""Is the figure of the best of many vectors given with an interval that holds it?"""

import numpy as np
import pytest

from traitscope.utils.measures.separation import auroc_interval, auroc_of, independent_candidates

N_POS, N_NEG = 12, 10


def draw(rng: np.random.Generator, k: int, alike: float, shift: float = 0.0) -> np.ndarray:
    """Return projections [k, n] on k vectors, which correlate by `alike` as those of neighbouring layers do."""
    shared = rng.normal(size=(5, N_POS + N_NEG))[rng.integers(0, 5, k)]
    found = np.sqrt(alike) * shared + np.sqrt(1 - alike) * rng.normal(size=(k, N_POS + N_NEG))
    found[:, :N_POS] += shift
    return found


def best_of(projections: np.ndarray, draws: int = 300) -> tuple[float, tuple, tuple, float]:
    """Return the best AUROC, its interval as one vector's and as the best's, and the candidates."""
    best = max(auroc_of(row[:N_POS], row[N_POS:]) for row in projections)
    candidates = independent_candidates(projections, N_POS, draws=draws)
    alone = auroc_interval(best, N_POS, N_NEG)
    return best, alone, auroc_interval(best, N_POS, N_NEG, 0.95 ** (1 / candidates)), candidates


@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_where_nothing_separates_the_best_of_150_is_not_taken_for_separation(alike):
    rng = np.random.default_rng(3)
    found = [best_of(draw(rng, 150, alike)) for _ in range(150)]
    alone = np.mean([low <= 0.5 <= high for _, (low, high), _, _ in found])
    allowed = np.mean([low <= 0.5 <= high for _, _, (low, high), _ in found])
    print(f"alike {alike}: alone {alone:.3f}, as the best of 150 {allowed:.3f}")
    assert alone < 0.6
    assert allowed >= 0.93 - 0.03  # 150 draws: two standard errors are 3.6 points


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_best_of_150_is_covered_in_a_thousand_draws(alike, shift):
    rng = np.random.default_rng(4)
    truth = {0.0: 0.5, 0.7: 0.6897}[shift]  # Φ(0.7/√2), of every vector
    found = [best_of(draw(rng, 150, alike, shift), 1000) for _ in range(1000)]
    alone = np.mean([low <= truth <= high for _, (low, high), _, _ in found])
    allowed = np.mean([low <= truth <= high for _, _, (low, high), _ in found])
    k = np.median([candidates for *_, candidates in found])
    print(f"alike {alike}, shift {shift}: alone {alone:.3f}, allowed {allowed:.3f}, k = {k:.1f}")
    assert allowed >= 0.93


def test_vectors_count_as_often_as_they_differ():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 60))
    assert independent_candidates(one, 30) == pytest.approx(1, abs=0.25)
    assert independent_candidates(np.repeat(one, 150, 0), 30) == independent_candidates(one, 30)
    assert independent_candidates(-one, 30) == pytest.approx(independent_candidates(one, 30))
    assert independent_candidates(rng.normal(size=(20, 60)), 30) == pytest.approx(20, rel=0.35)


def test_so_few_held_out_that_any_order_is_luck_exclude_nothing():
    projections = np.arange(150.0)[:, None] * 0 + np.random.default_rng(0).normal(size=(150, 6))
    candidates = independent_candidates(projections, 3)
    low, _ = auroc_interval(1.0, 3, 3, 0.95 ** (1 / candidates))
    assert low <= 0.5
