"""Coherence 0–100 without a key: answers that people wrote, whole and broken in ten ways, read by the model
that is studied; and a regression that tells them apart.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Score
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.judge.corpus import GOOD, Labelled, label_texts, read_corpus, read_with, sample_texts
from traitscope.utils.judge.pieces import (
    Embed,
    Losses,
    Piece,
    cut_piece,
    measure_losses,
    measure_meanings,
    measure_piece,
    split_text,
)
from traitscope.utils.judge.wording import distinct_share, words_of
from traitscope.utils.model.loading import LM

MODE = "embedded:learned-checks"
EMPTY = "filler"  # the kind that only the meaning shows: it gets a direction of embeddings
GOOD_WEIGHT = 2.0  # of a good text against a broken one
CUT_WEIGHT = 0.5  # of the beginning of a text against the whole
LOOPING = 0.9  # share of distinct word triples below which an answer of the model's own teaches nothing good
NAMED = 70.0  # score below which the check that failed is named
FOLDS = 5


class Checks:
    """A multinomial logistic regression: the probability that a piece is good, and of every way to be broken."""

    def __init__(self, lm: LM, corpus: Labelled, own: Labelled) -> None:
        """Fit on the corpus, on the beginnings of its pieces (an answer cut short is no worse for it), and on
        the model's own answers as good ones.
        """
        known = corpus.joined(own)
        self._empty = _direction_of_emptiness(known)
        meanings = _meanings_unseen(known)
        shares = np.random.default_rng(0).uniform(0.45, 0.9, len(corpus.pieces))
        begun = [cut_piece(lm, *row) for row in zip(corpus.pieces, corpus.losses, shares, strict=True)]

        rows = [*zip(known.pieces, known.losses, meanings, strict=True)]
        # the corpus stands first among what is known
        rows += [(*row, meaning) for row, meaning in zip(begun, meanings, strict=False)]
        weights = np.where(corpus.kinds == GOOD, GOOD_WEIGHT, 1.0)
        # together the model's own answers never weigh more than the good ones that people wrote
        own_weight = min(1.0, (corpus.kinds == GOOD).sum() / max(1, len(own.pieces)))
        weights = np.concatenate([weights, np.full(len(own.pieces), own_weight), CUT_WEIGHT * weights])

        self._model: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=4000))
        self._model.fit(
            np.array([measure_piece(*row) for row in rows]),
            np.concatenate([known.kinds, corpus.kinds]),
            logisticregression__sample_weight=weights,
        )

    def grade(
        self, pieces: Sequence[Piece], losses: Sequence[Losses], meanings: np.ndarray
    ) -> list[dict[str, float]]:
        """Return {kind: probability} of every piece."""
        if not pieces:
            return []
        shown = zip(pieces, losses, _shorten(meanings, self._empty), strict=True)
        found = self._model.predict_proba(np.array([measure_piece(*row) for row in shown]))
        return [dict(zip(self._model.classes_.tolist(), p, strict=True)) for p in found.tolist()]


def _shorten(meanings: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Return meanings [n, 3 + width] with how far they go towards emptiness for the embedding [n, 4]."""
    return np.column_stack([meanings[:, :3], meanings[:, 3:] @ empty])


def _meanings_unseen(known: Labelled) -> np.ndarray:
    """Return the same for pieces that are learned from, by directions that have not seen their question."""
    found = np.empty((len(known.pieces), 4))
    for question in np.unique(known.questions):
        same = known.questions == question
        empty = _direction_of_emptiness(known.take(np.flatnonzero(~same)))
        found[same] = _shorten(known.meanings[same], empty)
    return found


def _direction_of_emptiness(known: Labelled) -> np.ndarray:
    """Return the unit vector [width] from the mean embedding of the good texts to that of the empty ones."""
    vectors = known.meanings[:, 3:]
    away = vectors[known.kinds == EMPTY].mean(0) - vectors[known.kinds == GOOD].mean(0)
    return away / np.linalg.norm(away)


