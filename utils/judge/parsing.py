"""From what a judge said to a score, or to the reason why there is none."""

import math
import re
from collections.abc import Iterable

MIN_MASS = 0.25  # of the next token's probability, on whole numbers from 0 to 100
_NUMBER = r"\d{1,3}(?:\.\d+)?"
_BARE = re.compile(rf"[^\w-]*({_NUMBER})\s*(?:/\s*100|%)?[^\w-]*")
_KEYED = re.compile(rf'"(?:\w*score|rating|value|answer)"\s*:\s*"?(-?{_NUMBER})(?=[^\d.])', re.IGNORECASE)
_SAID = re.compile(rf"\b(?:score|rating|grade)\b[^\w-]{{0,4}}(?:(?:is|of|would be|=)[^\w-]{{0,4}})?({_NUMBER})\b|\b({_NUMBER})\s*/\s*100\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bREFUSAL\b|\bI(?: am|['’]m) (?:sorry|unable|not able)|\bI (?:can(?:no|['’])t|cannot|will not|won['’]t|must decline)|as an AI\b", re.IGNORECASE
)


def weigh_tokens(candidates: Iterable[tuple[str, float]]) -> tuple[float | None, float]:
    """Return (Σ n·p / Σ p, Σ p) over the candidate first tokens that are whole numbers from 0 to 100; no value where Σ p is below 0.25.

    Args:
        candidates: (token, natural log-probability).
    """
    found = [(int(text), math.exp(logprob)) for token, logprob in candidates if is_score(text := token.strip())]
    mass = sum(p for _, p in found)
    return (min(100.0, sum(n * p for n, p in found) / mass) if mass >= MIN_MASS else None), mass


def is_score(text: str) -> bool:
    """Tell a whole number from 0 to 100 in its usual spelling."""
    return text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100 and str(int(text)) == text


def parse_text(text: str, is_cut: bool = False) -> tuple[float | None, str]:
    """Return (score, "scored"), or (None, "refused" or "unparsable").

    Reads a bare number, JSON with a score (fenced, cut off after it, or followed by chatter), or a sentence that names one score. Two
    different scores, or one that is cut off or off the scale, are unparsable: a guess is worse than a gap.

    Args:
        is_cut: The text ended at a length limit, so that a number at its very end may be half a number.
    """
    said = re.sub(r"(?s)<think>.*?(?:</think>|$)", "", text).strip()
    numbers = _find_scores(re.sub(r"(?:\d+\.)?\d+$", "", said) if is_cut else said + "\n")
    if len(numbers) == 1 and is_on_scale(value := numbers.pop()):
        return value, "scored"
    return None, "refused" if _REFUSAL.search(said) else "unparsable"


def is_on_scale(value: float) -> bool:
    """Tell a score from 0 to 100; a fraction of 1 was given on another scale."""
    return value == 0 or 1 <= value <= 100


def _find_scores(said: str) -> set[float]:
    if bare := _BARE.fullmatch(said):
        return {float(bare[1])}
    if keyed := _KEYED.findall(said):
        return set(map(float, keyed))
    if named := {float(a or b) for a, b in _SAID.findall(said)}:
        return named
    numbers = re.findall(r"-?\d+(?:\.\d+)?(?=\D)", said)
    is_plain = len(numbers) == 1 and len(said.split()) <= 12 and not _REFUSAL.search(said)
    return {float(numbers[0])} if is_plain else set()
