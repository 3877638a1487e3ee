import numpy as np
import pytest
import torch

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.conclusion import Evidence, median_example, reach_verdict
from traitscope.analysis.steering.search import Cell, effect_of, odd_part, pick_cell, pick_finalists
from traitscope.analysis.steering.treatments import Site, Treatment
from traitscope.utils.judge import Score

N = 20


def make_cell(layer: int = 3, dose: float = 0.2, sign: int = 1) -> Cell:
    return Cell(Treatment("mean_diff", (Site(layer, torch.ones(4), 10.0),), sign=sign), dose)


CELL = make_cell()


def arm(values, coherence: float = 90.0, name: str = "arm") -> ArmResult:
    """An arm whose texts a simulated judge has scored."""
    scores = [Score(None, "error") if np.isnan(v) else Score(float(np.clip(v, 0, 100))) for v in values]
    n = len(scores)
    return ArmResult(
        Arm(name),
        [f"q{i}" for i in range(n)],
        [[1]] * n,
        [[2]] * n,
        [f"{name} {i}" for i in range(n)],
        scores,
        [Score(coherence)] * n,
    )


def trial(
    effect: float = 20.0,
    damage: float = 0.0,
    spread: float = 3.0,
    seed: int = 0,
    n_random: int = 20,
    coherence: float = 90.0,
) -> Evidence:
    """A simulated test: `effect` is what the vector's direction does, `damage` what any push of that
    force does, `spread` what directions do at random.
    """
    rng = np.random.default_rng(seed)
    base = rng.uniform(30, 60, N)

    def pair(direction: float) -> tuple[ArmResult, ArmResult]:
        return tuple(
            arm(base + sign * direction + damage + rng.normal(0, 6, N), coherence) for sign in (1, -1)
        )  # type: ignore[return-value]

    randoms = [pair(rng.normal(0, spread)) for _ in range(n_random)]
    return Evidence(arm(base), pair(effect), randoms, [pair(rng.normal(0, spread))], arm(base + 10))


def test_a_planted_effect_works():
    assert all(reach_verdict(CELL, trial(seed=seed), 70)["verdict"] == "works" for seed in range(50))


