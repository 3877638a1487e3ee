"""Tokens as people see them: the text of each, and which of them a piece of a prompt became."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a laptop without torch looks for words among tokens too
    from traitscope.utils.model.encode import Prompt
    from traitscope.utils.model.loading import LM

BROKEN = "\ufffd"  # what the decoder writes for part of a character


def token_texts(lm: "LM", ids: Sequence[int]) -> list[str]:
    """Return each token's text; together they are the whole text. Of tokens that share a character, the
    last one carries it.
    """
    texts, held = [], []
    for i, token in enumerate(ids):
        held.append(token)
        text = lm.tokenizer.decode(held, clean_up_tokenization_spaces=False)
        # no character has more than four bytes
        is_partial = text.endswith(BROKEN) and len(held) < 4 and i + 1 < len(ids)
        texts.append("" if is_partial else text)
        held = held if is_partial else []

    return texts


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
