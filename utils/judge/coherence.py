"""Coherence 0–100 without a key: the unsteered model's own likelihood of a text, and its repetitions."""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from scipy.special import expit

from traitscope.utils.judge import Score
from traitscope.utils.model.anatomy import read_logits
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
        """Calibrate on unsteered texts of the model itself."""
        self.lm = lm
        readable = [t for t in own if len(t.ids) > 1]
        assert readable, "coherence is calibrated on unsteered texts; there are none"

        shuffled = [
            TokenText(t.prompt_ids, encode_text(lm, shuffle_words(lm.tokenizer.decode(t.ids))))
            for t in readable
        ]
        self.own, self.shuffled = (
            float(torch.tensor(token_nll(lm, texts)).mean()) for texts in (readable, shuffled)
        )
        self.identity = {
            "judge": "embedded",
            "mode": MODE,
            "own_nll": self.own,
            "shuffled_nll": self.shuffled,
        }

    def score(self, texts: Sequence[TokenText]) -> list[Score]:
        """Score texts, in order; an empty one holds nothing together and scores 0."""
        readable = [i for i, t in enumerate(texts) if t.ids]
        scores = [Score(0.0, mode=MODE)] * len(texts)

        for i, nll in zip(readable, token_nll(self.lm, [texts[i] for i in readable]), strict=True):
            distance = (nll - self.own) / max(self.shuffled - self.own, 1e-6)
            scores[i] = Score(
                float(
                    100 * expit(8 * (0.4 - distance)) * expit(20 * (distinct_bigrams(texts[i].ids) - 0.45))
                ),
                mode=MODE,
            )

        return scores


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
