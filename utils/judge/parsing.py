"""From what a judge said to a score, or to the reason why there is none."""

import math
import re
from collections.abc import Iterable

from traitscope.utils.model.thoughts import MARKS

# characters of an answer that are read, thoughts apart; one may have 2048 tokens, and some patterns take time
# that grows with the square of a text
LONGEST = 16_000
MIN_MASS = 0.25  # of the next token's probability, on whole numbers from 0 to 100
_NUMBER = r"[0-9]{1,3}(?:\.[0-9]+)?"
# said of the scale, not of the text
_RANGE = r"(?:from\s+|between\s+)?(?:0|1)\s*(?:-|–|—|to|and)\s*100"
_SCALE = re.compile(
    rf"[(\[]\s*{_RANGE}\s*[)\]]|(?:\b(?:on|using|with)\s+)?\b(?:a|the)\s+(?:scale\s+(?:of\s+)?{_RANGE}\b|{_RANGE}\s+scale\b),?"
    rf"|\b(?:from|between)\s+{_RANGE}\b|\s*(?:/|\bout of|\bof)\s*100\b|\s*%",
    re.IGNORECASE,
)
# a number that is no part of another, no bound and no negative
_WHOLE = (
    rf"(?<![\w.,<>~±−–—/+#-])(?<!minus )(?<!negative )({_NUMBER})"
    rf"(?![^\S\n]*(?:[-–—/~±²³°:]|,\s*[0-9]|to\b|out\b|or\b|e[0-9]))(?![\w.]*[0-9])(?!\+)"
)
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
_LAST = re.compile(rf"\W*(?:(?:final|overall|total|my|the|so)\W+)*{_NAMED}{_WHOLE}[^\w★☆⭐?]*", re.IGNORECASE)
_FINAL = re.compile(rf"\W*(?:final|overall)\W+{_NAMED}{_WHOLE}\W*", re.IGNORECASE)
# a last line that sums up, where no other score was named before it
_OVERALL = re.compile(rf"\W*(?:overall|(?:final\s+)?answer)\s*[:=]\s*{_WHOLE}[^\w★☆⭐?]*", re.IGNORECASE)
# a first line that is the score, with or without a word after it: "85 - clearly formal"
_FIRST = re.compile(
    rf"[^\w<>~±−–—★☆⭐-]*(?<!#)({_NUMBER})(?:[^\w²³°+★☆⭐?]*|\s*[-–—:(]\s*[^\W\d][^\d]*)", re.IGNORECASE
)
# what may follow the one number of a sentence: "5 stars" and "12 words" are no scores
_AFTER = re.compile(
    r"\s*(?:[.,;:!)\]}\"'»”…—–|]|$|\n|(?:points?|percent|because|since|as|for|given|overall|in total|here)\b)",
    re.IGNORECASE,
)
# the words that may stand before it in its sentence
_LEADS = frozenset(
    [
        "a",
        "about",
        "an",
        "and",
        "answer",
        "are",
        "around",
        "as",
        "assign",
        "at",
        "be",
        "d",
        "deserves",
        "estimate",
        "final",
        "for",
        "get",
        "gets",
        "give",
        "go",
        "here",
        "i",
        "in",
        "is",
        "it",
        "judge",
        "ll",
        "my",
        "of",
        "okay",
        "on",
        "overall",
        "put",
        "rate",
        "rated",
        "rating",
        "response",
        "result",
        "roughly",
        "s",
        "say",
        "score",
        "should",
        "so",
        "sure",
        "text",
        "that",
        "the",
        "then",
        "therefore",
        "think",
        "this",
        "thus",
        "to",
        "total",
        "trait",
        "value",
        "well",
        "will",
        "with",
        "would",
        "you",
        "approximately",
    ]
)
_STARS = re.compile(r"[★☆⭐]|\bstars?\b", re.IGNORECASE)  # another scale, written before its number
# a label before it, but for those of other quantities
_LABEL = re.compile(r"\W*[^\W\d][\w -]{0,30}\s*[:：=]\s*\W*")
_OTHERS = re.compile(
    r"confiden|probab|certain|likel|count|words?\b|tokens?\b|level|rule|step|page|line|chapter|section|http|code|version|max|min"
    r"|number|length|age|year|time|coheren|scale|error|threshold|previous",
    re.IGNORECASE,
)
# not this score, or not this text's
_DENIAL = re.compile(
    r"\b(?:not|n/a|cannot|no|never|far from|if|minus|negative)\b|n[’']t\b|\?"
    r"|\b(?:max|maximum|min|minimum|possible|highest|lowest|previous|threshold|hesitate)\b"
    r"|\b(?:asks|asked|says|said|claims|claimed|requests|demands|wants|tells|instructs|mentions|quotes)\b"
    r"|\b(?:less|more|lower|higher|greater|fewer) than\b|\bat (?:least|most)\b|\b(?:below|under|above|over|up to)\b",
    re.IGNORECASE,
)
_REVISED = re.compile(
    r"\bwait\b|\brevis|\bcorrect(?:ion|ed)|\bactually\b|\breconsider|\bon reflection\b", re.IGNORECASE
)
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

    Reads a bare number, JSON with a score (fenced, cut off after it, or followed by chatter), a value between
    tags, a sentence that names one score, or a last line that says nothing else; thoughts are left out. Two
    different numbers that might be the score, a range or a bound, a count, what the text says of itself, and a
    number that is cut off or off the scale are unparsable: a guess is worse than a gap.

    Args:
        is_cut: The text ended at a length limit, so that a number at its very end may be half a number.
    """
    said = _squeeze(_answer_in(text).strip())
    if len(said) > LONGEST:
        return None, "unparsable"
    numbers = _find_scores(re.sub(r"[0-9][0-9.]*$", "", said) if is_cut else said + "\n")
    if len(numbers) == 1 and is_on_scale(value := numbers.pop()):
        return value, "scored"
    return None, "refused" if _REFUSAL.search(said) else "unparsable"


def is_on_scale(value: float) -> bool:
    """Tell a score from 0 to 100; a fraction of 1 was given on another scale."""
    return value == 0 or 1 <= value <= 100


def _squeeze(text: str) -> str:
    """Shorten long runs of blanks and of empty lines: a model that is stuck can write thousands."""
    return re.sub(r"\n(?:[^\S\n]*\n){2,}", "\n\n", re.sub(r"[^\S\n]{8,}", " " * 8, text))


def _answer_in(text: str) -> str:
    """Return what was said after the last thought that was closed, up to where another begins."""
    lower = text.lower()
    closed = max((i + len(c) for _, c in MARKS if (i := lower.rfind(c.lower())) >= 0), default=0)
    starts = [lower.find(opens.lower(), closed) for opens, _ in MARKS]
    return text[closed : min((i for i in starts if i >= 0), default=len(text))]


def _find_scores(said: str) -> set[float]:
    exact = re.findall(r'"score"\s*:\s*(?:"([^"]*)"|([^\s"}\]]+))(?=[\s,"}\]])', said, re.IGNORECASE)
    keyed = [a or b for a, b in exact or _KEYED.findall(said)]
    tagged = ["".join(groups) for groups in _TAGGED.findall(said)]
    if keyed or tagged:
        return {_number_of(value) for value in keyed + tagged}

    plain = re.sub(r"```\w*\n?|\*\*|__|`", "", _SCALE.sub("", said)).strip()
    lines = [line for line in plain.split("\n") if line.strip()]
    if not lines:
        return set()
    if last := _FINAL.fullmatch(lines[-1]):
        return {float(last[1])}
    if (first := _FIRST.fullmatch(lines[0])) and _stands_alone(float(first[1]), lines[1:]):
        return {float(first[1])}

    named = set(map(float, _SAID.findall(plain)))
    if len(lines) > 1 and (sum_up := _OVERALL.fullmatch(lines[-1])):
        return named | {float(sum_up[1])}
    if len(named) == 1 and _says_it_clearly(lines):
        return named
    everything = re.findall(r"[0-9]+(?:[.,][0-9]+)*", plain)
    if _REFUSAL.search(plain) or _DENIAL.search(plain) or len(everything) != 1:
        return set()
    return _only_number(plain, is_named=bool(named))


def _number_of(value: str) -> float:
    """Return the number between quotes or tags, NaN for anything else."""
    match = _BARE.fullmatch(_SCALE.sub("", value))
    return float(match[1]) if match else math.nan


def _stands_alone(value: float, rest: list[str]) -> bool:
    """Tell whether the lines after a first line that is a score take nothing back and say no other one."""
    after = "\n".join(rest)
    bare = [float(m[1]) for line in rest if (m := _BARE.fullmatch(line))]
    return {*bare, *map(float, _SAID.findall(after))} <= {value} and not _REVISED.search(after)


def _only_number(plain: str, *, is_named: bool) -> set[float]:
    """Return the one number of a text that names it as the score, or of a short one that can mean nothing else."""
    match = re.search(_WHOLE, plain)
    if not match or not _AFTER.match(plain, match.end()) or _STARS.search(plain):
        return set()

    before = re.split(r"(?<=[.!?\n])\s+", plain[: match.start()])[-1]  # in the same sentence
    is_label = bool(_LABEL.fullmatch(before)) and not _OTHERS.search(before)
    words = re.findall(r"[^\W\d_]+", before.lower())
    is_lead = len(words) <= 10 and set(words) <= _LEADS
    return {float(match[1])} if is_named or is_label or is_lead else set()


def _says_it_clearly(lines: list[str]) -> bool:
    """Tell whether a text names one number as its score: alone in the last sentence or after its last comma, or
    in the first line, where no other number stands.
    """
    last = re.split(r"(?<=[.!?;…])\s+", lines[-1])[-1]
    if _LAST.fullmatch(last) or (_LAST.fullmatch(last.split(", ")[-1]) and not _DENIAL.search(last)):
        return True
    first = lines[0]
    return bool(
        _SAID.search(first)
        and len(re.findall(r"[0-9]+", first)) == 1
        and not _DENIAL.search(first)
        and not _REFUSAL.search(first)
        and _AFTER.match(first, _SAID.search(first).end())  # type: ignore[union-attr]
    )
