"""When two texts count as one, and what is joined by a text that it shares: the only place that says so."""

import unicodedata
from collections.abc import Hashable, Iterable

EDGE = " .,;:!?¿¡…-‐‑‒–—―'\"`´‘’‚‛“”„‟«»‹›()[]{}<>*_。、「」『』"


def normalised(text: str) -> str:
    """Return a text as it is compared with others: without case, compatibility forms, extra white space,
    and the punctuation and quotes around it.

    A text of nothing but those keeps its signs. Twice the same as once.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return unicodedata.normalize("NFKC", words.strip(EDGE)) or words


def repeated(texts: Iterable[str]) -> list[str]:
    """Return the texts that repeat an earlier one."""
    seen: set[str] = set()
    again: list[str] = []
    for text in texts:
        if (known := normalised(text)) in seen:
            again.append(text)
        seen.add(known)
    return again


def join_shared(marks: Iterable[tuple[int, Hashable]]) -> dict[int, int]:
    """Return {number: the smallest number that it is joined to}: numbers are joined that share a mark,
    by themselves or through others (union-find).
    """
    parent: dict[int, int] = {}
    holder: dict[Hashable, int] = {}

    def root(number: int) -> int:
        while (above := parent.setdefault(number, number)) != number:
            parent[number] = number = parent[above]
        return number

    for number, mark in marks:
        low, high = sorted((root(number), root(holder.setdefault(mark, number))))
        parent[high] = low

    return {number: root(number) for number in sorted(parent)}
