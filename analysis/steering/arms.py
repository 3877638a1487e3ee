"""Arms: everything that is done to the same questions, run together in a few large generate calls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Answer, Coherence, Judge, Score, count_states, explain_gaps
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, Work, generate
from traitscope.utils.model.hooks import Push
from traitscope.utils.model.loading import LM

NINE_OF_TEN = 1.28  # standard errors below which a normal value falls in one of ten cases


@dataclass(frozen=True)
class Arm:
    """One treatment of the questions."""

    name: str
    pushes: tuple[Push, ...] = ()
    system_prompt: str = ""
    grades_coherence: bool = (
        True  # the null directions' coherence is not asked for: it costs as much as their text
    )


@dataclass
class ArmResult:
    """An arm's texts and scores, in the order of the questions."""

    arm: Arm
    questions: list[str]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    responses: list[str]
    trait: list[Score] = field(default_factory=list)
    coherence: list[Score] = field(default_factory=list)

    @property
    def trait_values(self) -> np.ndarray:
        """Trait scores [n_questions]; NaN where the judge could not say."""
        return np.array([np.nan if s.value is None else s.value for s in self.trait])

    @property
    def mean_coherence(self) -> float:
        """Mean coherence over the texts that were graded; NaN where none was."""
        values = [s.value for s in self.coherence if s.value is not None]
        return float(np.mean(values)) if values else math.nan

    @property
    def sure_coherence(self) -> float:
        """What the mean coherence of as many other questions reaches in nine of ten cases: their mean has an error
        like that of this one.
        """
        values = [s.value for s in self.coherence if s.value is not None]
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return self.mean_coherence - NINE_OF_TEN * math.sqrt(2) * error

    @property
    def states(self) -> dict:
        """How many texts are in which state, for the trait and for coherence."""
        return {"trait": count_states(self.trait), "coherence": count_states(self.coherence)}

    @property
    def texts(self) -> list[TokenText]:
        rows = zip(self.prompt_ids, self.response_ids, self.questions, self.responses, strict=True)
        return [TokenText(*row) for row in rows]


def generate_arms(
    lm: LM, arms: Sequence[Arm], questions: Sequence[str], sampling: Sampling, *, positions: str, work: Work
) -> list[ArmResult]:
    """Generate every arm's answer to every question. A question has the same seed in every arm."""
    rows = []
    for arm in arms:
        system = [{"role": "system", "content": arm.system_prompt}] if arm.system_prompt else []
        prompts = [encode(lm, [*system, {"role": "user", "content": q}]) for q in questions]
        rows += [
            Row(ids, int(key_of(q), 16) % 2**31, arm.pushes)
            for ids, q in zip(prompts, questions, strict=True)
        ]

    completions = generate(lm, rows, sampling, positions, work)
    results = []

    for i, arm in enumerate(arms):
        part = slice(i * len(questions), (i + 1) * len(questions))
        ids = [c.ids for c in completions[part]]
        asked = zip(rows[part], completions[part], strict=True)
        results.append(
            ArmResult(
                arm,
                list(questions),
                [row.prompt_ids + c.thought for row, c in asked],
                ids,
                [lm.tokenizer.decode(x, skip_special_tokens=True) for x in ids],
            )
        )

    return results


def judge_arms(
    results: Sequence[ArmResult],
    questions: Sequence[str],
    judge: Judge,
    coherence: Coherence,
    max_unjudged: float = 1.0,
) -> None:
    """Score all texts of all arms, trait and coherence, in one call each.

    Raises:
        UserError: more than `max_unjudged` of the texts could not be judged; the texts and the scores there
            are stay on disk.
    """
    answers = [Answer(q, text) for r in results for q, text in zip(questions, r.responses, strict=True)]
    graded = [r for r in results if r.arm.grades_coherence]
    scores = judge.score_responses(answers), coherence.score([t for r in graded for t in r.texts])

    for part in scores:
        if gaps := explain_gaps(part, max_unjudged):
            raise UserError(gaps)

    trait, fluency = map(iter, scores)

    for result in results:
        result.trait = [next(trait) for _ in questions]
        result.coherence = [next(fluency) for _ in questions] if result.arm.grades_coherence else []


def arm_rows(results: Sequence[ArmResult], questions: Sequence[str]) -> list[dict]:
    """Return one JSON row per generated text: what was asked, what was written, what was scored."""
    rows = []
    for r in results:
        steering = [
            {"layer": p.layer, "coefficient": p.coefficient, "operation": p.operation} for p in r.arm.pushes
        ]
        for i, question in enumerate(questions):
            row = {
                "arm": r.arm.name,
                "steering": steering,
                "system_prompt": r.arm.system_prompt,
                "question": question,
                "response": r.responses[i],
            }
            scores = {
                "trait": r.trait[i].as_json(),
                "coherence": r.coherence[i].as_json() if r.coherence else None,
            }
            rows.append(row | scores | {"prompt_ids": r.prompt_ids[i], "response_ids": r.response_ids[i]})

    return rows
