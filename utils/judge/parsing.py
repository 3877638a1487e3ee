"""From what a judge said to a score, or to the reason why there is none."""

import math
import re
from collections.abc import Iterable

MIN_MASS = 0.25  # of the next token's probability, on whole numbers from 0 to 100
_NUMBER = r"[0-9]{1,3}(?:\.[0-9]+)?"
# said of the scale, not of the text
_SCALE = re.compile(r"\(\s*(?:0|1)\s*(?:-|–|—|to)\s*100\s*\)|\s*(?:/|\bout of)\s*100\b|\s*%", re.IGNORECASE)
_WHOLE = rf"(?<![\w.,<>~±−–—/-])({_NUMBER})(?!\s*(?:[-–—/~±²³°:]|,\s*[0-9]|to\b|out\b|or\b|e[0-9]))(?![\w.]*[0-9])"  # a number that is no part of another
_BARE = re.compile(rf"[^\w<>~±−–—-]*({_NUMBER})[^\w²³°]*")
_KEYED = re.compile(
    r'"(?:\w*score|rating|value|answer)"\s*:\s*(?:"([^"]*)"|([^\s"}\]]+))(?=[\s,"}\]])', re.IGNORECASE
)
_SAID = re.compile(rf"\b(?:score|rating)\b(?:\s*(?:is|=|:|of)|\*|:|\s)*{_WHOLE}", re.IGNORECASE)
_DENIAL = re.compile(r"\bnot\b|n[’']t\b|\bn/a\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bREFUSAL\b|\bI(?: am|['’]m) (?:sorry|unable|not able)|as an AI\b"
    r"|\bI (?:can(?:no|['’])t|cannot|will not|won['’]t|must decline|refuse|decline)",
    re.IGNORECASE,
)


def weigh_tokens(candidates: Iterable[tuple[str, float]]) -> tuple[float | None, float]:
    """Return (Σ n·p / Σ p, Σ p) over the candidate first tokens that are whole numbers from 0 to 100; no
    value where Σ p is below 0.25.

    Args:
        candidates: (token, natural log-probability).
    """
    found = [
        (int(text), math.exp(logprob)) for token, logprob in candidates if is_score(text := token.strip())
    ]
    mass = sum(p for _, p in found)
    return (min(100.0, sum(n * p for n, p in found) / mass) if mass >= MIN_MASS else None), mass


def is_score(text: str) -> bool:
    """Tell a whole number from 0 to 100 in its usual spelling."""
    return (
        text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 100 and str(int(text)) == text
    )


def parse_text(text: str, is_cut: bool = False) -> tuple[float | None, str]:
    """Return (score, "scored"), or (None, "refused" or "unparsable").

    Reads a bare number, JSON with a score (fenced, cut off after it, or followed by chatter), or a sentence
    that names one score. Two different numbers that might be the score, a range, one that is cut off or off
    the scale are unparsable: a guess is worse than a gap.

    Args:
        is_cut: The text ended at a length limit, so that a number at its very end may be half a number.
    """
    said = re.sub(r"(?s)^.*</think>|<think>.*$", "", text).strip()
    numbers = _find_scores(re.sub(r"[0-9][0-9.]*$", "", said) if is_cut else said + "\n")
    if len(numbers) == 1 and is_on_scale(value := numbers.pop()):
        return value, "scored"
    return None, "refused" if _REFUSAL.search(said) else "unparsable"


def is_on_scale(value: float) -> bool:
    """Tell a score from 0 to 100; a fraction of 1 was given on another scale."""
    return value == 0 or 1 <= value <= 100


def _find_scores(said: str) -> set[float]:
    if keyed := _KEYED.findall(said):
        return {
            float(m[1]) if (m := _BARE.fullmatch(_SCALE.sub("", a or b))) else float("nan") for a, b in keyed
        }

    plain = _SCALE.sub("", said)
    if bare := _BARE.fullmatch(plain) or _BARE.fullmatch(plain.split("\n\n")[0]):
        return {float(bare[1])}
    if _REFUSAL.search(plain):
        return set()

    everything = re.findall(r"[0-9]+(?:[.,][0-9]+)*", plain)
    named = re.findall(_SAID, plain)
    is_short = len(plain.split()) <= 12
    if len(everything) == 1 and not _DENIAL.search(plain) and (named or is_short):
        return set(map(float, re.findall(_WHOLE, plain)))

    # several numbers: the one that is named as the score in the first line, if all that are named agree
    first = re.findall(_SAID, plain.strip().split("\n")[0])
    is_clear = (
        len(set(named)) == 1 and first and len(re.findall(r"[0-9]+", plain.strip().split("\n")[0])) == 1
    )
    return set(map(float, named)) if is_clear and not _DENIAL.search(plain.split("\n")[0]) else set()
