"""Tokens as people see them: the text of each, and which of them a piece of a prompt became."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from traitscope.utils.model.thoughts import answer_begins

if TYPE_CHECKING:  # a laptop without torch looks for words among tokens too
    from traitscope.utils.model.encode import Prompt
    from traitscope.utils.model.loading import LM

BROKEN = "\ufffd"  # what the decoder writes for part of a character


def token_texts(lm: "LM", ids: Sequence[int]) -> list[str]:
    """Return each token's text; together they are the whole text. Of tokens that share a character, the
    last one carries it.

    A token is decoded after the one before it: alone, it would lose its space with some tokenizers.
    """

    def decode(part: Sequence[int]) -> str:
        return lm.tokenizer.decode(part, clean_up_tokenization_spaces=False)

    texts: list[str] = []
    before, held = 0, 0  # the first token of those decoded together, and of those whose text is still to come
    for i in range(len(ids)):
        known, text = decode(ids[before:held]), decode(ids[before : i + 1])
        # no character has more than four bytes
        if text.endswith(BROKEN) and i + 1 - held < 4 and i + 1 < len(ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        before, held = held, i + 1

    whole = decode(ids)
    return texts if "".join(texts) == whole else _cut_whole(whole, texts)


def _cut_whole(whole: str, texts: Sequence[str]) -> list[str]:
    """Return a whole text cut where its tokens' texts end, for a tokenizer whose texts do not join to it."""
    ends = [min(end, len(whole)) for end in accumulate(map(len, texts))]
    cuts = [0, *ends[:-1], len(whole)]
    return [whole[start:end] for start, end in pairwise(cuts)]


def split_thought(lm: "LM", ids: list[int]) -> tuple[list[int], list[int]]:
    """Return what a model wrote as (its thought, its answer); without a thought, all of it is the answer."""
    start = answer_begins(lm.tokenizer.decode(ids)) if ids else 0
    if not start:
        return [], ids

    ends = list(accumulate(map(len, token_texts(lm, ids))))
    n = next((i + 1 for i, end in enumerate(ends) if end >= start), len(ids))
    while n < len(ids) and not lm.tokenizer.decode(ids[n : n + 1]).strip():
        n += 1  # the white space between the two
    return ids[:n], ids[n:]


def locate(tokens: Sequence[str], pieces: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return the tokens [start, end) that each piece of a text became, looked for one after the other;
    None for one that is not there.

    White space is left out of the comparison: some tokenizers drop or add it when they decode.
    """
    owner = [i for i, token in enumerate(tokens) for _ in _dense(token)]  # of every character
    text = "".join(map(_dense, tokens))
    spans: list[tuple[int, int] | None] = []
    cursor = 0

    for piece in map(_dense, pieces):
        begin = text.find(piece, cursor) if piece else -1
        spans.append((owner[begin], owner[begin + len(piece) - 1] + 1) if begin >= 0 else None)
        cursor = max(cursor, begin + len(piece))

    return spans


def find_turns(prompt: "Prompt", tokens: Sequence[str], n_prompt: int) -> list[dict[str, Any]]:
    """Return the turns of a prompt and its response: role, and the tokens [start, end) of what was said."""
    messages = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    spans = locate(tokens[:n_prompt], [m["content"] for m in messages])
    turns = [
        {"role": m["role"], "start": span[0], "end": span[1]}
        for m, span in zip(messages, spans, strict=True)
        if span
    ]

    return [
        *turns,
        {"role": "assistant" if messages is prompt else "response", "start": n_prompt, "end": len(tokens)},
    ]


def _dense(text: str) -> str:
    return "".join(text.split())
