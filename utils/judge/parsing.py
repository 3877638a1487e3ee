"""From what a judge said to a score, or to the reason why there is none."""

import math
import re
from collections.abc import Iterable

from traitscope.utils.model.thoughts import MARKS, without_thoughts

MIN_MASS = 0.25  # of the next token's probability, on whole numbers from 0 to 100
_NUMBER = r"[0-9]{1,3}(?:\.[0-9]+)?"
# said of the scale, not of the text
_RANGE = r"(?:from\s+|between\s+)?(?:0|1)\s*(?:-|–|—|to|and)\s*100"
_SCALE = re.compile(
    rf"\(\s*{_RANGE}\s*\)|(?:\bon\s+)?\b(?:a|the)\s+(?:scale\s+(?:of\s+)?{_RANGE}\b|{_RANGE}\s+scale\b),?|\b(?:from|between)\s+{_RANGE}\b|\s*(?:/|\bout of)\s*100\b|\s*%",
    re.IGNORECASE,
)
_WHOLE = rf"(?<![\w.,<>~±−–—/-])({_NUMBER})(?![^\S\n]*(?:[-–—/~±²³°:]|,\s*[0-9]|to\b|out\b|or\b|e[0-9]))(?![\w.]*[0-9])"  # a number that is no part of another
_BARE = re.compile(rf"[^\w<>~±−–—-]*({_NUMBER})[^\w²³°]*")
_KEYED = re.compile(
    r'"(?:\w*score|rating|value|answer)"\s*:\s*(?:"([^"]*)"|([^\s"}\]]+))(?=[\s,"}\]])', re.IGNORECASE
)
# the same between tags, as some prompts and models have it
_TAGGED = re.compile(
    r"<(?:\w*score|rating|value|answer|result)>([^<]*)</|\\boxed\{([^}]*)\}|\[\[([^\]]*)\]\]|\[(?:RESULT|SCORE)\]\s*(\S+)",
    re.IGNORECASE,
)
_NAMED = r"\b(?:score|rating)\b(?:\s*(?:is|=|:|of)|\*|:|\s)*"
_SAID = re.compile(_NAMED + _WHOLE, re.IGNORECASE)
# a last line that says the score and nothing else
_LAST = re.compile(rf"\W*(?:(?:final|overall|total|my|the|so)\W+)*{_NAMED}{_WHOLE}\W*", re.IGNORECASE)
# what may follow the one number of a sentence: "5 stars" and "12 words" are no scores
_AFTER = re.compile(
    r"\s*(?:[^\w\s]|$|\n|(?:points?|percent|because|since|as|for|given|overall|in total|here)\b)",
    re.IGNORECASE,
)
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
    said = _answer_in(text).strip()
    numbers = _find_scores(re.sub(r"[0-9][0-9.]*$", "", said) if is_cut else said + "\n")
    if len(numbers) == 1 and is_on_scale(value := numbers.pop()):
        return value, "scored"
    return None, "refused" if _REFUSAL.search(said) else "unparsable"


def is_on_scale(value: float) -> bool:
    """Tell a score from 0 to 100; a fraction of 1 was given on another scale."""
    return value == 0 or 1 <= value <= 100


def _answer_in(text: str) -> str:
    """Return what was said after the thoughts, up to where another begins."""
    said = without_thoughts(text)
    starts = [said.lower().find(opens.lower()) for opens, _ in MARKS]
    return said[: min((i for i in starts if i >= 0), default=len(said))]


def _find_scores(said: str) -> set[float]:
    keyed = [a or b for a, b in _KEYED.findall(said)]
    tagged = ["".join(groups) for groups in _TAGGED.findall(said)]
    if keyed or tagged:
        return {_number_of(value) for value in keyed + tagged}

    plain = re.sub(r"\*\*|__|`", "", _SCALE.sub("", said))
    if bare := _BARE.fullmatch(plain) or _BARE.fullmatch(plain.split("\n\n")[0]):
        return {float(bare[1])}
    if _REFUSAL.search(plain):
        return set()

    everything = re.findall(r"[0-9]+(?:[.,][0-9]+)*", plain)
    named = set(map(float, _SAID.findall(plain)))
    if len(everything) == 1 and not _DENIAL.search(plain):
        return _only_number(plain, is_named=bool(named))
    return named if len(named) == 1 and _says_it_clearly(plain) else set()


def _number_of(value: str) -> float:
    """Return the number between quotes or tags, NaN for anything else."""
    match = _BARE.fullmatch(_SCALE.sub("", value))
    return float(match[1]) if match else math.nan


def _only_number(plain: str, *, is_named: bool) -> set[float]:
    """Return the one number of a text that names it as the score, or of a short one that counts nothing with
    it.
    """
    match = re.search(_WHOLE, plain)
    if not match or not _AFTER.match(plain, match.end()):
        return set()
    return {float(match[1])} if is_named or len(plain.split()) <= 12 else set()


def _says_it_clearly(plain: str) -> bool:
    """Tell whether a text with several numbers names one as its score: alone in the last line, or in the first
    line where no other number stands.
    """
    lines = plain.strip().split("\n")
    first = lines[0]
    begins = _SAID.search(first) and len(re.findall(r"[0-9]+", first)) == 1 and not _DENIAL.search(first)
    return bool(_LAST.fullmatch(lines[-1]) or begins)