class LearnedCoherence:
    """100 × the probability that a text is good, the mean of its pieces.

    It knows ten ways to be broken, and where a text has less than 70, its `detail` names the likeliest. All
    likelihoods are those of the model that is studied; good is what people wrote in several registers and
    languages, and what this model writes unsteered: the answers it is calibrated on, and others sampled at
    temperature 1. Contradiction is out of its reach.
    """

    def __init__(self, lm: LM, own: Sequence[TokenText], embed: Embed) -> None:
        """Read the corpus with the model and fit on it and on the model's own texts.

        Raises:
            UserError: none of the model's own texts has two tokens, a word and a finite likelihood.
        """
        self.lm, self.embed = lm, embed
        readable = [t for t in own if len(t.ids) > 1 and split_text(lm, t)]
        written = label_texts(lm, [*readable, *sample_texts(lm, readable)], embed)
        if not written.pieces:
            raise UserError(
                "coherence is calibrated on the unsteered answers, and none of them has two tokens, a word and a finite "
                "likelihood; raise --max-new-tokens, or see what the model writes"
            )

        corpus = read_with(lm, embed)
        steady = [distinct_share(words_of(piece.text), 3) >= LOOPING for piece in written.pieces]
        own_good = written.take(np.flatnonzero(steady))
        self._checks = Checks(lm, corpus, own_good)
        self.identity = {
            "judge": "embedded",
            "mode": MODE,
            "corpus": key_of(read_corpus()),
            "n_corpus": len(read_corpus()),
            "n_own": len(own_good.pieces),
            "own_nll": float(np.mean([losses.plain.mean() for losses in written.losses])),
            "shuffled_nll": float(np.mean([losses.shuffled.mean() for losses in written.losses])),
            **cross_validate(lm, corpus, own_good),
        }

    def score(self, texts: Sequence[TokenText]) -> list[Score]:
        """Score texts, in order; an empty or blank one holds nothing together and scores 0."""
        split = [split_text(self.lm, text) for text in texts]
        pieces = [piece for parts in split for piece in parts]
        losses = measure_losses(self.lm, pieces)
        finite = [i for i, found in enumerate(losses) if found.are_finite]
        read = [pieces[i] for i in finite]
        grades = self._checks.grade(read, [losses[i] for i in finite], measure_meanings(self.embed, read))
        graded = dict(zip(finite, grades, strict=True))

        first, scores = 0, []
        for parts in split:
            scores.append(_score([graded.get(i) for i in range(first, first + len(parts))]))
            first += len(parts)
        return scores


def _score(grades: Sequence[dict[str, float] | None]) -> Score:
    if not grades:
        return Score(0.0, mode=MODE, detail="empty")
    if any(grade is None for grade in grades):
        return Score(None, "error", MODE, detail="its likelihood is not finite")

    means = {kind: float(np.mean([g[kind] for g in grades if g])) for kind in grades[0] or {}}
    value = min(100.0, 100 * means.pop(GOOD))
    return Score(value, mode=MODE, detail="" if value >= NAMED else max(means, key=means.__getitem__))


def cross_validate(lm: LM, corpus: Labelled, own: Labelled) -> dict[str, float]:
    """Return how well pieces are told good from broken by checks that have not seen their question."""
    values = np.empty(len(corpus.pieces))
    for train, test in GroupKFold(FOLDS).split(corpus.kinds, corpus.kinds, corpus.questions):
        checks, unseen = Checks(lm, corpus.take(train), own), corpus.take(test)
        values[test] = [grade[GOOD] for grade in checks.grade(unseen.pieces, unseen.losses, unseen.meanings)]

    is_good = corpus.kinds == GOOD
    return {
        "cross_validated_auroc": round(float(roc_auc_score(is_good, values)), 4),
        "cross_validated_accuracy": round(float(((values > 0.5) == is_good).mean()), 4),
    }
