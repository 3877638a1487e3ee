"""The search and the whole protocol, on simulated texts: planted effects are found, and what is planted
nowhere is not.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from traitscope.analysis.steering import evaluate as protocol
from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.doses import Track, Tried, climb, fixed_doses, weigh_chance
from traitscope.analysis.steering.evaluate import evaluate
from traitscope.analysis.steering.nulls import draw_nulls, rival_cell
from traitscope.analysis.steering.place import find_place, reading_of
from traitscope.analysis.steering.search import Cell, Search
from traitscope.analysis.steering.setting import Candidates, Protocol, Setting, surroundings
from traitscope.analysis.steering.treatments import (
    Intervention,
    Site,
    Surroundings,
    Treatment,
    build,
    compose,
    hold_at,
    youden_threshold,
)
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Score
from traitscope.utils.measures.directions import combine
from traitscope.utils.measures.intervals import benjamini_hochberg, permutation_p
from traitscope.utils.measures.separation import separation as separate
from traitscope.utils.records.vectors import Separation

D, LAYERS = 24, (3, 5, 7)
QUESTIONS = [f"question {i}" for i in range(32)]


class SimulatedBench:
    """Texts whose scores follow from the pushes: `gain` points along a planted direction, `damage` in
    any, coherence that falls with force.
    """

    def __init__(
        self,
        seed: int,
        gain: float = 60.0,
        damage: float = 0.0,
        breaks_at: float = 0.5,
        noise: float = 5.0,
        random_pairs: int = 24,
        sway: float = 0.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.protocol = Protocol(random_pairs=random_pairs)
        self.seed, self.gain, self.damage, self.breaks_at, self.noise = seed, gain, damage, breaks_at, noise
        self.planted = torch.nn.functional.normalize(torch.tensor(rng.normal(size=D)).float(), dim=0)
        self.base = dict(zip(QUESTIONS, rng.uniform(35, 65, len(QUESTIONS)), strict=True))
        self.sway = sway  # points that some other direction adds at dose 1, growing with the dose squared
        self.other = torch.nn.functional.normalize(torch.tensor(rng.normal(size=D)).float(), dim=0)
        self.asked: list[str] = []
        self.arms: list[Arm] = []
        self.rounds = 0

    def open(self, questions):
        return self.measure([Arm("unsteered")], questions)[0]

    def norms(self):
        return [100.0] * 10

    def gate(self, vector, layer, quantile):
        return 0.0

    def extra(self, arms):
        return {}

    def measure(self, arms, questions):
        self.rounds += 1
        self.asked += [arm.name for arm in arms]
        self.arms += arms
        return [self._answer(arm, questions) for arm in arms]

    def _answer(self, arm: Arm, questions) -> ArmResult:
        total = sum((p.coefficient * p.vector.float() for p in arm.pushes), torch.zeros(D)) / 100
        along, force = float(total @ self.planted), float(total.norm())
        marks = [[p.layer, p.coefficient, p.vector[:2].tolist()] for p in arm.pushes]
        rng = np.random.default_rng([self.seed, int(key_of([arm.name, marks]), 16) % 2**32])
        shift = self.gain * math.tanh(2 * along) + self.damage * force + (10 if arm.system_prompt else 0)
        shift += self.sway * float(total @ self.other) * force
        scores = [
            Score(float(np.clip(self.base[q] + shift + rng.normal(0, self.noise), 0, 100))) for q in questions
        ]
        coherence = Score(95.0 if force < self.breaks_at else 20.0)
        n = len(questions)
        return ArmResult(arm, list(questions), [[1]] * n, [[2]] * n, ["text"] * n, scores, [coherence] * n)


def activations_of(bench: SimulatedBench) -> dict:
    """Activations that carry the trait, as those of real responses do: half of the texts show it."""
    rng = np.random.default_rng(bench.seed + 1)
    shown = torch.tensor(np.repeat([1.0, -1.0], 30)).float()[:, None]
    return {layer: torch.tensor(rng.normal(size=(60, D))).float() + shown * bench.planted for layer in LAYERS}


def shuffled_vectors(bench: SimulatedBench, seed: int) -> dict:
    """Differences of means with the sides drawn by lot."""
    rng, vectors = np.random.default_rng([bench.seed, seed]), {}
    for layer, activations in activations_of(bench).items():
        sides = rng.permutation(np.arange(60) < 30)
        vectors["mean_diff", layer] = activations[sides].mean(0) - activations[~sides].mean(0)
    return vectors


def candidates_of(bench: SimulatedBench, vectors, sign: int = 1) -> Candidates:
    activations = activations_of(bench)
    shuffled = shuffled_vectors(bench, seed=1)
    return Candidates(
        vectors,
        activations.__getitem__,
        np.arange(60) < 30,
        lambda m, layer: shuffled[m, layer],
        sign,
        lambda wanted: f"show it {wanted}",
    )


def run(
    bench: SimulatedBench,
    vectors,
    search: Search | None = None,
    intervention: Intervention | None = None,
    sign: int = 1,
) -> dict:
    found = evaluate(
        bench,
        candidates_of(bench, vectors, sign),
        search or Search(),
        intervention or Intervention(),
        QUESTIONS[:12],
        QUESTIONS[12:],
    )
    return found[0]


def planted_vectors(bench: SimulatedBench, share: float = 0.9) -> dict:
    """Vectors that are mostly the planted direction."""
    rng = np.random.default_rng(bench.seed + 2)
    noise = {
        layer: torch.nn.functional.normalize(torch.tensor(rng.normal(size=D)).float(), dim=0)
        for layer in LAYERS
    }
    return {
        ("mean_diff", layer): 7 * (share * bench.planted + (1 - share) * noise[layer]) for layer in LAYERS
    }


def random_vectors(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {("mean_diff", layer): torch.tensor(rng.normal(size=D)).float() for layer in LAYERS}


@pytest.fixture
def without_rows(monkeypatch):
    """Spare a simulation the writing of its texts: it is about verdicts."""
    monkeypatch.setattr(protocol, "arm_rows", lambda *_: [])


OFTEN = pytest.mark.parametrize("repetitions", [40, pytest.param(100, marks=pytest.mark.slow)])


@pytest.mark.usefixtures("without_rows")
@pytest.mark.parametrize("repetitions", [15, pytest.param(40, marks=pytest.mark.slow)])
def test_a_planted_effect_works_in_most_repetitions(repetitions):
    verdicts = [
        run(bench := SimulatedBench(seed), planted_vectors(bench))["verdict"] for seed in range(repetitions)
    ]
    assert verdicts.count("works") >= 0.95 * repetitions


@OFTEN
@pytest.mark.usefixtures("without_rows")
@pytest.mark.parametrize("damage", [0.0, 60.0])
def test_random_vectors_are_not_proven_in_at_least_19_of_20_repetitions_though_the_best_of_all_is_chosen(
    damage, repetitions
):
    verdicts = [
        run(SimulatedBench(seed, damage=damage), random_vectors(seed + 500))["verdict"]
        for seed in range(repetitions)
    ]
    assert verdicts.count("not proven") >= 0.95 * repetitions


@OFTEN
@pytest.mark.usefixtures("without_rows")
def test_vectors_whose_labels_mean_nothing_are_not_proven_in_at_least_19_of_20_repetitions(repetitions):
    """The activations hold the trait, so that a mixture with its sides drawn by lot may hold it and steer; but
    held-out responses, whose sides were drawn by lot as well, it does not tell apart.
    """
    verdicts = []
    for seed in range(repetitions):
        bench = SimulatedBench(seed)
        vectors = shuffled_vectors(bench, seed=2)
        held_out = torch.tensor(np.random.default_rng([seed, 3]).normal(size=(24, D))).float()
        held_out += (
            torch.tensor(np.random.default_rng([seed, 4]).choice([-1.0, 1.0], 24)).float()[:, None]
            * bench.planted
        )
        projected = {key: (held_out @ vector).numpy() for key, vector in vectors.items()}
        found = {
            key: Separation.model_validate(separate(p[:12], p[12:], 0.0)) for key, p in projected.items()
        }
        candidates = replace(candidates_of(bench, vectors), separation=found)
        results = evaluate(bench, candidates, Search(), Intervention(), QUESTIONS[:12], QUESTIONS[12:])[0]
        verdicts.append(results["verdict"])
    assert verdicts.count("not proven") >= 0.95 * repetitions


def test_a_trait_that_is_unwanted_is_the_mirror_image():
    bench = SimulatedBench(3)
    result = run(bench, planted_vectors(bench), sign=-1)
    assert result["verdict"] == "works"
    assert result["chosen"]["coefficient"] < 0


def test_the_smallest_convincing_and_the_largest_coherent_dose_are_both_reported():
    bench = SimulatedBench(0, breaks_at=0.45, sway=900)
    result = run(bench, planted_vectors(bench), Search(doses=(0.1, 0.2, 0.4, 0.8)))
    assert result["chosen"]["dose"] < result["strongest"]["dose"] == 0.4
    assert result["strongest"]["effect"]["mean"] > result["effect"]["mean"]
    assert result["strongest"]["coherence"]["plus"] > 70


def test_ablation_takes_the_trait_away_and_is_compared_one_sided():
    class Ablating(SimulatedBench):
        def _answer(self, arm, questions):
            away = sum(
                max(0.0, float(torch.nn.functional.normalize(p.vector, dim=0) @ self.planted))
                for p in arm.pushes
            )
            plain = super()._answer(Arm(arm.name, (), arm.system_prompt), questions)
            return ArmResult(
                arm,
                plain.questions,
                plain.prompt_ids,
                plain.response_ids,
                plain.responses,
                [Score(max(0.0, s.value - 25 * away)) for s in plain.trait],
                plain.coherence,
            )

    bench = Ablating(1)
    result = run(bench, planted_vectors(bench), intervention=Intervention(operation="ablate"))
    assert result["verdict"] == "works"
    assert result["effect_minus"] is None
    assert result["example"]["minus"] is None
    assert result["effect"]["mean"] == result["odd_part"]["mean"] > 15
    assert not [name for name in bench.asked if name.endswith("minus")]
    assert (
        run(Ablating(2), random_vectors(5), intervention=Intervention(operation="ablate"))["verdict"]
        == "not proven"
    )


# The search


def results_of(coherences) -> list[ArmResult]:
    return [ArmResult(Arm(""), ["q"], [[1]], [[1]], ["t"], [Score(50.0)], [Score(c)]) for c in coherences]


def treatment(layer: int = 3, norm: float = 100.0) -> Treatment:
    return Treatment("mean_diff", (Site(layer, torch.ones(D), norm),))


def doses_of(search: Search, breaks_at: float, steps: int) -> list[float]:
    """Follow one track through a text that breaks at a dose."""
    tracks_doses = []
    track = Track(treatment())
    for _ in range(steps):
        if (dose := track.next_dose(search, 70)) is None:
            break
        tracks_doses.append(dose)
        answer = results_of([95 if dose < breaks_at else 10])[0]
        track.tried.append(Tried(Cell(track.treatment, dose), answer, answer))
    return tracks_doses


def test_a_track_climbs_while_coherent_brackets_the_gate_and_ends_converged():
    doses = doses_of(Search(), breaks_at=0.5, steps=30)
    assert doses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert len(doses) < 10
    top, low = max(d for d in doses if d < 0.5), min(d for d in doses if d >= 0.5)
    assert math.log(low / top) < 0.15


def test_the_factors_are_those_of_the_flags():
    assert doses_of(Search(up_mult=1.3, down_mult=0.85, start_mult=0.2), 9, 3) == pytest.approx(
        [0.2, 0.26, 0.338]
    )
    assert doses_of(Search(up_mult=1.3, down_mult=0.85, start_mult=0.8), 0.1, 3) == pytest.approx(
        [0.8, 0.68, 0.578]
    )
    carried = doses_of(Search(up_mult=1.3, momentum=True), 9, 4)
    assert carried[1] / carried[0] == pytest.approx(1.3)
    assert carried[2] / carried[1] == pytest.approx(1.3**1.5)
    assert carried[3] / carried[2] > carried[2] / carried[1]


@pytest.mark.parametrize("breaks_at", [0.004, 0.03, 0.1, 0.21, 1.0, 50.0])
def test_no_dose_is_asked_for_twice_and_none_is_absurd(breaks_at):
    doses = doses_of(Search(search_steps=40), breaks_at, 40)
    assert all(0.005 <= d <= 2 for d in doses)
    logs = sorted(map(math.log, doses))
    assert all(b - a >= 0.03 for a, b in pairwise(logs))


def test_every_dose_is_tried_both_ways_and_a_broken_opposite_turns_the_climb():
    asked: list[list[str]] = []

    def measure(arms):
        asked.append([arm.name for arm in arms])
        return results_of([95.0 if arm.name.startswith("plus") else 20.0 for arm in arms])

    tried = climb(treatment(), Search(search_steps=3), measure, 70)
    assert [t.cell.dose for t in tried] == pytest.approx([0.1, 0.05, 0.025])
    assert all(len(names) == 2 for names in asked)
    assert all(t.minus is not None and not t.holds(70) for t in tried)


def test_raw_coefficients_are_on_the_vector_as_saved_and_zero_is_the_unsteered_arm():
    cell = treatment()
    doses = fixed_doses(cell, Search(coefficients=(0.0, 3.0)))
    assert len(doses) == 1
    assert cell.pushes(doses[0])[0].coefficient == pytest.approx(3.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"search_steps": 0},
        {"up_mult": 1.0},
        {"down_mult": 1.0},
        {"doses": (-0.1,)},
        {"coefficients": (0.0,)},
        {"doses": (0.1,), "coefficients": (1.0,)},
    ],
)
def test_a_senseless_search_is_refused(bad):
    with pytest.raises(UserError):
        Search(**bad).check()


# Treatments


AROUND = Surroundings([10.0, 20.0, 30.0], lambda layer: torch.arange(20.0).reshape(10, 2), np.arange(10) >= 5)


def test_a_dose_over_several_layers_is_shared_out():
    spread = build(
        Intervention(),
        AROUND,
        "m",
        {0: torch.tensor([3.0, 4.0]), 2: torch.tensor([0.0, 2.0])},
        {0: 0.25, 2: 0.75},
    )
    forces = [p.coefficient * float(p.vector.norm()) for p in spread.pushes(0.4)]
    assert forces == pytest.approx([0.4 * 0.25 * 10, 0.4 * 0.75 * 30])
    assert [p.coefficient for p in spread.pushes(-0.4)] == [-p.coefficient for p in spread.pushes(0.4)]


def test_orthogonal_and_incremental_vectors_are_what_their_names_say():
    vectors = {layer: torch.randn(D, generator=torch.Generator().manual_seed(layer)) for layer in (1, 2, 3)}
    orthogonal = compose("orthogonal", vectors)
    assert torch.equal(orthogonal[1], vectors[1])
    assert float(orthogonal[2] @ orthogonal[1]) == pytest.approx(0, abs=1e-4)
    assert float(orthogonal[3] @ vectors[2]) == pytest.approx(0, abs=1e-4)
    incremental = compose("incremental", vectors)
    assert torch.allclose(sum(incremental.values()), vectors[3], atol=1e-5)
    with pytest.raises(UserError, match="adds nothing"):
        compose("incremental", {1: vectors[1], 2: vectors[1].clone()})


def separation(d: float, auroc: float = 0.9, n: int = 12) -> Separation:
    return Separation(auroc=auroc, cohens_d=d, n_pos=n, n_neg=n)


def test_layers_share_a_dose_by_how_they_separate_held_out_responses_not_by_their_effects():
    bench = SimulatedBench(0)
    found = {("mean_diff", layer): separation(d) for layer, d in zip(LAYERS, (-1.0, 1.0, 3.0), strict=True)}
    candidates = replace(candidates_of(bench, planted_vectors(bench)), separation=found)
    how = Intervention(multi_layer="weighted")
    result = evaluate(bench, candidates, Search(), how, QUESTIONS[:12], QUESTIONS[12:])[0]
    assert result["chosen"]["layer"] == [5, 7]
    low, high = result["chosen"]["coefficient"]
    lengths = [float(candidates.vectors["mean_diff", layer].norm()) for layer in (5, 7)]
    assert high * lengths[1] / (low * lengths[0]) == pytest.approx(3.0, rel=1e-3)
    assert result["verdict"] == "works"


def test_the_place_is_chosen_by_separation_or_depth_and_no_effect_has_a_part_in_it():
    bench = SimulatedBench(0)
    found = {
        ("mean_diff", layer): separation(1.0, auroc)
        for layer, auroc in zip(LAYERS, (0.9, 0.7, 0.95), strict=True)
    }
    candidates = replace(candidates_of(bench, planted_vectors(bench)), separation=found)
    places = {}
    for how in ("separation", "depth"):
        bench.asked.clear()
        result = evaluate(
            bench, candidates, Search(choose_by=how), Intervention(), QUESTIONS[:12], QUESTIONS[12:]
        )[0]
        places[how] = result["chosen"]["layer"]
        assert {p["layer"] for p in result["dev"]} == {places[how]}
    assert places == {"separation": 7, "depth": 5}


def test_where_effects_choose_the_place_every_random_direction_chooses_as_well():
    bench = UnevenBench(3, sway=900)
    bench.sensitivity = {3: 0.0, 5: 0.0, 7: 1.0}
    vectors = planted_vectors(bench)
    result = evaluate(
        bench,
        candidates_of(bench, vectors),
        Search(choose_by="steering"),
        Intervention(),
        QUESTIONS[:12],
        QUESTIONS[12:],
    )
    assert result[0]["chosen"]["layer"] == 7  # the only one that feels a push
    random = [arm for arm in bench.arms if arm.name.startswith("random")]
    layers = [p.layer for arm in random for p in arm.pushes]
    assert layers.count(7) > 0.6 * len(layers)  # where a direction does nothing at all, noise chooses
    assert result[0]["verdict"] == "works"


def test_the_cap_is_where_the_sides_part_or_at_a_percentile():
    activations = torch.stack([torch.linspace(0, 9, 10), torch.zeros(10)], 1)
    axis = torch.tensor([2.0, 0.0])
    assert hold_at("roc", activations, axis, np.arange(10) >= 5) == pytest.approx(4.5)
    assert hold_at("50", activations, axis, np.arange(10) >= 5) == pytest.approx(4.5)
    assert hold_at("100", activations, axis, np.arange(10) >= 5) == pytest.approx(9)
    assert youden_threshold(np.array([1.0]), np.array([1.0])) == 1
    for bad in ("rock", "101", "-1", "nan"):
        with pytest.raises(UserError, match="cap-at"):
            Intervention(cap_at=bad).check()


def test_traits_are_combined_by_direction_at_the_length_of_the_first():
    total = combine(torch.tensor([6.0, 0.0]), [(1.0, torch.tensor([0.0, 0.1]))])
    assert total.tolist() == pytest.approx([6 / math.sqrt(2)] * 2)


# Nulls


def test_permutation_p_is_uniform_under_no_effect_and_small_under_one():
    rng = np.random.default_rng(0)
    ps = [permutation_p(rng.normal(size=20), draws=400) for _ in range(200)]
    assert 0.4 < np.mean(ps) < 0.6
    assert permutation_p(np.full(20, 1.0)) < 0.001


def test_benjamini_hochberg_is_the_textbooks():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert benjamini_hochberg([None, 0.5]) == [None, 0.5]
    assert benjamini_hochberg([]) == []


# Nulls that have the vector's chances


class UnevenBench(SimulatedBench):
    """A model whose layers react differently to the same push."""

    sensitivity: dict = {3: 1.0, 5: 0.0, 7: 0.0}  # noqa: RUF012

    def _answer(self, arm, questions):
        felt = tuple(replace(p, coefficient=p.coefficient * self.sensitivity[p.layer]) for p in arm.pushes)
        answered = super()._answer(replace(arm, pushes=felt), questions)
        return replace(answered, arm=arm)


def shared_candidates(bench: SimulatedBench) -> Candidates:
    """Layers whose activations are much alike, as a residual stream's are, with vectors fitted on sides
    drawn by lot.
    """
    rng = np.random.default_rng(bench.seed + 1)
    common = (
        torch.tensor(rng.normal(size=(60, D))).float()
        + torch.tensor(np.repeat([1.0, -1.0], 30)).float()[:, None] * bench.planted
    )
    activations = {layer: common + 0.2 * torch.tensor(rng.normal(size=(60, D))).float() for layer in LAYERS}

    def fit(seed: int) -> dict:
        sides = np.random.default_rng([bench.seed, seed]).permutation(np.arange(60) < 30)
        return {
            ("mean_diff", layer): a[sides].mean(0) - a[~sides].mean(0) for layer, a in activations.items()
        }

    shuffled = fit(1)
    return Candidates(
        fit(2),
        activations.__getitem__,
        np.arange(60) < 30,
        lambda m, layer: shuffled[m, layer],
        1,
        lambda wanted: "show it",
        # the sides of held-out responses were drawn by lot as well
        separation={
            key: Separation.model_validate(separate(*rng.normal(size=(2, 12)), 0.0)) for key in fit(2)
        },
    )


@OFTEN
@pytest.mark.usefixtures("without_rows")
@pytest.mark.parametrize(
    ("kind", "intervention"),
    [
        (UnevenBench, Intervention()),
        (SimulatedBench, Intervention(multi_layer="weighted")),
        (SimulatedBench, Intervention(multi_layer="orthogonal")),
    ],
)
def test_where_layers_differ_or_act_together_chance_is_still_not_proven(kind, intervention, repetitions):
    found = [
        evaluate(
            bench := kind(seed),
            shared_candidates(bench),
            Search(),
            intervention,
            QUESTIONS[:12],
            QUESTIONS[12:],
        )[0]
        for seed in range(repetitions)
    ]
    assert [f["verdict"] for f in found].count("not proven") >= 0.95 * repetitions


def setting_of(bench: SimulatedBench, candidates: Candidates, how: Intervention = Intervention()) -> Setting:  # noqa: B008
    return Setting(bench, candidates, surroundings(bench, candidates, how), how, bench.open(QUESTIONS[:12]))


def test_random_directions_of_several_layers_point_as_much_alike_as_the_layers_do():
    bench = SimulatedBench(0)
    candidates = shared_candidates(bench)
    setting = Setting(
        bench,
        candidates,
        surroundings(bench, candidates, Intervention()),
        Intervention(multi_layer="weighted"),
        bench.open(QUESTIONS[:12]),
    )
    cell = Cell(
        setting.build("mean_diff", {layer: candidates.vectors["mean_diff", layer] for layer in LAYERS}), 0.2
    )
    for (null,) in draw_nulls(setting, [cell.treatment], 20, 0):
        assert null.layers == cell.treatment.layers
        first, *others = [site.vector / site.vector.norm() for site in null.sites]
        assert all(float(first @ other) > 0.8 for other in others)


def test_shuffled_vectors_are_composed_and_dosed_like_the_vector():
    bench = SimulatedBench(0)
    candidates = shared_candidates(bench)
    how = Intervention(multi_layer="incremental")
    setting = setting_of(bench, candidates, how)
    cell = Cell(
        setting.build(
            "mean_diff",
            compose("incremental", {layer: candidates.vectors["mean_diff", layer] for layer in LAYERS}),
        ),
        0.3,
    )
    rival = rival_cell(setting, cell)
    plain = {layer: candidates.shuffled("mean_diff", layer) for layer in LAYERS}
    difference, own = plain[LAYERS[1]] - plain[LAYERS[0]], cell.treatment.sites[1].vector
    unit = own / own.norm()
    assert rival.dose == 0.3
    assert torch.allclose(rival.treatment.sites[1].vector, difference - (difference @ unit) * unit, atol=1e-5)


def test_random_directions_hold_nothing_of_the_vector_and_follow_the_rest_of_the_covariance():
    bench = SimulatedBench(0)
    spread = torch.linspace(5, 0.2, D)
    acts = torch.randn(400, D, generator=torch.Generator().manual_seed(0)) * spread
    vector = torch.zeros(D)
    vector[0] = 3.0  # the widest of all: the trait
    candidates = replace(candidates_of(bench, {("mean_diff", 3): vector}), activations=lambda layer: acts)
    setting = setting_of(bench, candidates)
    place = setting.build("mean_diff", {3: vector})
    drawn = torch.stack([null.sites[0].vector for (null,) in draw_nulls(setting, [place], 600, 0)])
    assert float((drawn @ vector).abs().max()) < 1e-5
    sizes = drawn.norm(dim=1, keepdim=True)
    share = ((drawn / sizes) ** 2).mean(0)
    wanted = spread[1:] ** 2 / (spread[1:] ** 2).sum()
    assert torch.allclose(share[1:], wanted, atol=0.02)


@pytest.mark.parametrize(("grows", "spread"), [(1.0, 10.0), (2.0, 10.0), (1.0, 0.0)])
def test_what_chance_does_at_a_dose_is_told_from_the_noise_of_the_answers(grows, spread):
    """Forty random directions whose effects grow with the dose by a known power, under answers that vary by 15."""
    rng = np.random.default_rng(0)
    size = {i: spread * rng.normal() for i in range(40)}

    def measure(arms):
        found = []
        for arm in arms:
            coefficient, direction = arm.pushes[0].coefficient, size[int(arm.pushes[0].vector[0])]
            effect = direction * np.sign(coefficient) * (abs(coefficient) / 0.2) ** grows
            scores = [Score(float(np.clip(50 + effect + 15 * rng.normal(), 0, 100))) for _ in range(6)]
            found.append(replace(results_of([95.0])[0], arm=arm, questions=["q"] * 6, trait=scores))
        return found

    def null(i: int) -> Treatment:
        vector = torch.zeros(D)
        vector[0] = float(i)
        return Treatment("random", (Site(3, vector, float(vector.norm()) or 1.0),))

    tried = [Tried(Cell(treatment(), dose), *results_of([95.0, 95.0])) for dose in (0.1, 0.2)]
    low, high = (t.spread for t in weigh_chance(tried, [null(i) for i in range(1, 40)], measure, 70))
    assert high == pytest.approx(spread, abs=3)
    assert 1.9 <= high / low <= 4.1  # by the first to the second power of the dose
    assert [t.spread for t in weigh_chance(tried[:1], [null(1)], measure, 70)] == [None]


def test_what_was_not_measured_is_not_read_and_the_best_of_many_is_known_as_such():
    bench = SimulatedBench(0)
    found = {("mean_diff", layer): separation(1.0) for layer in LAYERS}
    candidates = replace(candidates_of(bench, planted_vectors(bench)), separation=found)
    for how, is_read in (("no", True), ("weighted", True), ("orthogonal", False), ("incremental", False)):
        setting = setting_of(bench, candidates, Intervention(multi_layer=how))
        place = find_place(setting, Search(), bench.measure).treatment
        assert (reading_of(setting, place, "depth") is not None) == is_read, how
    setting = setting_of(bench, candidates)
    place = find_place(setting, Search(), bench.measure).treatment
    assert reading_of(setting, place, "depth").best_of == 1
    assert reading_of(setting, place, "separation").best_of == len(LAYERS)


def test_senseless_settings_of_a_verdict_are_refused_and_hopeless_ones_said(capsys):
    for bad in (Protocol(random_pairs=-1), Protocol(min_effect=-5.0)):
        with pytest.raises(UserError, match="0 or more"):
            bad.check()
    Protocol(random_pairs=9).check()
    Protocol(random_pairs=19).check(has_opposite=False)
    assert capsys.readouterr().out == ""
    Protocol(random_pairs=8).check()
    Protocol(random_pairs=18).check(has_opposite=False)
    assert capsys.readouterr().out.count("not proven") == 2


def test_two_methods_mixtures_are_as_much_alike_as_their_vectors():
    bench = SimulatedBench(0)
    acts = torch.randn(300, D, generator=torch.Generator().manual_seed(1))
    first, second = torch.zeros(D), torch.zeros(D)
    first[0], second[0], second[1] = 1.0, 0.8, 0.6
    vectors = {("a", 3): first, ("b", 3): second}
    setting = setting_of(bench, replace(candidates_of(bench, vectors), activations=lambda layer: acts))
    places = [setting.build(method, {layer: v}) for (method, layer), v in vectors.items()]
    cosines = [
        float(torch.nn.functional.cosine_similarity(a.sites[0].vector, b.sites[0].vector, dim=0))
        for a, b in draw_nulls(setting, places, 300, 0)
    ]
    assert np.mean(cosines) == pytest.approx(0.8, abs=0.08)


def test_a_clamp_that_raises_is_wanted_upwards():
    high = build(Intervention(operation="clamp", cap_at="95"), AROUND, "m", {0: torch.tensor([1.0, 0.0])})
    low = build(Intervention(operation="clamp", cap_at="5"), AROUND, "m", {0: torch.tensor([1.0, 0.0])})
    assert (high.sign, low.sign) == (1, -1)


def test_doses_that_are_one_are_asked_for_once():
    assert fixed_doses(treatment(), Search(doses=(0.2, 0.2, 0.201, 0.4))) == [0.2, 0.4]
    for start in (0.003, 3.0):
        with pytest.raises(UserError, match="start-mult"):
            Search(start_mult=start).check()


def test_too_few_random_directions_are_called_so_and_coherence_that_is_not_known_is_no_zero():
    bench = SimulatedBench(0, random_pairs=5)
    assert "too few" in run(bench, planted_vectors(bench))["why"]