@pytest.mark.parametrize("repetitions", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_random_directions_are_not_proven_in_at_least_19_of_20_repetitions(repetitions):
    rng = np.random.default_rng(1)
    verdicts = [
        reach_verdict(CELL, trial(effect=rng.normal(0, 3.0), seed=seed), 70)["verdict"]
        for seed in range(repetitions)
    ]
    assert verdicts.count("not proven") >= 0.95 * repetitions


def test_damage_without_direction_is_not_proven_however_strong():
    result = reach_verdict(CELL, trial(effect=0.0, damage=30.0), 70)
    assert result["effect"]["low"] > 10
    assert result["verdict"] == "not proven"


def test_a_strong_effect_that_breaks_the_text_is_called_so():
    result = reach_verdict(CELL, trial(coherence=50.0), 70)
    assert result["verdict"] == "breaks the text"
    assert "50" in result["why"]


def test_too_few_random_directions_prove_nothing():
    assert reach_verdict(CELL, trial(n_random=5), 70)["verdict"] == "not proven"


def test_a_shuffled_label_vector_that_does_as_much_disproves():
    good = trial()
    result = reach_verdict(
        CELL, Evidence(good.unsteered, good.vector, good.randoms, [good.vector], good.system_prompt), 70
    )
    assert result["verdict"] == "not proven"
    assert "shuffled" in result["why"]


def test_a_trait_that_is_unwanted_is_the_mirror_image():
    mirrored = make_cell(3, 0.2, sign=-1)
    assert reach_verdict(mirrored, trial(effect=-20.0), 70)["verdict"] == "works"
    assert reach_verdict(mirrored, trial(effect=20.0), 70)["verdict"] == "not proven"
    assert mirrored.coefficients == [-CELL.coefficients[0]]


def test_unjudged_answers_are_left_out_of_effects_and_counted():
    good = trial()
    values = good.vector[0].trait_values.copy()
    values[:4] = np.nan
    result = reach_verdict(
        CELL,
        Evidence(
            good.unsteered, (arm(values), good.vector[1]), good.randoms, good.shuffled, good.system_prompt
        ),
        70,
    )
    assert result["effect"]["n"] == result["n_questions"] == N - 4
    assert result["states"]["plus"]["trait"] == {"scored": N - 4, "error": 4}
    assert all(
        states["trait"] == {"scored": N} for name, states in result["states"].items() if name != "plus"
    )
    assert result["verdict"] == "works"


def test_a_judge_that_could_say_nothing_proves_nothing():
    nothing = arm(np.full(N, np.nan))
    result = reach_verdict(
        CELL, Evidence(nothing, (nothing, nothing), [(nothing, nothing)], [(nothing, nothing)], nothing), 70
    )
    assert result["verdict"] == "not proven"
    assert result["effect"] is None


def test_odd_part_and_effect_are_paired_by_question():
    base, plus, minus = arm([50.0, 40.0]), arm([70.0, 50.0]), arm([40.0, 50.0])
    assert effect_of(plus, base, 1).tolist() == [20.0, 10.0]
    assert odd_part(plus, minus, 1).tolist() == [15.0, 0.0]
    assert odd_part(plus, minus, -1).tolist() == [-15.0, 0.0]


def test_the_interval_is_that_of_the_mean_and_narrows_with_consistency():
    wide, narrow = trial(seed=1), trial(seed=1)
    result = reach_verdict(CELL, wide, 70)["effect"]
    assert result["low"] < result["mean"] < result["high"]
    steady = arm(narrow.unsteered.trait_values + 20)
    exact = reach_verdict(
        CELL,
        Evidence(
            narrow.unsteered,
            (steady, narrow.vector[1]),
            narrow.randoms,
            narrow.shuffled,
            narrow.system_prompt,
        ),
        70,
    )["effect"]
    assert exact["high"] - exact["low"] < 1e-6


def test_the_search_prefers_clear_and_coherent_cells():
    cells = [make_cell(layer, dose) for layer in (1, 2) for dose in (0.1, 0.4)]
    rng = np.random.default_rng(0)
    base = rng.uniform(40, 50, N)
    gains, coherences = [1, 25, 12, 45], [95, 90, 92, 40]  # the strongest cell breaks the text
    plus = [arm(base + gain + rng.normal(0, 4, N), c) for gain, c in zip(gains, coherences, strict=True)]
    finalists = pick_finalists(list(zip(cells, plus, strict=True)), arm(base), gate=70)
    assert finalists[0][0] is cells[1]
    assert cells[3] not in [c for c, _ in finalists]
    minus = {
        cells[0].name: arm(base - 1),
        cells[1].name: arm(base + 24),
        cells[2].name: arm(base - 12 + rng.normal(0, 4, N)),
    }
    chosen = pick_cell([(c, up, minus[c.name]) for c, up in finalists], arm(base), 70)
    assert chosen is cells[2]  # cell 1 does the same in both directions: damage


def test_a_cell_whose_opposite_breaks_the_text_comes_last():
    cells = [make_cell(1, dose) for dose in (0.1, 0.4)]
    base = np.linspace(30, 60, N)
    noise = np.random.default_rng(0).normal(0, 3, N)
    plus, minus = (
        [arm(base + 10 + noise), arm(base + 30 + noise)],
        [arm(base - 10), arm(base - 30, coherence=40)],
    )
    finalists = list(zip(cells, plus, minus, strict=True))
    assert pick_cell(finalists, arm(base), 70) is cells[0]
    assert pick_cell(finalists[1:], arm(base), 70) is cells[1]  # if there is no other


def test_the_smallest_dose_that_shows_the_effect_is_chosen():
    cells = [make_cell(1, dose) for dose in (0.1, 0.2, 0.4)]
    rng = np.random.default_rng(0)
    base = np.linspace(30, 60, N)
    gains, spreads = [2, 10, 25], [8, 4, 1]  # unclear, clear, and clearest because the score saturates
    plus, minus = (
        [arm(base + sign * g + rng.normal(0, s, N)) for g, s in zip(gains, spreads, strict=True)]
        for sign in (1, -1)
    )
    finalists = list(zip(cells, plus, minus, strict=True))
    assert pick_cell(finalists, arm(base), 70) is cells[1]
    assert pick_cell(finalists[:1], arm(base), 70) is cells[0]


def test_an_odd_part_made_of_a_broken_opposite_is_not_proven():
    good = trial()
    broken = arm(good.vector[1].trait_values, coherence=50)
    result = reach_verdict(
        CELL,
        Evidence(good.unsteered, (good.vector[0], broken), good.randoms, good.shuffled, good.system_prompt),
        70,
    )
    assert result["verdict"] == "not proven"
    assert "opposite vector breaks the text" in result["why"]


def test_one_sided_random_pushes_that_do_as_much_are_told():
    result = reach_verdict(CELL, trial(effect=20.0, damage=30.0, spread=8.0), 70)
    one_sided = result["random_one_sided"]
    assert one_sided["n"] == 40
    assert one_sided["highest"] > 30
    assert one_sided["reach_it"] == 0 or "one-sided random pushes reach the effect" in result["why"]


def test_where_nothing_is_coherent_the_least_broken_cell_is_tried():
    cells = [make_cell(1, dose) for dose in (0.5, 1.0)]
    tried = [(cells[0], arm([50.0] * 5, 60)), (cells[1], arm([50.0] * 5, 20))]
    assert pick_finalists(tried, arm([40.0] * 5), gate=70) == tried[:1]


def test_a_dose_is_a_share_of_the_residual_norm_whatever_the_vectors_length():
    for scale in (0.1, 1.0, 50.0):
        (push,) = Treatment("m", (Site(5, scale * torch.tensor([3.0, 4.0]), 100.0),)).pushes(0.3)
        assert push.coefficient * float(push.vector.norm()) == pytest.approx(30.0)


def test_the_example_is_the_median_question():
    base, plus, minus = (
        arm([0.0] * 3, name="base"),
        arm([50.0, 10.0, 90.0], name="plus"),
        arm([0.0] * 3, name="minus"),
    )
    example = median_example(Evidence(base, (plus, minus), [], [(plus, minus)], base), ["a", "b", "c"], 1)
    assert example == {"question": "a", "unsteered": "base 0", "plus": "plus 0", "minus": "minus 0"}
