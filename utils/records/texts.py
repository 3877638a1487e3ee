"""When two texts count as one: the only place that says so."""

import unicodedata
from collections.abc import Iterable, Sequence

EDGE = " .,;:!?¿¡…-‐‑‒–—―'\"`´‘’‚‛“”„‟«»‹›()[]{}<>*_。、「」『』"


def normalised(text: str) -> str:
    """Return a text as it is compared with others: without case, compatibility forms, extra white space,
    and the punctuation and quotes around it.

    A text of nothing but those keeps its signs. Twice the same as once.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    return unicodedata.normalize("NFKC", words.strip(EDGE)) or words


def join_shared(texts: Sequence[Iterable[str]]) -> list[int]:
    """Return for every entry the index of the first one that it is joined to: entries are joined that
    share a text, itself or through others (union-find over normalised texts).
    """
    first = list(range(len(texts)))
    seen: dict[str, int] = {}

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = i = first[first[i]]
        return i

    for i, own in enumerate(texts):
        for text in map(normalised, own):
            a, b = sorted((root(i), root(seen.setdefault(text, i))))
            first[b] = a

    return [root(i) for i in range(len(texts))]
