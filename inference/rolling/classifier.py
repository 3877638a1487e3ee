"""A classifier of the trait, fitted on texts that are in no reported arm: what the trait's stage 1 left."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from traitscope.inference.rolling.tables import describe
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.judge import Score
from traitscope.utils.judge.sentences import ENCODER, embed
from traitscope.utils.measures.separation import auroc_interval, auroc_of
from traitscope.utils.model.encode import text_of
from traitscope.utils.records.responses import read_responses, response_digests
from traitscope.utils.records.scores import Thresholds, usable_responses
from traitscope.utils.records.texts import normalised

MODE = "classifier:minilm-logistic"
STRENGTH = 10.0  # inverse of the penalty on unit embeddings
FOLDS = 5
LEAST = 4  # texts of each side


@dataclass(frozen=True)
class Labelled:
    """One text of a side; those of a group answer one question, or continue one scenario."""

    side: str
    group: int
    text: str


def own_examples(paths: TraitPaths, thresholds: Thresholds, asked: Iterable[str]) -> list[Labelled]:
    """Return a trait's own responses that passed stage 2, but for those to a question that was rolled out.

    Args:
        asked: The questions that were rolled out.

    Raises:
        UserError: responses or scores are missing or damaged.
    """
    known = {normalised(question) for question in asked}
    usable = usable_responses(paths, thresholds, response_digests(paths))
    return [
        Labelled(r.side, r.group, r.response)
        for r in read_responses(paths)
        if r.key in usable and r.response.strip() and normalised(text_of(r.prompt)) not in known
    ]


class Classifier:
    """A logistic regression on sentence embeddings; a score is 100 × the probability of the positive side.

    `identity` says how well it tells unseen texts of unseen groups apart.
    """

    def __init__(self, trait: str, examples: Sequence[Labelled]) -> None:
        """Fit, and measure.

        Raises:
            UserError: there are too few texts or groups.
        """
        sides = np.array([e.side == "pos" for e in examples], bool)
        groups = np.array([e.group for e in examples], int)
        if min(sides.sum(), (~sides).sum()) < LEAST or len(set(groups.tolist())) < 2:
            counts = " and ".join(f"{sum(e.side == side for e in examples)} {side}" for side in SIDES)
            raise UserError(
                f"{trait}: the classifier has {counts} responses of stage 1 that passed and that no rollout asks for; it "
                f"needs {LEAST} of each side, in at least 2 groups"
            )

        meanings = embed([e.text for e in examples])
        held_out = measure(_unseen(meanings, sides, groups), sides, groups)
        self._model = _fit(meanings, sides)
        self.identity = {
            "judge": "classifier",
            "mode": MODE,
            "reader": ENCODER,
            "fitted_on": key_of([asdict(e) for e in examples]),
            "n_pos": int(sides.sum()),
            "n_neg": int((~sides).sum()),
            "n_groups": len(set(groups.tolist())),
            **held_out,
        }
        if held_out["is_at_chance"]:
            print(
                f"warning: {trait}: the classifier is at chance ({describe(self.identity)}); do not trust its scores"
            )

    def score(self, texts: Sequence[str]) -> list[Score]:
        """Score texts, in order."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Score:
        if not text.strip():
            return Score(None, "unparsable", MODE, detail="empty")
        whole = text.encode("utf-8", "replace").decode()  # half a character becomes a "?"
        return Score(100 * float(self._model.predict_proba(embed([whole]))[0, 1]), mode=MODE)


def _fit(meanings: np.ndarray, sides: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000).fit(meanings, sides)


def _unseen(meanings: np.ndarray, sides: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return every text's probability of the positive side [n], by a fit that has not seen its group."""
    found = np.empty(len(sides))
    folds = GroupKFold(min(FOLDS, len(set(groups.tolist()))))
    for train, test in folds.split(meanings, sides, groups):
        one_sided = len(set(sides[train].tolist())) < 2
        found[test] = (
            sides[train][0]
            if one_sided
            else _fit(meanings[train], sides[train]).predict_proba(meanings[test])[:, 1]
        )
    return found


def measure(values: np.ndarray, sides: np.ndarray, groups: np.ndarray) -> dict:
    """Return held-out accuracy and AUROC; its interval counts every group once, for texts of one are not
    independent.
    """
    auroc = auroc_of(values[sides], values[~sides])
    low, high = auroc_interval(auroc, len(set(groups[sides])), len(set(groups[~sides])))
    return {
        "held_out_accuracy": round(float(((values > 0.5) == sides).mean()), 4),
        "held_out_auroc": round(auroc, 4),
        "held_out_auroc_low": round(low, 4),
        "held_out_auroc_high": round(high, 4),
        "is_at_chance": low <= 0.5,
    }
