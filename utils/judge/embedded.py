"""The embedded judge: logistic regressions, fitted on the trait's own contrasting text, on what two small
models make of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Answer, Rubric, Score
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.judge.learned import LearnedCoherence
from traitscope.utils.judge.neutral import NEUTRAL
from traitscope.utils.judge.reader import READER, SHAPE, read_texts
from traitscope.utils.judge.reliability import LEAST
from traitscope.utils.judge.sentences import ENCODER, embed
from traitscope.utils.model.loading import LM

MODE = "embedded:smollm2-minilm-logistic"
FOLDS = 5
STRENGTH = 3.0 / SHAPE[1]  # inverse of the penalty, for standardised coordinates of a state
# the same for sentence embeddings, times the number of examples: they need few examples and read words, states
# need many and read claims, so the embeddings' say falls as examples grow
TOPIC_STRENGTH = 100.0
# how much the neutral texts weigh, all together, against all examples: where both sides of a trait speak of other
# things than neutral texts do, more weight would put them all on one side of the middle
NEUTRAL_WEIGHT = 0.3
# by tests/test_judged_texts.py, on the texts of tests/data/judged_texts.json that no choice was made on
MEASURED = {
    "auroc": 0.89,
    "auroc_plain": 1.0,
    "auroc_negated": 0.81,
    "auroc_german_french_spanish": 0.88,
    "auroc_two_to_five_words": 0.88,
    "auroc_by_trait": {
        "epistemic/optimism": 0.95,
        "behavioral/formality": 1.0,
        "epistemic/confidence": 0.94,
        "alignment/sycophancy": 0.66,
    },
    "points_from_50_of_neutral_text": 22.3,
    "points_from_50_of_mixed_text": 36.3,
}


Readings = list[np.ndarray]  # of n texts: sentence embeddings [n, 384], and three states [n, 576]


def read(texts: Sequence[str]) -> Readings:
    """Return what the two models make of texts, of which none is blank."""
    whole = [text.encode("utf-8", "replace").decode() for text in texts]  # half a character becomes a "?"
    return [embed(whole), *read_texts(whole).swapaxes(0, 1)]


class _Side:
    """One regression a reading; the logit of the positive side is their mean."""

    def __init__(self, readings: Readings, sides: np.ndarray) -> None:
        topic, *states = readings
        of_topic = LogisticRegression(C=TOPIC_STRENGTH / len(sides), max_iter=2000).fit(topic, sides)
        self._models = [of_topic, *(_fit_state(state, sides) for state in states)]

    def logits(self, readings: Readings) -> np.ndarray:
        return np.mean(
            [model.decision_function(x) for model, x in zip(self._models, readings, strict=True)], axis=0
        )


def _fit_state(state: np.ndarray, sides: np.ndarray) -> Pipeline:
    regression = LogisticRegression(C=STRENGTH, max_iter=2000)
    return make_pipeline(StandardScaler(), regression).fit(state, sides)


@dataclass(frozen=True)
class Calibration:
    """From a logit to a probability: σ(slope · logit + offset)."""

    slope: float
    offset: float

    def score(self, logits: np.ndarray) -> np.ndarray:
        """Return scores from 0 to 100."""
        return 100 * expit(self.slope * logits + self.offset)


def calibrate(logits: np.ndarray, sides: np.ndarray, neutral: np.ndarray) -> Calibration:
    """Return the calibration under which the sides of unseen examples are likeliest (Platt 1999), and neutral
    texts likeliest to belong to either.

    Args:
        logits: Of the examples, each out of fold.
        sides: True for the positive one.
        neutral: Logits of texts that show neither.
    """

    def loss(parameters: np.ndarray) -> float:
        slope, offset = np.exp(parameters[0]), parameters[1]
        own, others = slope * logits + offset, slope * neutral + offset
        surprise = np.logaddexp(0, own) - sides * own
        return surprise.mean() + NEUTRAL_WEIGHT * (np.logaddexp(0, others) - others / 2).mean()

    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-5, 5), (-5, 5)]).x
    return Calibration(float(np.exp(found[0])), float(found[1]))


class EmbeddedJudge:
    """Scores are 100 × the calibrated probability of the positive side.

    The regressions see only the dataset's contrasting text, never a generated one. Examples are scored out of
    fold, each by a model that has not seen its family; so are the cross-validated accuracy in `identity` and
    the warning of a judge near chance.
    """

    def __init__(self, rubric: Rubric) -> None:
        self.examples = rubric.examples
        sides = np.array([e.side == "pos" for e in self.examples])
        families = np.array([e.family for e in self.examples])
        if min(sides.sum(), (~sides).sum()) < 4 or len(set(families)) < 2:
            raise UserError(
                f"{rubric.trait}: the embedded judge needs at least 4 contrasting texts per side in at "
                "least 2 pairs; add some to the dataset"
            )

        readings = read([e.text for e in self.examples])
        self._model = _Side(readings, sides)
        self._blind: dict[int, _Side] = {}  # family → the model that has not seen it
        logits = np.empty(len(sides))

        for train, test in GroupKFold(min(FOLDS, len(set(families)))).split(families, sides, families):
            model = _Side([x[train] for x in readings], sides[train])
            logits[test] = model.logits([x[test] for x in readings])
            self._blind |= dict.fromkeys(families[test].tolist(), model)

        self._calibration = calibrate(logits, sides, self._model.logits(read(NEUTRAL)))
        self._out_of_fold = self._calibration.score(logits)
        accuracy = float(((self._out_of_fold > 50) == sides).mean())
        self.identity = self._identify(accuracy)
        if accuracy < LEAST:
            print(
                f"warning: {rubric.trait}: the embedded judge is near chance (cross-validated accuracy "
                f"{accuracy:.2f}); do not trust its scores"
            )

    def _identify(self, accuracy: float) -> dict:
        return {
            "judge": "embedded",
            "mode": MODE,
            "readers": [READER, ENCODER],
            "fitted_on": key_of([(e.side, e.family, e.text) for e in self.examples]),
            "n_examples": len(self.examples),
            "cross_validated_accuracy": round(accuracy, 4),
            "measured": MEASURED,
        }

    @property
    def usage(self) -> None:
        """Nothing that costs."""

    def coherence(self, lm: LM, own: Sequence[TokenText]) -> LearnedCoherence:
        """Return the judge of coherence that reads with the model itself, calibrated on its unsteered texts too."""
        return LearnedCoherence(lm, own, embed)

    def score_examples(self) -> list[Score]:
        """Score the rubric's examples, each out of fold."""
        return [Score(float(value), mode=MODE) for value in self._out_of_fold]

    def score_responses(self, answers: Sequence[Answer]) -> list[Score]:
        """Score responses by their text alone: a prompt carries its side's words and would give it away.

        A response to a prompt of the rubric's own is scored by the model that has not seen that prompt's
        family.
        """
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> Score:
        if not answer.response.strip():
            return Score(None, "unparsable", MODE, detail="empty")
        model = self._model if answer.family is None else self._blind.get(answer.family, self._model)
        value = self._calibration.score(model.logits(read([answer.response])))[0]
        return Score(float(value), mode=MODE)
