"""What a reasoning model thinks before it answers: told from the answer, so that the answer alone is judged and
pooled.
"""

# (opens, closes), as the families write them
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
BEGUN = 24  # characters of a thought that a template may have begun itself


def answer_begins(text: str) -> int:
    """Return where the answer begins in what a model wrote: after the thoughts that it begins with; at the end
    of a text that never closes its thought; else at 0. A mark inside an answer is part of it.
    """
    place, lower = 0, text.lower()
    while pair := _opened(lower, place):
        closes = lower.find(pair[1].lower(), place)
        if closes < 0:
            return len(text)
        place = closes + len(pair[1])
    return place


def _opened(lower: str, place: int) -> tuple[str, str] | None:
    """Return the marks of a thought that begins at a place, after white space."""
    rest = lower[place:].lstrip()
    return next((pair for pair in MARKS if rest.startswith(pair[0].lower())), None)


def without_thoughts(text: str) -> str:
    """Return the answer in what a model wrote, "" where a thought never ends."""
    start = answer_begins(text)
    return text[start:].strip() if start else text


def close_thought(rendering: str) -> str:
    """Return a prompt with the thought closed that it opens at its end, so that the model answers at once."""
    for opens, closes in MARKS:
        start = rendering.rfind(opens)
        begun = rendering[start + len(opens) :]
        if start >= 0 and len(begun) <= BEGUN and not set(begun) & set("<[{|"):
            return f"{rendering.rstrip()}\n\n{closes}\n\n"
    return rendering
