import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.conclusion import reach_verdict
from traitscope.analysis.steering.doses import Track, Tried, pick_dose, pick_strongest
from traitscope.analysis.steering.evidence import Evidence, median_example
from traitscope.analysis.steering.history import allow_for_looks
from traitscope.analysis.steering.search import Cell, Search, effect_of, odd_part
from traitscope.analysis.steering.treatments import Site, Treatment
from traitscope.utils.judge import Score
from traitscope.utils.judge.reliability import Reliability
from traitscope.utils.measures.chance import compare_with_null
from traitscope.utils.records.verdict import Reading

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


def tried(
    dose: float, gain: float, spread: float, noise: float = 4.0, coherence: float = 90.0, seed: int = 0
) -> Tried:
    """A dose at which the vector moves the score by `gain` each way, and chance by `spread`."""
    rng = np.random.default_rng([seed, int(1000 * dose)])
    base = np.linspace(40, 60, N)
    up, down = (arm(base + sign * gain + rng.normal(0, noise, N), coherence) for sign in (1, -1))
    return Tried(make_cell(1, dose), up, down, spread)


BASE = arm(np.linspace(40, 60, N))


def test_the_dose_is_taken_where_the_vector_stands_furthest_above_chance():
    doses = [tried(0.1, 9, 2), tried(0.2, 16, 4), tried(0.4, 28, 16)]
    assert pick_dose(doses, BASE, 70, 5).cell.dose == 0.1
    grown = [tried(0.1, 9, 8), tried(0.2, 18, 8), tried(0.4, 30, 40)]
    assert pick_dose(grown, BASE, 70, 5).cell.dose == 0.2


def test_a_dose_whose_effect_is_not_worth_having_is_taken_only_where_none_is():
    doses = [tried(0.1, 3, 0.6, noise=1), tried(0.2, 6, 3, noise=1)]
    assert pick_dose(doses, BASE, 70, 5).cell.dose == 0.2
    assert pick_dose(doses[:1], BASE, 70, 5).cell.dose == 0.1


def test_a_dose_that_breaks_either_side_is_taken_only_where_all_do():
    broken = tried(0.4, 40, 3)
    for side in ("plus", "minus"):
        one_sided = replace(broken, **{side: replace(getattr(broken, side), coherence=[Score(20.0)] * N)})
        assert pick_dose([tried(0.1, 8, 3), one_sided], BASE, 70, 5).cell.dose == 0.1
        assert pick_strongest([tried(0.1, 8, 3), one_sided], one_sided, 70).cell.dose == 0.1
    assert (
        pick_dose([tried(0.8, 8, 3, coherence=10), tried(0.4, 8, 3, coherence=20)], BASE, 70, 5).cell.dose
        == 0.4
    )


def test_a_dose_that_only_just_holds_gives_way_to_one_that_surely_does():
    mixed = [Score(100.0 if i % 4 else 0.0) for i in range(N)]  # mean 75, standard error 10
    shaky = replace(tried(0.2, 20, 2), minus=replace(tried(0.2, 20, 2).minus, coherence=mixed))
    assert shaky.holds(70)
    assert not shaky.surely_holds(70)
    assert pick_dose([tried(0.1, 9, 2), shaky], BASE, 70, 5).cell.dose == 0.1
    assert pick_dose([tried(0.1, 2, 2, noise=0.5), shaky], BASE, 70, 12).cell.dose == 0.2


def test_a_dose_whose_text_just_holds_is_where_the_climb_turns():
    track = Track(CELL.treatment)
    for texts in ([95.0], [95.0], [100.0, 100.0, 100.0, 0.0]):  # mean 75, standard error 11
        dose = track.next_dose(Search(), 70)
        side = arm(np.full(N, 50.0))
        side = replace(side, coherence=[Score(texts[i % len(texts)]) for i in range(N)])
        track.tried.append(Tried(replace(CELL, treatment=track.treatment, dose=dose), side, side))
    assert [t.cell.dose for t in track.tried] == pytest.approx([0.1, 0.2, 0.4])
    assert track.next_dose(Search(), 70) == pytest.approx(math.sqrt(0.2 * 0.4))


@pytest.mark.parametrize(
    ("n", "most"), [(8, 0.15), (16, 0.1), (40, 0.1)]
)  # of eight, all hold by luck too often
def test_of_doses_that_hold_on_dev_at_most_one_in_ten_breaks_on_test(n, most):
    """Texts hold or break, at doses at which between half and all of them hold."""
    rng, sure, broke = np.random.default_rng(n), 0, 0
    for _ in range(4000):
        share = rng.uniform(0.5, 1)
        dev, test = (
            np.where(rng.random(n) < share, rng.uniform(85, 100, n), rng.uniform(0, 30, n)) for _ in range(2)
        )
        side = replace(arm(np.full(n, 50.0)), coherence=[Score(float(value)) for value in dev])
        if Tried(CELL, side, None).surely_holds(70):
            sure += 1
            broke += test.mean() < 70
    assert sure > 800
    assert broke / sure < most


