"""What stands beside a verdict: a second judge, the same questions in other words, and earlier looks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from test_verdict import CELL, N, arm, told, trial

from benchmarks.simulated import Bench, World
from traitscope.analysis.draw_steering import draw_nulls as draw_nulls_figure
from traitscope.analysis.steering.beside import Beside, measure_beside
from traitscope.analysis.steering.evaluate import Found
from traitscope.analysis.steering.evidence import Evidence, known_coherence
from traitscope.analysis.steering.history import History
from traitscope.analysis.steering.nulls import draw_nulls
from traitscope.analysis.steering.paraphrases import FORMS, paraphrase, try_paraphrases
from traitscope.analysis.steering.search import Cell
from traitscope.analysis.steering.setting import Setting, surroundings
from traitscope.analysis.steering.treatments import Intervention
from traitscope.analysis.steering.witness import ask_second
from traitscope.extraction.report.words import fall_of
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Score
from traitscope.utils.model.loading import ModelOptions
from traitscope.utils.records.verdict import EarlierLooks, read_earlier_looks


class OtherJudge:
    """A judge that repeats the first one's score of a text, bent by a law of its own."""

    identity = {"judge": "other", "mode": "test"}  # noqa: RUF012
    usage = None

    def __init__(self, evidence: Evidence, law) -> None:
        self.known = {
            (a.arm.name, text): score.value
            for a in evidence.arms()
            for text, score in zip(a.responses, a.trait, strict=True)
        }
        self.queue = [score.value for a in evidence.arms() for score in a.trait]
        self.law = law

    def score_responses(self, answers):
        assert len(answers) == len(self.queue)
        return [self.law(value) for value in self.queue]


def named(evidence: Evidence) -> Evidence:
    """The same evidence with the names that stage 5 gives its arms."""
    n = len(evidence.randoms)
    names = ["unsteered", "vector plus", "vector minus"]
    names += [f"random {i} {sign}" for i in range(n) for sign in ("plus", "minus")]
    names += ["shuffled labels 0 plus", "shuffled labels 0 minus", "system prompt"]
    of = dict(zip(map(id, evidence.arms()), names, strict=True))
    return evidence.each(lambda a: replace(a, arm=replace(a.arm, name=of[id(a)])))


def second(evidence: Evidence, law, reliability: float | None = 0.9) -> dict:
    evidence = named(evidence)
    return ask_second(CELL, evidence, OtherJudge(evidence, law), told(reliability), (70, 5.0), 0.05)


def test_a_second_judge_that_sees_the_same_agrees_in_every_kind_of_arm():
    found = second(trial(effect=30.0), lambda value: Score(value))
    assert found["agrees"]
    assert found["verdict"] == "works"
    assert set(found["agreement"]) == {
        "unsteered",
        "vector plus",
        "vector minus",
        "random",
        "shuffled labels",
        "system prompt",
    }
    assert all(
        a["rank_correlation"]["value"] == a["kappa"]["value"] == 1 for a in found["agreement"].values()
    )
    assert found["agreement"]["random"]["n"] == 40 * N


def test_a_second_judge_that_sees_nothing_disagrees_and_is_no_friend_of_the_first():
    rng = np.random.default_rng(0)
    found = second(trial(effect=30.0), lambda value: Score(float(rng.uniform(0, 100))))
    assert not found["agrees"]
    assert found["verdict"] == "not proven"
    for figure in ("rank_correlation", "kappa"):
        assert abs(found["agreement"]["random"][figure]["value"]) < 0.15
        assert found["agreement"]["random"][figure]["low"] < 0 < found["agreement"]["random"][figure]["high"]


def test_a_second_judge_near_chance_proves_nothing_either():
    found = second(trial(effect=30.0), lambda value: Score(value), reliability=0.5)
    assert found["verdict"] == "not proven"
    assert "near chance" in found["why"]


def test_a_second_judge_that_leaves_too_much_unscored_is_an_error():
    with pytest.raises(UserError):
        second(trial(), lambda value: Score(None, "refused"))


def test_the_same_test_twice_is_one_look_and_another_is_a_second_on_whatever_questions():
    asked, cell = ["a?", "b?"], {"method": "probe", "layer": 3, "dose": 0.2}
    other = cell | {"layer": 5}
    first = History(test=asked)
    assert first.count(cell) == 1
    again = History(first.after(cell), asked)
    assert again.count(cell) == 1
    assert again.count(cell | {"coefficient": 3.0000001}) == 1
    assert again.count(other) == 2
    assert (
        History(again.after(other), asked).count(cell) == 2
    )  # back at the first: what was seen is not forgotten
    assert History(first.after(cell), asked, {"null_seed": 1}).count(cell) == 2
    assert History(first.after(cell), asked, vectors={("probe", 3): "refitted"}).count(cell) == 2
    assert History(first.after(cell), asked, vectors={("probe", 9): "of another place"}).count(cell) == 1


