"""Courses of a trait, groups of prompts and two models: planted steps, shifts and differences are found,
and nothing where nothing is.
"""

import numpy as np
import pytest
from conftest import call
from hypothesis import given, settings
from hypothesis import strategies as st

from traitscope.analysis import compare_groups, compare_models
from traitscope.inference import monitor_dynamics
from traitscope.inference.watch.commitment import commitment, commitment_p, smooth
from traitscope.inference.watch.dynamics import (
    DynamicsOptions,
    acceleration,
    change_at,
    describe,
    persistence,
    velocity,
)
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.measures.groups import compare, compare_all, top_spans
from traitscope.utils.measures.intervals import permutation_p_of_groups
from traitscope.utils.records.readings import Projections, made_from, write_projections
from traitscope.utils.records.recorded import Record, write_record

TRAIT = "mood/hope"
MODEL = {"name": "m"}
COURSES = st.lists(st.floats(-50, 50), min_size=1, max_size=40).map(np.array)


def step(at: int, n: int = 40, low: float = -3.0, high: float = 4.0) -> np.ndarray:
    return np.where(np.arange(n) < at, low, high)


def test_a_planted_step_is_found_where_it_is():
    for at in (1, 7, 39):
        course = step(at)
        assert commitment(course, 0.5) == at
        assert np.flatnonzero(velocity(course)).tolist() == [at - 1]
        assert change_at(course, at) == pytest.approx(7.0)
        found = describe(course, 10.0, DynamicsOptions(window=1, tolerance=0.05))
        assert (
            found["commitment"],
            found["peak_at"],
            found["fastest_at"],
            found["peak"],
            found["persistence"],
        ) == (at, at, at, 4.0, 1.0)
    assert commitment(step(20, low=4.0), 0.5) == 0  # never of the other sign
    assert commitment(np.array([1.0, -1.0, 0.2]), 0.5) is None  # ends without a sign
    assert commitment(np.array([1.0, -0.4, 2.0]), 0.5) == 0  # a dip within the tolerance contradicts nothing
    assert commitment(np.array([-1.0, 1.0, -0.6, 1.0]), 0.5) == 3
    assert describe(np.array([]), 1.0, DynamicsOptions()) is None
    assert change_at(step(3), 0) is None


@settings(max_examples=80, deadline=None)
@given(COURSES, st.floats(0, 5))
def test_after_the_commitment_no_score_has_the_other_sign_and_just_before_it_one_has(course, tolerance):
    at = commitment(course, tolerance)
    if at is None:
        assert abs(course[-1]) <= tolerance
        return
    side = np.sign(course[-1])
    assert (course[at:] * side >= -tolerance).all()
    assert at == 0 or course[at - 1] * side < -tolerance
    assert commitment(-course, tolerance) == at  # the mirror image


@settings(max_examples=60, deadline=None)
@given(COURSES, st.integers(1, 9))
def test_smoothing_is_the_trailing_mean_and_looks_at_no_later_token(course, window):
    by_hand = [course[max(0, i - window + 1) : i + 1].mean() for i in range(len(course))]
    np.testing.assert_allclose(smooth(course, window), by_hand, atol=1e-9)
    np.testing.assert_allclose(smooth(np.append(course, 1e3), window)[:-1], by_hand, atol=1e-9)


def ar1(rng: np.random.Generator, n: int, correlation: float) -> np.ndarray:
    noise = rng.normal(size=n)
    for t in range(1, n):
        noise[t] = correlation * noise[t - 1] + np.sqrt(1 - correlation**2) * noise[t]
    return noise


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [40, 100])
def test_noise_seldom_commits(correlation, n):
    rng, options = np.random.default_rng(7), DynamicsOptions()
    length = 3.0  # 0.3 standard deviations of the noise have no sign
    courses = [ar1(rng, n, correlation) for _ in range(300)]
    share = np.mean([describe(c, length, options)["commitment"] is not None for c in courses])
    untested = np.mean([commitment(smooth(c, options.window), 0.3) is not None for c in courses])
    print(f"correlation {correlation}, {n} tokens: {share:.3f}, untested {untested:.3f}")
    assert share <= 0.07
    assert untested > 0.4


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_a_step_within_noise_is_found(correlation):
    rng, hits = np.random.default_rng(8), 0
    for _ in range(100):
        at = int(rng.integers(25, 75))
        found = describe(ar1(rng, 100, correlation) + step(at, 100, -4.0, 4.0), 8.0, DynamicsOptions())
        hits += found["commitment"] is not None and abs(found["commitment"] - at) <= 6
        assert found["commitment_p"] <= 0.05 or found["commitment"] is None
    assert hits >= 90


