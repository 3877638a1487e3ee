"""How likely a text is to the unsteered model, token by token."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from traitscope.utils.judge.wording import has_spaces
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
    between = " " if has_spaces(text) else ""
    units = text.split() if between else list("".join(text.split()))
    random.Random(0).shuffle(units)
    return between.join(units)


def token_nll(lm: LM, texts: Sequence[TokenText], batch_tokens: int = 1024) -> list[float]:
    """Return each text's mean negative log-likelihood per token (nats) under the unsteered model, given
    its prompt.
    """
    return [float(losses.mean()) for losses in token_losses(lm, texts, batch_tokens)]


def token_losses(
    lm: LM, texts: Sequence[TokenText], batch_tokens: int = 1024, label: str = ""
) -> list[Tensor]:
    """Return the negative log-likelihood of every token of each text (nats, [n_tokens]) under the unsteered
    model, given its prompt.

    Args:
        label: What a bar of progress says; without one there is none.
    """
    found: dict[int, Tensor] = {}
    plan = plan_passes(
        lm, [[*t.prompt_ids, *t.ids] for t in texts], [len(t.prompt_ids) - 1 for t in texts], batch_tokens
    )

    hidden = None if label else True  # None: only where somebody can see it
    with tqdm(total=len(texts), desc=label, unit="text", disable=hidden, leave=False) as bar:
        for batch, beginning in plan:
            answers = halve_on_oom(partial(_batch_losses, lm, beginning), [texts[i] for i in batch])
            found.update(zip(batch, answers, strict=True))
            bar.update(len(batch))

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
