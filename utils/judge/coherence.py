"""Coherence 0–100 without a key: the unsteered model's own likelihood of a text, and its repetitions."""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from scipy.special import expit

from traitscope.utils.errors import UserError
from traitscope.utils.judge import Score
from traitscope.utils.model.anatomy import position_limit, read_logits
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.encode import encode_text
from traitscope.utils.model.loading import LM
from traitscope.utils.model.passes import Beginning, plan_passes

MODE = "embedded:likelihood-repetition"


@dataclass(frozen=True)
class TokenText:
    """A response as the model wrote it, after the prompt it was written for."""

    prompt_ids: list[int]
    ids: list[int]
    question: str = ""  # the same in words, for a judge that reads
    response: str = ""


class LikelihoodCoherence:
    """How far a text is from what this model writes unsteered, on a scale from its own text (0) to its
    own words shuffled (1).

    coherence = 100 · σ(8 · (0.4 − x)) · σ(20 · (b − 0.45)), with x = (nll − own) / (shuffled − own) from the
    mean negative log-likelihood per token given the prompt, and b the share of distinct token bigrams. It
    grades fluency and loops, against this very model: another author's good prose is unlikely text to it and
    scores low.
    """

    def __init__(self, lm: LM, own: Sequence[TokenText]) -> None:
        """Calibrate on unsteered texts of the model itself; those without two tokens or any word, and those
        whose likelihood is not finite, are left out.

        Raises:
            UserError: none is left.
        """
        self.lm = lm
        shuffled = [TokenText(t.prompt_ids, _shuffle_ids(lm, t)) for t in own]
        readable = [i for i, t in enumerate(own) if len(t.ids) > 1 and shuffled[i].ids]
        plain, mixed = (token_nll(lm, [texts[i] for i in readable]) for texts in (own, shuffled))
        finite = [pair for pair in zip(plain, mixed, strict=True) if all(map(math.isfinite, pair))]
        if not finite:
            raise UserError(
                "coherence is calibrated on the unsteered answers, and none of them has two tokens, a word and a finite "
                "likelihood; raise --max-new-tokens, or see what the model writes"
            )

        self.own, self.shuffled = torch.tensor(finite).mean(0).tolist()
        self.identity = {
            "judge": "embedded",
            "mode": MODE,
            "own_nll": self.own,
            "shuffled_nll": self.shuffled,
        }

    def score(self, texts: Sequence[TokenText]) -> list[Score]:
        """Score texts, in order; an empty or blank one holds nothing together and scores 0."""
        readable = [i for i, t in enumerate(texts) if self.lm.tokenizer.decode(t.ids).strip()]
        scores = [Score(0.0, mode=MODE)] * len(texts)
        for i, nll in zip(readable, token_nll(self.lm, [texts[i] for i in readable]), strict=True):
            scores[i] = self._grade(nll, texts[i].ids)
        return scores

    def _grade(self, nll: float, ids: list[int]) -> Score:
        if not math.isfinite(nll):
            return Score(None, "error", MODE, detail="its likelihood is not finite")

        distance = (nll - self.own) / max(self.shuffled - self.own, 1e-6)
        fluency, variety = expit(8 * (0.4 - distance)), expit(20 * (distinct_bigrams(ids) - 0.45))
        return Score(float(100 * fluency * variety), mode=MODE)


def _shuffle_ids(lm: LM, text: TokenText) -> list[int]:
    """Return the text's words shuffled, as tokens; they may be more than before, but no more than there is room
    for.
    """
    ids = encode_text(lm, shuffle_words(lm.tokenizer.decode(text.ids)))
    limit = position_limit(lm.model)
    return ids[: limit - len(text.prompt_ids)] if limit else ids


def shuffle_words(text: str) -> str:
    """Return the text's words in a fixed random order."""
    words = text.split()
    random.Random(0).shuffle(words)
    return " ".join(words)


def distinct_bigrams(ids: Sequence[Hashable]) -> float:
    """Return the share of distinct bigrams of tokens or words, 1 for a text without repetition (or too
    short to have one).
    """
    bigrams = list(pairwise(ids))
    return len(set(bigrams)) / len(bigrams) if bigrams else 1.0


def token_nll(lm: LM, texts: Sequence[TokenText], batch_tokens: int = 1024) -> list[float]:
    """Return each text's mean negative log-likelihood per token (nats) under the unsteered model, given
    its prompt.
    """
    values: dict[int, float] = {}
    plan = plan_passes(
        lm, [[*t.prompt_ids, *t.ids] for t in texts], [len(t.prompt_ids) - 1 for t in texts], batch_tokens
    )

    for batch, beginning in plan:
        answers = halve_on_oom(partial(_batch_nll, lm, beginning), [texts[i] for i in batch])
        values.update(zip(batch, answers, strict=True))

    return [values[i] for i in range(len(texts))]


@torch.inference_mode()
def _batch_nll(lm: LM, beginning: Beginning, texts: Sequence[TokenText]) -> list[float]:
    skipped = beginning.n_tokens
    arguments = beginning.arguments([[*t.prompt_ids, *t.ids] for t in texts], lm.device)
    ids = arguments["input_ids"]
    first = min(len(t.prompt_ids) for t in texts) - skipped - 1
    # the vocabulary projection only where it is read, and by the model's own forward: some models cap or
    # scale their logits
    kept = torch.arange(first, ids.shape[1], device=lm.device)
    logits, _ = read_logits(lm.model, kept, **arguments)
    values = []

    for row, text in enumerate(texts):
        start, stop = len(text.prompt_ids) - skipped, len(text.prompt_ids) + len(text.ids) - skipped
        predicted = logits[row, start - 1 - first : stop - 1 - first].float()
        values.append(float(torch.nn.functional.cross_entropy(predicted, ids[row, start:stop])))

    return values