def test_a_commitment_is_tested_alike_whatever_the_unit_and_the_sign():
    scores = ar1(np.random.default_rng(9), 60, 0.5) + step(20, 60, -1.0, 1.0)
    p = commitment_p(scores, 5, 0.2)
    assert 0 < p <= 1
    assert commitment_p(-scores, 5, 0.2) == p == commitment_p(64 * scores, 5, 12.8)
    assert commitment_p(scores[:9], 5, 0.2) is None
    assert commitment_p(np.zeros(20), 5, 0.2) == 1.0


def test_a_parabola_has_its_velocity_and_acceleration():
    course = np.arange(6.0) ** 2
    assert velocity(course).tolist() == [1, 3, 5, 7, 9]
    assert acceleration(course).tolist() == [2, 2, 2, 2]


def test_persistence_is_the_share_after_the_peak_that_keeps_half_its_height():
    assert persistence(np.array([0.0, 10.0, 6.0, 4.9, 5.1])) == pytest.approx(3 / 4)
    assert persistence(np.array([0.0, -10.0, 6.0, -6.0])) == pytest.approx(2 / 3)  # on the peak's side


@pytest.fixture
def captured(tmp_path, monkeypatch):
    """Return a function that writes a captured prompt set with given courses, through the writers that
    capture uses.
    """
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))

    def write(
        courses: dict[str, np.ndarray],
        metadata: dict[str, dict],
        experiment: str = "e",
        trait: str = TRAIT,
        layer: int = 3,
    ) -> InferencePaths:
        paths = InferencePaths(experiment, "set", tmp_path)
        origin = {
            "experiment": "e",
            "trait": trait,
            "method": "mean_diff",
            "layer": layer,
            "centre": 1.0,
            "norm": 10.0,
            "sha256": "x",
            "why": "best",
        }
        for name, course in courses.items():
            half = len(course) // 2  # the first half of the tokens is the prompt
            tokens = [f" w{i}" for i in range(len(course))]
            turns = [
                {"role": "user", "start": 2, "end": half},
                {"role": "assistant", "start": half, "end": len(course)},
            ]
            text = "".join(tokens[2:half])
            ids = list(range(len(course)))
            record = Record(
                name,
                "k",
                [{"role": "user", "content": text}],
                "",
                ids,
                tokens,
                half,
                turns,
                True,
                metadata.get(name, {}),
                {"model": MODEL},
            )
            write_record(paths, record)
            scores = [Projections(origin, course + 1.0, np.ones(len(course)))]
            write_projections(paths, name, scores, made_from(record, MODEL))
        write_json(
            paths.index,
            {
                "made_by": {"model": MODEL},
                "prompt_set": {},
                "prompts": [{"id": name, **metadata.get(name, {})} for name in courses],
            },
        )
        return paths

    return write


