"""How far a judge can be relied on: planted accuracies, for both kinds of judge."""

import numpy as np
import pytest
from test_judge import RUBRIC

from traitscope.extraction.trait_table import usable
from traitscope.utils.judge import Example, JudgeOptions, Rubric, Score, load_judge
from traitscope.utils.judge.language import LanguageJudge
from traitscope.utils.judge.ledger import Ledger
from traitscope.utils.judge.reliability import LEAST, judge_reliability, reliability_of, wilson_interval

EXAMPLES = RUBRIC.examples


class Planted:
    """A language model that says what it is told to say, question by question."""

    def __init__(self, values: list[float | None]) -> None:
        self.values, self.asked = values, 0
        self.ledger, self.identity = Ledger(), {"judge": "planted"}

    def mode_of(self, *, wants_text: bool) -> str:
        return "planted"

    def grade(self, questions, label="judge") -> list[Score]:
        self.asked += len(questions)
        return [Score(v) if v is not None else Score(None, "refused") for v in self.values]


def planted(right: int, unscored: int = 0) -> LanguageJudge:
    """Return a judge that puts so many examples on their own side, leaves so many out, and swaps the rest."""
    own = [90.0 if e.side == "pos" else 10.0 for e in EXAMPLES]
    swapped = [100 - v for v in own[right + unscored :]]
    return LanguageJudge(Planted([*own[:right], *[None] * unscored, *swapped]), RUBRIC)


@pytest.mark.parametrize(
    ("right", "unscored", "value"), [(16, 0, 1), (0, 0, 0), (8, 0, 0.5), (12, 0, 0.75), (12, 4, 0.875)]
)
def test_it_is_the_share_of_right_sides_and_what_has_no_score_counts_half(right, unscored, value):
    judge = planted(right, unscored)
    found = judge_reliability(judge, RUBRIC)
    assert (found.value, found.kind, found.n) == (value, "asked", 16)
    assert found.low <= value <= found.high
    assert judge.grader.asked == 16  # each example once


def test_a_judge_that_never_answers_or_always_says_50_is_at_chance():
    for scores in ([Score(None, "error")] * 16, [Score(50.0)] * 16):
        assert reliability_of(EXAMPLES, scores, "asked").value == 0.5


def test_for_the_embedded_judge_it_is_the_cross_validated_accuracy():
    judge = load_judge(JudgeOptions("embedded"), RUBRIC)
    found = judge_reliability(judge, RUBRIC)
    assert found.kind == "cross-validated"
    assert found.value == pytest.approx(judge.identity["cross_validated_accuracy"], abs=1e-4)
    assert found.as_json()["value"] == judge.identity["cross_validated_accuracy"]


def test_a_rubric_without_examples_has_none():
    rubric = Rubric("x/y", "", ())
    assert judge_reliability(LanguageJudge(Planted([]), rubric), rubric) is None


def test_the_interval_holds_the_truth_as_often_as_it_says_and_narrows():
    rng = np.random.default_rng(0)
    for n, p in ((20, 0.65), (144, 0.9)):
        intervals = [wilson_interval(k / n, n) for k in rng.binomial(n, p, 2000)]
        assert 0.93 < np.mean([low <= p <= high for low, high in intervals]) < 0.975
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1)
    assert wilson_interval(1.0, 10)[0] == pytest.approx(10 / (10 + 1.959964**2))  # its closed form at p = 1
    widths = [np.ptp(wilson_interval(0.7, n)) for n in (10, 100, 1000)]
    assert widths == sorted(widths, reverse=True)


def test_the_table_and_the_judge_call_near_chance_by_the_same_number():
    held = {"n_pos": 20, "n_neg": 20, "auroc_low": 0.9}
    assert usable(held, LEAST) == "yes"
    assert usable(held, LEAST - 0.001) == "no: the judge is near chance"
    one = (Example("pos", 0, "a"),)
    assert reliability_of(one, [Score(49.0)], "asked").value < LEAST
