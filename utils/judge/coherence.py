"""How likely a text is to the unsteered model, token by token, and how much it repeats itself."""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from traitscope.utils.model.anatomy import read_logits
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.loading import LM
from traitscope.utils.model.passes import Beginning, plan_passes


@dataclass(frozen=True)
class TokenText:
    """A response as the model wrote it, after the prompt it was written for."""

    prompt_ids: list[int]
    ids: list[int]
    question: str = ""  # the same in words, for a judge that reads
    response: str = ""


def shuffle_words(text: str) -> str:
    """Return the text's words in a fixed random order; its letters, where it is written without spaces."""
    words, between = text.split(), " "
    if len(text) > 15 * len(words):
        words, between = list("".join(words)), ""
    random.Random(0).shuffle(words)
    return between.join(words)


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
    return [float(losses.mean()) for losses in token_losses(lm, texts, batch_tokens)]


def token_losses(lm: LM, texts: Sequence[TokenText], batch_tokens: int = 1024) -> list[Tensor]:
    """Return the negative log-likelihood of every token of each text (nats, [n_tokens]) under the unsteered
    model, given its prompt.
    """
    found: dict[int, Tensor] = {}
    plan = plan_passes(
        lm, [[*t.prompt_ids, *t.ids] for t in texts], [len(t.prompt_ids) - 1 for t in texts], batch_tokens
    )

    for batch, beginning in plan:
        answers = halve_on_oom(partial(_batch_losses, lm, beginning), [texts[i] for i in batch])
        found.update(zip(batch, answers, strict=True))

    return [found[i] for i in range(len(texts))]


@torch.inference_mode()
def _batch_losses(lm: LM, beginning: Beginning, texts: Sequence[TokenText]) -> list[Tensor]:
    skipped = beginning.n_tokens
    arguments = beginning.arguments([[*t.prompt_ids, *t.ids] for t in texts], lm.device)
    ids = arguments["input_ids"]
    first = min(len(t.prompt_ids) for t in texts) - skipped - 1
    # the vocabulary projection only where it is read, and by the model's own forward: some models cap or
    # scale their logits
    kept = torch.arange(first, ids.shape[1], device=lm.device)
    logits, _ = read_logits(lm.model, kept, **arguments)
    found = []

    for row, text in enumerate(texts):
        start, stop = len(text.prompt_ids) - skipped, len(text.prompt_ids) + len(text.ids) - skipped
        predicted = logits[row, start - 1 - first : stop - 1 - first].float()
        found.append(
            torch.nn.functional.cross_entropy(predicted, ids[row, start:stop], reduction="none").cpu()
        )

    return found