def test_the_monitor_finds_planted_courses_and_known_points(captured, capsys):
    rising, falling = step(12, 60), -step(20, 60)
    courses = {
        "up": rising,
        "down": falling,
        "back": rising,
        "late": step(45, 60),
        "elsewhere": rising,
        "lost": rising,
    }
    about = {
        "up": {"trait": TRAIT, "expect": "rise", "where": "prompt", "at": "w12"},
        "down": {"trait": TRAIT, "expect": "fall", "where": "prompt", "at": "w20 w21"},
        "back": {"trait": TRAIT, "expect": "fall", "where": "prompt", "at": "w12"},  # goes the wrong way
        "late": {"trait": TRAIT, "expect": "rise", "where": "response", "at": "when it comes to the point"},
        "elsewhere": {"trait": "mood/calm", "expect": "rise", "where": "prompt", "at": "w12"},
        "lost": {"trait": TRAIT, "expect": "rise", "where": "prompt", "at": "no such words"},
    }
    paths = captured(courses, about)
    call(monitor_dynamics, "--experiment", "e", "--prompt-set", "set", "--window", "1")
    found = read_json(paths.dynamics(TRAIT))["vectors"][0]
    points = found["known_points"]
    assert {t["id"]: (t["token"], t["change"]) for t in points["turns"]} == {
        "up": (12, 7.0),
        "down": (20, -7.0),
        "back": (12, 7.0),
        "late": (45, 7.0),
    }
    assert (points["n"], points["as_expected"]) == (4, 3)
    assert points["p"] == pytest.approx(5 / 16)  # three or four heads of four
    rows = {row["id"]: row for row in found["prompts"]}
    assert rows["late"]["commitment"] == 15  # within the response, which begins at token 30
    assert rows["up"]["mean"] == 4.0
    assert np.flatnonzero(found["per_token"]["late"]["velocity"]).tolist() == [14]
    assert found["per_token"]["late"]["acceleration"][13:15] == [7.0, -7.0]
    assert found["overall"]["committed"] == {"pos": 5, "neg": 1}
    assert "3 of 4 as expected" in capsys.readouterr().out
    call(monitor_dynamics, "--experiment", "e", "--prompt-set", "set", "--window", "1", "--over", "prompt")
    rows = {row["id"]: row for row in read_json(paths.dynamics(TRAIT))["vectors"][0]["prompts"]}
    assert rows["up"]["commitment"] == 11  # of the prompt's tokens without the first, the sink
    with pytest.raises(UserError, match="no projections of mood/none"):
        call(monitor_dynamics, "--experiment", "e", "--prompt-set", "set", "--traits", "mood/none")


def test_a_planted_difference_between_groups_has_its_size(captured):
    rng = np.random.default_rng(0)
    means = {f"p{i}": (0.0 if i % 2 else 1.5) + rng.normal() for i in range(120)}
    about = {name: {"kind": "odd" if i % 2 else "even", "three": str(i % 3)} for i, name in enumerate(means)}
    paths = captured({name: np.full(10, mean) for name, mean in means.items()}, about)
    call(compare_groups, "--experiment", "e", "--prompt-set", "set", "--by", "kind")
    (cell,) = read_json(paths.groups("kind"))["vectors"]
    assert cell["d_interval"][0] < 1.5 < cell["d_interval"][1]  # even over odd, alphabetically
    assert cell["d"] > 1.0
    assert cell["p"] <= 0.001
    assert paths.groups("kind").with_suffix(".png").stat().st_size > 1000
    call(
        compare_groups,
        "--experiment",
        "e",
        "--prompt-set",
        "set",
        "--by",
        "kind",
        "--groups",
        "odd,even",
        "--scale",
        "centered",
    )
    (other,) = read_json(paths.groups("kind"))["vectors"]
    assert other["d"] == pytest.approx(-cell["d"])
    assert other["means"][0] == pytest.approx(cell["means"][1] - 1.0)
    for flags, message in (
        (("--by", "three"), r"--by three gives 0 \(40\), 1 \(40\), 2 \(40\); name two"),
        (("--by", "kind", "--groups", "odd,none"), "fewer than two prompts are none"),
        (("--by", "colour"), "no prompt has a field 'colour'; name one of kind, three"),
    ):
        with pytest.raises(UserError, match=message):
            call(compare_groups, "--experiment", "e", "--prompt-set", "set", *flags)


def test_groups_by_what_a_judge_says_of_the_responses(captured, tmp_path):
    from conftest import copy_trait

    copy_trait(tmp_path, "behavioral/formality", 14)
    texts = {
        "high": "Dear Sir or Madam, I should be most grateful for your kind attention to this matter.",
        "low": "hey dude lol gonna grab pizza wanna come",
    }
    paths = captured({f"{side}{i}": np.full(10, float(i)) for side in texts for i in range(3)}, {})
    for side, text in texts.items():
        for i in range(3):
            write_json(
                paths.response(f"{side}{i}"), read_json(paths.response(f"{side}{i}")) | {"response": text}
            )
    call(
        compare_groups,
        "--experiment",
        "e",
        "--prompt-set",
        "set",
        "--by",
        "behavioral/formality",
        "--judge",
        "embedded",
    )
    found = read_json(paths.groups("behavioral/formality"))
    assert found["groups"] == {side: [f"{side}{i}" for i in range(3)] for side in texts}
    assert "embedded" in found["how"]


