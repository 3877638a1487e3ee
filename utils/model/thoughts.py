"""What a reasoning model thinks before it answers: told from the answer, so that the answer alone is judged and
pooled.
"""

import re

# (opens, closes), as the families write them
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
_FLAGS = re.IGNORECASE | re.DOTALL
_CLOSED = [re.compile(rf".*{re.escape(closes)}", _FLAGS) for _, closes in MARKS]
_OPEN = [re.compile(rf"\s*{re.escape(opens)}.*\Z", _FLAGS) for opens, _ in MARKS]


def answer_begins(text: str) -> int:
    """Return where the answer begins in what a model wrote: after the last thought that was closed; at the end
    of a text that never closes its thought; else at 0.
    """
    closed = max((m.end() for mark in _CLOSED if (m := mark.match(text))), default=0)
    is_open = any(mark.match(text, closed) for mark in _OPEN)
    return len(text) if is_open else closed


def without_thoughts(text: str) -> str:
    """Return the answer in what a model wrote, "" where a thought never ends."""
    return text[answer_begins(text) :].strip() if answer_begins(text) else text


def close_thought(rendering: str) -> str:
    """Return a prompt with the thought closed that it opens at its end, so that the model answers at once."""
    for opens, closes in MARKS:
        if rendering.rstrip().endswith(opens):
            return f"{rendering.rstrip()}\n\n{closes}\n\n"
    return rendering
