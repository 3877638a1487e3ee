"""What the judge of coherence learns from: shipped answers as the model that is studied reads them, and what
this model writes itself.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.files.paths import cache_dir, coherence_corpus
from traitscope.utils.files.reading import read_bytes
from traitscope.utils.judge.coherence import TokenText, token_losses
from traitscope.utils.judge.pieces import Embed, Losses, Piece, measure_losses, measure_meanings, split_text
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.generation import Row, Sampling, Work, generate, room_after
from traitscope.utils.model.loading import LM

GOOD = "good"
N_SAMPLED, SAMPLED_TOKENS = 16, 64
WORTH_KEEPING = 10.0  # seconds of measuring from which its result is kept on disk


@dataclass(frozen=True)
class Labelled:
    """Pieces with what is known of them; kinds and questions are arrays of texts [n]."""

    pieces: list[Piece]
    losses: list[Losses]
    meanings: np.ndarray  # [n, 3 + width]
    kinds: np.ndarray
    questions: np.ndarray

    def take(self, rows: np.ndarray) -> "Labelled":
        pieces, losses = ([values[i] for i in rows] for values in (self.pieces, self.losses))
        return Labelled(pieces, losses, self.meanings[rows], self.kinds[rows], self.questions[rows])

    def joined(self, other: "Labelled") -> "Labelled":
        names = ("meanings", "kinds", "questions")
        arrays = [np.concatenate([getattr(self, n), getattr(other, n)]) for n in names]
        return Labelled(self.pieces + other.pieces, self.losses + other.losses, *arrays)


@cache
def read_corpus() -> tuple[dict, ...]:
    """Return the shipped answers: {"question", "text", "label", "kind"}."""
    return tuple(json.loads(line) for line in read_bytes(coherence_corpus()).decode().splitlines())


def sample_texts(lm: LM, own: Sequence[TokenText]) -> list[TokenText]:
    """Return answers to the first questions as the model draws them at temperature 1."""
    asked = own[:N_SAMPLED]
    if not asked:
        return []

    longest = max(len(t.prompt_ids) for t in asked)
    prompt = next(t.prompt_ids for t in asked if len(t.prompt_ids) == longest)
    wanted = min(SAMPLED_TOKENS, max(len(t.ids) for t in asked))
    sampling = Sampling(room_after(lm, prompt, wanted), temperature=1.0)
    rows = [Row(t.prompt_ids, i) for i, t in enumerate(asked)]

    drawn = generate(lm, rows, sampling, work=Work(label="sample for coherence"))
    return [TokenText(t.prompt_ids, c.ids, t.question) for t, c in zip(asked, drawn, strict=True) if c.ids]


def label_texts(lm: LM, texts: Sequence[TokenText], embed: Embed) -> Labelled:
    """Return the pieces of a model's own texts as good ones; those without a finite likelihood are left out."""
    pieces = [piece for text in texts for piece in split_text(lm, text)]
    read = zip(pieces, measure_losses(lm, pieces), strict=True)
    finite = [(piece, losses) for piece, losses in read if losses.are_finite]

    pieces, losses = [piece for piece, _ in finite], [found for _, found in finite]
    questions = np.array([piece.question for piece in pieces])
    return Labelled(pieces, losses, measure_meanings(embed, pieces), np.full(len(pieces), GOOD), questions)


def read_with(lm: LM, embed: Embed) -> Labelled:
    """Return the corpus as a model reads it: a minute or more for a model on one CPU core, so it is kept in the
    user's cache.

    Raises:
        UserError: the likelihood of a text is not finite.
    """
    rows, pieces = [], []
    for row in read_corpus():
        ids = encode_text(lm, row["text"])
        prompt = encode(lm, [{"role": "user", "content": row["question"]}])
        parts = split_text(lm, TokenText(prompt, ids, row["question"]))
        pieces += parts
        rows += [row] * len(parts)

    losses = _read_once(lm, pieces)
    if not all(found.are_finite for found in losses):
        raise UserError(
            f"{lm.identity['name']} gives ordinary prose no finite likelihood, so it cannot judge coherence; see what "
            "the model writes, or try another --dtype"
        )
    kinds = np.array([row["kind"] if row["label"] == "bad" else GOOD for row in rows])
    return Labelled(
        pieces, losses, _understand_once(embed, pieces), kinds, np.array([row["question"] for row in rows])
    )


def _read_once(lm: LM, pieces: Sequence[Piece]) -> list[Losses]:
    first = token_losses(lm, [TokenText(pieces[0].start, pieces[0].ids)])[0].tolist()
    # the weights speak for themselves: two models of one name are told apart by how they read the first text
    key = key_of("losses", lm.identity, [(p.start, p.ids) for p in pieces], [round(x, 2) for x in first])

    def measure() -> list:
        print(f"coherence: {lm.identity['name']} reads {len(pieces)} texts to learn from, once")
        found = measure_losses(lm, pieces, "read for coherence")
        return [(losses.plain.round(4).tolist(), losses.shuffled.round(4).tolist()) for losses in found]

    return [Losses(np.array(plain), np.array(shuffled)) for plain, shuffled in _once(key, measure)]


def _understand_once(embed: Embed, pieces: Sequence[Piece]) -> np.ndarray:
    key = key_of("meanings", [(p.question, p.text) for p in pieces])
    return np.array(_once(key, lambda: measure_meanings(embed, pieces).round(5).tolist()))


_known: dict[str, list] = {}


def _once(key: str, measure: Callable[[], list]) -> list:
    """Return what was measured under a key, in this process or, where it took long, an earlier one."""
    if key in _known:
        return _known[key]

    journal = Journal(cache_dir() / "coherence" / f"{key}.jsonl")
    if key not in journal.answers:
        start = time.monotonic()
        found = measure()
        is_finite = not re.search("NaN|Infinity", json.dumps(found))
        if is_finite and time.monotonic() - start >= WORTH_KEEPING:
            journal.add(key, found)
        journal.answers[key] = found

    _known[key] = journal.answers[key]
    return _known[key]
