"""What can be counted in the words of an answer: loops, echoes of its question, and how much it says anew."""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

WORD = re.compile(r"[^\W_]+")
LONGEST = 15  # letters of a word on average, above which a text is written without spaces


def has_spaces(text: str) -> bool:
    """Whether a text is written with spaces between its words."""
    return len(text) <= LONGEST * len(text.split())


def units_of(text: str) -> list[str]:
    """Return the words of a text as they stand, or its characters where it is written without spaces."""
    return text.split() if has_spaces(text) else list(text)


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, or its letters where it is written without spaces."""
    words = WORD.findall(text.lower())
    return words if has_spaces(text) else list("".join(words))


def grams_of(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """Return the runs of `order` words, in order."""
    return list(zip(*(words[i:] for i in range(order)), strict=False))


def distinct_share(words: Sequence[str], order: int) -> float:
    """Return the share of distinct runs of `order` words, 1 for a text too short to have one."""
    grams = grams_of(words, order)
    return len(set(grams)) / len(grams) if grams else 1.0


def measure_wording(text: str, question: str) -> dict[str, float]:
    """Return shares from 0 to 1, and the mean length of a word in letters."""
    words, asked = words_of(text), words_of(question)
    known, pairs = set(asked), set(pairwise(asked))
    raw = text.encode()

    return {
        "distinct_words": distinct_share(words, 1),
        "distinct_pairs": distinct_share(words, 2),
        "distinct_triples": distinct_share(words, 3),
        "distinct_written": distinct_share(text.split(), 2),
        "repeated": _repeated_share(words),
        "compressed": len(zlib.compress(raw, 9)) / (len(raw) + 12),  # zlib's own frame is 12 bytes
        "asked_words": _share([word in known for word in words]),
        "asked_pairs": _share([pair in pairs for pair in pairwise(words)]),
        "new_words": len(set(words) - known) / max(1, len(words)),
        "spelled_words": _share([word.isalpha() for word in words]),
        "letters": _share([c.isalpha() or c.isspace() for c in text]),
        "word_length": sum(map(len, words)) / max(1, len(words)),
        "short_words": _share([len(word) <= 2 for word in words]),
        "words_a_space": len(words) / max(1, len(text.split())),
    }


def _repeated_share(words: Sequence[str], order: int = 4) -> float:
    """Return the share of words that stand in a run of `order` that came before."""
    seen: set[tuple[str, ...]] = set()
    repeated = [False] * len(words)
    for i, gram in enumerate(grams_of(words, order)):
        if gram in seen:
            repeated[i : i + order] = [True] * order
        seen.add(gram)

    return _share(repeated)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