def test_where_nothing_is_nothing_is_found_more_often_than_it_should():
    rng = np.random.default_rng(1)
    ps = [permutation_p_of_groups(*rng.normal(size=(2, 15)), draws=500) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.1
    found = compare_all(
        {str(i): {str(j): rng.normal() for j in range(20)} for i in range(10)},
        [set(map(str, range(10))), set(map(str, range(10, 20)))],
    )
    assert all(row["q"] >= row["p"] for row in found.values())
    assert compare(np.array([1.0]), np.array([1.0, 2.0])) is None


def test_two_models_are_compared_token_by_token(captured):
    rng = np.random.default_rng(2)
    courses = {f"p{i}": rng.normal(size=40) for i in range(12)}
    paths = captured(courses, {})
    bump = np.where((np.arange(40) >= 25) & (np.arange(40) < 31), 5.0, 0.0)
    captured(
        {name: course + 0.5 + (bump if name == "p4" else 0) for name, course in courses.items()},
        {},
        experiment="other",
    )
    call(
        compare_models,
        "--experiment",
        "e",
        "--other",
        "other",
        "--prompt-set",
        "set",
        "--window",
        "6",
        "--top",
        "3",
    )
    (found,) = read_json(paths.comparison("other"))["vectors"]
    assert found["top"][0]["id"] == "p4"
    assert (found["top"][0]["start"], found["top"][0]["mean"]) == (25, pytest.approx(5.5))
    assert found["top"][0]["text"].split() == [f"w{i}" for i in range(25, 31)]
    assert found["by_token"]["p0"] == pytest.approx([0.5] * 20, abs=1e-5)  # files keep six digits
    assert found["difference"]["low"] > 0.3
    assert found["p"] < 0.01
    captured(courses, {}, experiment="same")
    call(compare_models, "--experiment", "e", "--other", "same", "--prompt-set", "set")
    (none,) = read_json(paths.comparison("same"))["vectors"]
    assert none["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert none["p"] == 1.0
    captured({name: np.append(course, 1.0) for name, course in courses.items()}, {}, experiment="longer")
    with pytest.raises(UserError, match="0 prompts of set have the same tokens"):
        call(compare_models, "--experiment", "e", "--other", "longer", "--prompt-set", "set")


def test_stretches_do_not_overlap_and_short_texts_count():
    spans = top_spans(
        {"a": np.array([9.0, 9.0, 9.0, 0.0, 0.0, -8.0, -8.0]), "b": np.array([7.0])}, window=2, top=10
    )
    assert spans[:3] == [("a", 0, 9.0), ("a", 5, -8.0), ("b", 0, 7.0)]
    places = [start for prompt, start, _ in spans if prompt == "a"]
    assert all(abs(x - y) >= 2 for i, x in enumerate(places) for y in places[:i])


def test_different_fits_of_a_vector_are_not_mixed(captured):
    paths = captured(
        {f"p{i}": np.ones(10) for i in range(4)}, {f"p{i}": {"kind": "ab"[i % 2]} for i in range(4)}
    )
    content = read_json(paths.projections("p2"))
    content["vectors"][0]["sha256"] = "another"
    write_json(paths.projections("p2"), content)
    for script, flags in ((monitor_dynamics, ()), (compare_groups, ("--by", "kind"))):
        with pytest.raises(UserError, match="different fits"):
            call(script, "--experiment", "e", "--prompt-set", "set", *flags)


def test_unknown_sets_say_what_to_run(captured, tmp_path):
    captured({}, {})
    for script, flags in (
        (monitor_dynamics, ()),
        (compare_groups, ("--by", "kind")),
        (compare_models, ("--other", "o")),
    ):
        with pytest.raises(UserError, match=r"run inference/|no prompt has a field|0 prompts"):
            call(script, "--experiment", "e", "--prompt-set", "set", *flags)
        with pytest.raises(UserError, match=r"has no responses, or .*; run inference/capture"):
            call(script, "--experiment", "e", "--prompt-set", "none", *flags)
    assert not TraitPaths("e", TRAIT, tmp_path).dir.exists()