def test_fresh_questions_confirm_the_same_cell_and_hide_no_other():
    cell = {"method": "probe", "layer": 3, "dose": 0.2}
    before = History(test=["a?"]).after(cell)
    fresh = History(before, ["b?"])
    assert fresh.count(cell) == 1
    assert fresh.after(cell)[-1].questions == ["a?", "b?"]
    assert fresh.count(cell | {"layer": 5}) == 2


def test_results_of_older_versions_are_one_look():
    earlier = EarlierLooks(trait="a/b", questions={"test": ["a?", "b?"], "dev": ["c?"]})
    assert earlier.seen == ["a?", "b?"]
    assert History(earlier.looks, ["b?"]).count({}) == 2


def chosen_cell(bench: Bench) -> Cell:
    candidates, how = bench.candidates(), Intervention()
    setting = Setting(
        bench, candidates, surroundings(bench, candidates, how), how, bench.open(bench.questions[:8])
    )
    (method, layer), vector = next(iter(candidates.vectors.items()))
    place = setting.build(method, {layer: vector})
    assert len(draw_nulls(setting, [place], 3, 0)) == 3
    return Cell(place, 0.2)


class Paraphrased(Bench):
    """A bench that knows its questions in other words."""

    def measure(self, arms, questions):
        for form in FORMS:
            self.base |= {paraphrase(form, q): self.base[q] for q in self.questions}
        return super().measure(arms, questions)


def test_paraphrases_find_the_same_effect_and_cluster_by_question():
    bench = Paraphrased(World("", gain=20.0, share=0.2, true_vector=True, noise=6.0), 0)
    found = try_paraphrases(bench, chosen_cell(bench), bench.questions[:16])
    assert found["odd_part"]["mean"] == pytest.approx(20, abs=3)
    assert found["odd_part"]["n"] == 3 * 16
    assert [form["form"] for form in found["forms"]] == list(FORMS)
    assert all(form["odd_part"]["n"] == 16 for form in found["forms"])
    assert len({paraphrase(form, "Why?") for form in FORMS}) == 3
    assert all("Why?" in paraphrase(form, " Why? ") for form in FORMS)


def test_a_question_that_reacts_alone_does_not_count_three_times():
    """Three wordings of a question are no three witnesses."""
    bench = Paraphrased(World("", noise=0.1, spread=0.0), 0)
    one = bench.questions[0]
    answer = bench._answer

    def reacting(asked, questions):
        result = answer(asked, questions)
        if asked.pushes and asked.pushes[0].coefficient > 0:
            return replace(
                result,
                trait=[
                    Score(min(s.value + 25 * (one in q), 100))
                    for s, q in zip(result.trait, questions, strict=True)
                ],
            )
        return result

    bench._answer = reacting
    found = try_paraphrases(bench, chosen_cell(bench), bench.questions[:9])["odd_part"]
    assert found["low"] < 0 < found["mean"]


@pytest.mark.parametrize(
    ("verdict", "wanted", "tried"),
    [("works", True, True), ("works", False, False), ("not proven", True, False)],
)
def test_only_a_vector_that_works_is_tried_on_paraphrases(verdict, wanted, tried):
    bench = Paraphrased(World("", gain=20.0, share=0.2, true_vector=True), 0)
    bench.max_unjudged = 1.0
    results = {"verdict": verdict, "questions": {"test": bench.questions[:8]}}
    found = Found(results, {}, chosen_cell(bench), trial())
    measured = measure_beside(Beside(paraphrases=wanted), bench, found, None, ModelOptions())
    assert ("paraphrases" in measured) == tried


def test_damaged_results_count_as_one_look(tmp_path, capsys):
    paths = TraitPaths("e", "a/b", tmp_path)
    assert read_earlier_looks(paths).looks == []
    paths.steering_results.parent.mkdir(parents=True)
    paths.steering_results.write_text('{"trait": "a/b", "looked')
    earlier = read_earlier_looks(paths)
    assert "count as one" in capsys.readouterr().out
    assert History(earlier.looks, ["a?"]).count({}) == 2


def test_what_is_not_known_is_a_dash_and_no_number():
    ungraded = arm([50.0] * N)
    ungraded.coherence = [Score(None, "error")] * N
    assert known_coherence(ungraded) is None
    assert known_coherence(arm([50.0] * N, coherence=88.0)) == 88.0
    assert fall_of(None, 88.0) == "– → 88"
    still = SimpleNamespace(odd_parts=[0.0] * 24, z=None)
    figure = draw_nulls_figure(
        SimpleNamespace(trait="a/b", random=still, odd_part=None, shuffled_labels_odd_part=None)
    )
    assert figure.axes[0].get_title() == "a/b"


def test_arms_are_each_changed_once():
    evidence = trial()
    assert len(evidence.arms()) == 1 + 2 + 2 * len(evidence.randoms) + 2 * len(evidence.shuffled) + 1
    raised = evidence.each(lambda a: replace(a, trait=[Score(50.0)] * N))
    assert all((a.trait_values == 50).all() for a in raised.arms())
    assert arm([1.0]).trait_values.tolist() == [1.0]