def test_answers_of_which_none_could_be_graded_are_neither_coherent_nor_broken():
    unknown = replace(
        tried(0.2, 20, 3), plus=replace(tried(0.2, 20, 3).plus, coherence=[Score(None, "error")] * N)
    )
    assert np.isnan(unknown.plus.mean_coherence)
    assert not unknown.holds(70)
    assert not unknown.may_break(70)
    assert pick_dose([unknown, tried(0.1, 8, 3)], BASE, 70, 5).cell.dose == 0.1


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


def test_less_than_the_least_effect_is_not_proven_however_sure():
    """Five of sixteen questions rise by a point, and nothing else ever moves."""
    base, n = np.full(16, 50.0), 16
    rise = np.where(np.arange(n) < 5, 1.0, 0.0)
    still = arm(base)
    evidence = Evidence(still, (arm(base + rise), arm(base - rise)), [(still, still)] * 24, [], still)
    result = reach_verdict(CELL, evidence, 70)
    assert result["verdict"] == "not proven"
    assert result["random"]["z"] is None
    assert "less than 5" in result["why"] or "not above 0" in result["why"]


def test_a_spread_of_zero_is_said_and_not_divided_by():
    still = arm(np.full(16, 50.0))
    up, down = (arm(50 + sign * np.linspace(8, 30, 16)) for sign in (1, -1))
    result = reach_verdict(CELL, Evidence(still, (up, down), [(still, still)] * 24, [], still), 70)
    assert result["verdict"] == "works"
    assert result["random"]["z"] is None
    assert "none of which moves the score" in result["why"]


@pytest.mark.parametrize(("n", "verdict"), [(7, "not proven"), (8, "works")])
def test_eight_questions_are_the_least(n, verdict):
    def first(result: ArmResult) -> ArmResult:
        parts = {name: getattr(result, name)[:n] for name in ("questions", "responses", "trait", "coherence")}
        return replace(
            result, prompt_ids=result.prompt_ids[:n], response_ids=result.response_ids[:n], **parts
        )

    result = reach_verdict(CELL, trial(effect=30.0).each(first), 70)
    assert result["verdict"] == verdict
    assert n == 8 or "too few" in result["why"]


def test_every_look_counts():
    once, often = (reach_verdict(CELL, replace(trial(effect=30.0), looks=looks), 70) for looks in (1, 3))
    assert once["verdict"] == "works"
    assert often["verdict"] == "not proven"
    assert often["p"] == pytest.approx(4 * once["p"], abs=1e-3)
    assert "at look 3" in often["why"]


def test_however_often_one_looks_chance_works_less_than_twice_as_often_as_at_the_first_look():
    """Whoever stops at the first look that passes spends less than 2 α, because p doubles with every look."""
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(1500, 10, 100))  # ten looks, each a vector and 99 random directions
    passed = np.array(
        [
            any(
                allow_for_looks(compare_with_null(values[0], values[1:])["p"], 1 + k) <= 0.05
                for k, values in enumerate(looks)
            )
            for looks in runs
        ]
    )
    assert 0.06 < passed.mean() < 0.1
    assert allow_for_looks(0.02, 1) == 0.02
    assert allow_for_looks(0.4, 9) == 1


def told(value: float | None) -> Reliability | None:
    return None if value is None else Reliability(value, "asked", 200, value - 0.05, value + 0.05)


@pytest.mark.parametrize(("reliability", "verdict"), [(0.64, "not proven"), (0.65, "works"), (None, "works")])
def test_a_judge_near_chance_proves_nothing(reliability, verdict):
    result = reach_verdict(CELL, replace(trial(effect=30.0), reliability=told(reliability)), 70)
    assert result["verdict"] == verdict
    assert verdict == "works" or "near chance" in result["why"]


@pytest.mark.parametrize(
    ("reading", "verdict"),
    [
        (Reading(auroc=0.55, n_pos=12, n_neg=12), "not proven"),
        (Reading(auroc=0.95, n_pos=12, n_neg=12), "works"),
        (Reading(auroc=0.8, n_pos=12, n_neg=12), "works"),
        (Reading(auroc=0.8, n_pos=12, n_neg=12, best_of=120), "not proven"),
        (Reading(auroc=0.5, n_pos=2, n_neg=2), "works"),  # too few to say anything
        (None, "works"),
    ],
)
def test_a_vector_that_its_labels_taught_nothing_is_not_proven(reading, verdict):
    assert reach_verdict(CELL, replace(trial(effect=30.0), reading=reading), 70)["verdict"] == verdict


def test_p_is_the_rank_among_random_directions_and_exact_whatever_their_tails():
    rng = np.random.default_rng(0)
    draws = {
        "normal": rng.normal,
        "cauchy": rng.standard_cauchy,
        "few": lambda size: rng.normal(size=size) * (rng.random(size) < 0.1),
    }
    for draw in draws.values():
        found = [compare_with_null(values[0], values[1:]) for values in draw(size=(4000, 21))]
        share = np.mean([f["p"] <= 0.05 for f in found])
        assert share < 0.055
        assert all(f["p"] >= f["p_least"] for f in found)
    assert compare_with_null(9.0, np.array([1.0, -8.0, 3.0]))["p"] == 1 / 8
    assert compare_with_null(-9.0, np.array([1.0, -8.0, 3.0]))["p"] == 7 / 8
    assert compare_with_null(2.0, np.array([1.0, -8.0, 3.0]), has_sign=True)["p"] == 1 / 2


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
