"""A language model as judge, wherever it runs: what it is asked, and the coherence it grades."""

from collections.abc import Sequence
from typing import Protocol

from traitscope.utils.judge import Answer, Rubric, Score
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.judge.ledger import Ledger
from traitscope.utils.judge.prompts import (
    Question,
    ask_coherence,
    ask_scenario,
    ask_trait,
    asks_json,
    prompt_id,
    prompt_ids,
)
from traitscope.utils.judge.wording import distinct_share, units_of
from traitscope.utils.model.loading import LM

LOOPING = 0.45  # share of distinct word pairs below which a text repeats itself
LOOP_CAP = 30.0  # coherence of such a text at most, whatever a judge says: small judges do not see loops


class Grader(Protocol):
    """Something that answers questions with scores."""

    ledger: Ledger

    @property
    def identity(self) -> dict: ...

    def mode_of(self, *, wants_text: bool) -> str: ...

    def grade(self, questions: Sequence[Question], label: str = "judge") -> list[Score]: ...


class LanguageJudge:
    """A judge of one trait that asks a language model. A text that is empty is not asked about: there is
    nothing to judge.
    """

    def __init__(self, grader: Grader, rubric: Rubric) -> None:
        self.grader, self.rubric = grader, rubric
        prompts = prompt_ids()
        self.mode = grader.mode_of(
            wants_text=rubric.eval_prompt is not None and asks_json(rubric.eval_prompt)
        )
        if rubric.eval_prompt is not None:
            prompts["trait"] = prompt_id("eval_prompt", rubric.eval_prompt)
        self.identity = grader.identity | {"mode": self.mode, "prompts": prompts}

    @property
    def usage(self) -> Ledger:
        return self.grader.ledger

    def score_examples(self) -> list[Score]:
        """Score what each contrasting text of the dataset will lead to."""
        return self.grader.grade(
            [ask_scenario(self.rubric, e) for e in self.rubric.examples],
            f"judge scenarios {self.rubric.trait}",
        )

    def score_responses(self, answers: Sequence[Answer]) -> list[Score]:
        """Score responses for the trait, each with the prompt it answers."""
        return self._grade_readable(
            answers, [ask_trait(self.rubric, a) for a in answers], f"judge {self.rubric.trait}"
        )

    def coherence(self, lm: LM, own: Sequence[TokenText]) -> "AskedCoherence":
        """Return the same model as a judge of coherence; it needs no calibration on the steered model's
        own texts.
        """
        return AskedCoherence(self)

    def score_coherence(self, answers: Sequence[Answer]) -> list[Score]:
        """Score how well responses hold together; a text that repeats itself gets 30 at most."""
        scores = self._grade_readable(
            answers, [ask_coherence(a) for a in answers], f"judge coherence {self.rubric.trait}"
        )
        return [_cap_loop(score, answer.response) for score, answer in zip(scores, answers, strict=True)]

    def _grade_readable(
        self, answers: Sequence[Answer], questions: Sequence[Question], label: str
    ) -> list[Score]:
        readable = [i for i, answer in enumerate(answers) if answer.response.strip()]
        graded = dict(zip(readable, self.grader.grade([questions[i] for i in readable], label), strict=True))
        return [graded.get(i) or empty_text(self.mode) for i in range(len(answers))]


class AskedCoherence:
    """Coherence by asking, in the form in which stage 5 uses it."""

    def __init__(self, judge: LanguageJudge) -> None:
        self.judge, self.identity = judge, judge.identity

    def score(self, texts: Sequence[TokenText]) -> list[Score]:
        """Score texts, in order; an empty one holds nothing together and scores 0."""
        scores = self.judge.score_coherence([Answer(t.question, t.response) for t in texts])
        return [Score(0.0, "scored", s.mode, detail="empty") if s.is_empty else s for s in scores]


def empty_text(mode: str) -> Score:
    """Return the score of a text that has no characters to judge."""
    return Score(None, "unparsable", mode, detail="empty")


def _cap_loop(score: Score, text: str) -> Score:
    if score.value is None or score.value <= LOOP_CAP or distinct_share(units_of(text.lower()), 2) >= LOOPING:
        return score
    return Score(
        LOOP_CAP, "scored", score.mode, score.prompt, f"it repeats itself; the judge said {score.value:.0f}"
    )
