"""Pieces of answers, and what is measured on each: its likelihood, that of its words shuffled, and its wording."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from traitscope.utils.judge.coherence import TokenText, shuffle_words, token_losses
from traitscope.utils.judge.wording import measure_wording
from traitscope.utils.model.anatomy import position_limit
from traitscope.utils.model.encode import encode_text
from traitscope.utils.model.loading import LM

Embed = Callable[[Sequence[str]], np.ndarray]
LONGEST = 320  # letters of a piece at most: what is measured depends on the length, so all are about as long
HIGHEST = 0.2  # share of the tokens that count as the most surprising
ALONE = 0.25  # cohesion of a piece of one sentence: what several sentences of one answer have on average
SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\n+")


@dataclass(frozen=True)
class Piece:
    """A part of an answer that is judged by itself."""

    question: str
    text: str
    start: list[int]  # the token it is read after: the prompt's first, and nothing of the question
    ids: list[int]


@dataclass(frozen=True)
class Losses:
    """Negative log-likelihoods (nats) of a piece's tokens [n], and of its words shuffled [m]."""

    plain: np.ndarray
    shuffled: np.ndarray

    @property
    def are_finite(self) -> bool:
        return bool(np.isfinite(self.plain).all() and np.isfinite(self.shuffled).all())


def split_text(lm: LM, text: TokenText) -> list[Piece]:
    """Cut an answer into equal pieces of at most `LONGEST` letters; one without a visible letter is left out."""
    written = _decode(lm, text.ids)
    question = text.question or _decode(lm, text.prompt_ids)
    n_pieces = max(1, min(len(text.ids), -(-len(written) // LONGEST)))
    ids = [part.tolist() for part in np.array_split(np.array(text.ids, dtype=int), n_pieces)]

    pieces = [Piece(question, _decode(lm, part), text.prompt_ids[:1], part) for part in ids]
    return [piece for piece in pieces if piece.text.strip()]


def measure_losses(lm: LM, pieces: Sequence[Piece], label: str = "") -> list[Losses]:
    """Return the losses of every piece, by two passes of the unsteered model that read no prompt."""
    limit = position_limit(lm.model)
    room = limit - 1 if limit else None
    plain = [TokenText(p.start, p.ids[:room]) for p in pieces]
    shuffled = [TokenText(p.start, encode_text(lm, shuffle_words(p.text))[:room]) for p in pieces]

    found = zip(*(token_losses(lm, texts, label=label) for texts in (plain, shuffled)), strict=True)
    return [Losses(p.double().numpy(), s.double().numpy()) for p, s in found]


def measure_meanings(embed: Embed, pieces: Sequence[Piece]) -> np.ndarray:
    """Return what sentence embeddings show of pieces [n, 3 + width]: nearness to the question, cohesion (the
    mean cosine between sentences, and that of the sentence furthest from the others), and the embedding.
    """
    return np.array([_measure_meaning(embed, piece) for piece in pieces])


def _measure_meaning(embed: Embed, piece: Piece) -> np.ndarray:
    text, question = embed([piece.text, piece.question])
    sentences = [part for part in SENTENCE.split(piece.text.strip()) if part.strip()]
    if len(sentences) < 2:
        return np.array([text @ question, ALONE, ALONE, *text])

    vectors = embed(sentences)
    cosines = (vectors @ vectors.T - np.eye(len(vectors))).sum(1) / (len(vectors) - 1)
    return np.array([text @ question, cosines.mean(), cosines.min(), *text])


def cut_piece(lm: LM, piece: Piece, losses: Losses, share: float) -> tuple[Piece, Losses]:
    """Return the beginning of a piece, as a limit on new tokens leaves it, with what is known of its tokens."""
    n = max(2, int(share * len(piece.ids)))
    ids = piece.ids[:n]
    return Piece(piece.question, _decode(lm, ids), piece.start, ids), Losses(
        losses.plain[:n], losses.shuffled[:n]
    )


def measure_piece(piece: Piece, losses: Losses, meaning: np.ndarray) -> list[float]:
    """Return the features of a piece.

    `order` is what the order of the words is worth: 1 − nll(text) / nll(its words shuffled). It is 0 for
    word salad whatever the register, and a language that the model hardly knows has shorter tokens, so both
    stand with their products.

    Args:
        meaning: What embeddings show, [k].
    """
    n, letters = len(losses.plain), len(piece.text)
    nll, shuffled = losses.plain.mean(), losses.shuffled.mean()
    order, density = 1 - nll / max(shuffled, 0.5), letters / n
    worst = np.sort(losses.plain)[-max(1, round(HIGHEST * n)) :].mean()

    likelihood = [nll, shuffled, order, worst, (losses.plain > 8).mean(), (losses.plain < 0.2).mean()]
    likelihood += [density, density**2, order**2, order * density, nll * density, np.log(n)]
    return [*map(float, likelihood), *measure_wording(piece.text, piece.question).values(), *meaning]


def _decode(lm: LM, ids: Sequence[int]) -> str:
    return lm.tokenizer.decode(ids, skip_special_tokens=True)
