"""Scores of texts that are stored: each kind by itself, at any time, and never the same text twice by the same judge."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Answer, Coherence, Judge, JudgeOptions, Score, explain_gaps, load_judge
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.model.loading import LM
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.rollouts import PLAIN, Rollouts, write_rollouts
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.stage.flags import option_flags, remembered

PART = 512  # texts that are scored between two writes of the table
KINDS = {"judge": "trait", "coherence": "coherence", "classifier": "classifier"}  # as typed → as stored


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise UserError for what cannot be scored."""
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise UserError(f"--score {unknown[0]!r}: choose among {', '.join(KINDS)}")


Texts = list[dict[str, Any]]  # rows of some columns
Ask = Callable[[Texts], list[Score]]
COLUMNS = ["question", "response", "prompt_ids", "response_ids"]  # what a scorer sees of a row


@dataclass(frozen=True)
class Scorer:
    """Somebody who scores."""

    name: str  # as it is stored
    by: str  # the digest of who it is
    load: Callable[[], tuple[Ask, dict[str, Any]]]  # called only where there is something to score


@dataclass(frozen=True)
class Scoring:
    """What scoring a trait needs."""

    paths: TraitPaths
    dataset: TraitDataset
    judging: JudgeOptions
    thresholds: Thresholds
    load: Callable[[], LM]

    def scorer(self, kind: str, found: Rollouts) -> Scorer:
        """Return who scores a kind, not loaded yet.

        Raises:
            UserError: coherence has nothing to be calibrated on.
        """
        made = {"judge": self._judge, "coherence": self._coherence, "classifier": self._classifier}
        return made[kind](found)

    @property
    def _judged_by(self) -> str:
        """What is remembered of the judge, without asking or loading it."""
        return key_of(remembered(option_flags(JudgeOptions), asdict(self.judging)), str(self.dataset.rubric))

    @cached_property
    def _judge_itself(self) -> Judge:
        return load_judge(self.judging, self.dataset.rubric, self.paths.spending)

    @property
    def used(self) -> dict[str, Any]:
        """What the judge used, where it was asked and keeps count."""
        was_asked = "_judge_itself" in vars(self)
        return usage.as_line() if was_asked and (usage := self._judge_itself.usage) else {}

    def _judge(self, found: Rollouts) -> Scorer:
        def load() -> tuple[Ask, dict[str, Any]]:
            judge = self._judge_itself

            def ask(texts: Texts) -> list[Score]:
                return judge.score_responses([Answer(row["question"], row["response"]) for row in texts])

            return ask, judge.identity

        return Scorer("trait", self._judged_by, load)

    def _coherence(self, found: Rollouts) -> Scorer:
        own = plain_texts(found)
        models = set(found.column("model"))

        def load() -> tuple[Ask, dict[str, Any]]:
            coherence = self._load_coherence(own, models)
            return lambda texts: coherence.score([_token_text(row) for row in texts]), coherence.identity

        return Scorer("coherence", key_of("coherence", self._judged_by, [t.ids for t in own]), load)

    def _load_coherence(self, own: Sequence[TokenText], models: set[str]) -> Coherence:
        judge = self._judge_itself
        if (
            judge.identity["judge"] != "embedded"
        ):  # it reads texts, and needs neither the model nor its own texts
            return judge.coherence(None, [])  # type: ignore[arg-type]
        if not own:
            raise UserError(
                f"{self.paths.trait}: coherence is calibrated on plain texts; roll out --arms plain too"
            )

        lm = self.load()
        if models != {lm.identity["identity"]}:
            raise UserError(
                f"{self.paths.trait}: the texts are of {', '.join(sorted(models))}, and coherence is read with the model "
                f"that wrote them; pass the same --model"
            )
        return judge.coherence(lm, own)

    def _classifier(self, found: Rollouts) -> Scorer:
        from traitscope.inference.rolling.classifier import (  # takes seconds to import
            Classifier,
            own_examples,
        )

        examples = own_examples(self.paths, self.thresholds, found.column("question"))

        def load() -> tuple[Ask, dict[str, Any]]:
            classifier = Classifier(self.paths.trait, examples)
            return lambda texts: classifier.score([row["response"] for row in texts]), classifier.identity

        return Scorer("classifier", key_of("classifier", [asdict(e) for e in examples]), load)


def plain_texts(found: Rollouts) -> list[TokenText]:
    """Return what the model wrote when it was left alone, one text a question: further rollouts change nothing."""
    is_plain = [
        arm == PLAIN and rollout == 0
        for arm, rollout in zip(found.column("arm"), found.column("rollout"), strict=True)
    ]
    return [_token_text(row) for row in found.take(is_plain).rows.select(COLUMNS).to_pylist()]


def _token_text(row: dict[str, Any]) -> TokenText:
    return TokenText(row["prompt_ids"], row["response_ids"], row["question"], row["response"])


def score_missing(paths: TraitPaths, found: Rollouts, scorer: Scorer) -> tuple[Rollouts, list[Score]]:
    """Score every text that this scorer has not scored, or only tried to, and return all rows and the new scores.
    After every part the table is written.
    """
    states, judges = found.column(f"{scorer.name}_state"), found.column(f"{scorer.name}_by")
    todo = [
        i
        for i, (state, by) in enumerate(zip(states, judges, strict=True))
        if by != scorer.by or state in (None, "error")
    ]
    if not todo:
        return found, []

    ask, identity = scorer.load()
    given: list[Score] = []
    for first in range(0, len(todo), PART):
        part = todo[first : first + PART]
        scores = ask(found.rows.select(COLUMNS).take(part).to_pylist())
        given += scores
        found = found.scored(scorer.name, scorer.by, dict(zip(part, scores, strict=True)), identity)
        write_rollouts(paths, found)
    return found, given


def score_all(scoring: Scoring, found: Rollouts, kinds: Sequence[str]) -> tuple[Rollouts, list[str]]:
    """Score every kind that is asked for, and return all rows, and what went wrong: one kind that fails leaves the
    others going.
    """
    problems = []
    for kind in dict.fromkeys(kinds):
        try:
            found, given = score_missing(scoring.paths, found, scoring.scorer(kind, found))
            problems += [
                f"{kind}: {gaps}" if (gaps := explain_gaps(given, scoring.judging.max_unjudged)) else ""
            ]
        except UserError as error:
            problems.append(f"{kind}: {error}")
    return found, [problem for problem in problems if problem]
