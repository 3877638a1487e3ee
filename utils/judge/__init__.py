"""Judges: one interface, one score type, one registry.

A judge is made for one rubric (what the trait is, and contrasting text that shows it) and answers two questions: how strongly does
each contrasting example show its trait (`score_examples`), and how strongly does each response (`score_responses`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from utils.errors import UserError

STATES = ("scored", "refused", "unparsable", "low_mass", "error")


@dataclass(frozen=True)
class Score:
    """What a judge said of one text. Where it could not say, `value` is None and `state` says why; None is never 0."""

    value: float | None  # 0–100
    state: str = "scored"
    mode: str = ""  # how it was measured; scores of different modes are never compared

    def __post_init__(self) -> None:
        assert self.state in STATES
        assert (self.value is not None) == (self.state == "scored")
        assert self.value is None or 0 <= self.value <= 100

    def as_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Example:
    """One contrasting text of a trait's dataset."""

    side: str  # "pos" or "neg"
    group: int  # examples of one group share a topic, and are never split between fitting and testing
    text: str


@dataclass(frozen=True)
class Rubric:
    """What a judge knows of a trait."""

    trait: str
    definition: str
    examples: tuple[Example, ...]
    eval_prompt: str | None = None


@dataclass(frozen=True)
class Answer:
    """A response to be judged, with the prompt it answers."""

    prompt: str
    response: str
    group: int | None = None  # the group of the rubric's examples that the prompt belongs to; None for a prompt of its own


class Judge(Protocol):
    """What stages 0, 2 and 5 ask of a judge."""

    identity: dict  # what an artifact says about the judge that made its scores

    def score_examples(self) -> list[Score]:
        """Score every example of the rubric, in order: 100 is unmistakably the trait, whatever the example's side."""

    def score_responses(self, answers: Sequence[Answer]) -> list[Score]:
        """Score responses, in order."""


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Args:
        judge: embedded (sentence embeddings and a logistic regression fitted on the trait's own contrasting text; no key, no network).
    """

    judge: str = "embedded"


def load_judge(options: JudgeOptions, rubric: Rubric) -> Judge:
    """Return the judge that `options` names, ready for this rubric.

    Raises:
        UserError: no such judge, or it cannot be fitted on this rubric.
    """
    from utils.judge.embedded import EmbeddedJudge  # sentence-transformers takes four seconds to import

    judges: dict[str, Callable[[Rubric], Judge]] = {"embedded": EmbeddedJudge}
    if options.judge not in judges:
        raise UserError(f"unknown judge {options.judge!r}; choose {', '.join(judges)}")
    return judges[options.judge](rubric)


def count_states(scores: Sequence[Score]) -> dict[str, int]:
    """Count the scores in each state that occurs."""
    return {state: n for state in STATES if (n := sum(s.state == state for s in scores))}
