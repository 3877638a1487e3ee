"""Is a dataset whole: enough of everything, cleanly encoded, nothing twice, nothing left to fill in?"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from traitscope.extraction.audit.subject import Measure, Subject, words_of
from traitscope.utils.records.dataset_files import COMMENT
from traitscope.utils.records.texts import normalised, repeated

MIN_PAIRS = {"scenarios": 60, "instructions": 5, "answers": 60}
MIN_QUESTIONS = 20
NEAR = 0.7  # shared words / all words of two texts
BANDS = ("HIGH", "MID", "LOW")
UNFILLED = "[FILL IN"
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_SUSPECT = re.compile(r"[^\x00-\x7f]+")
_CYRILLIC_LEADS = "ÐÑÎÏÄÅ"


def count_pairs(subject: Subject) -> Measure:
    """Return how many complete pairs there are."""
    n, least = len(subject.pairs), MIN_PAIRS[subject.form]
    return Measure(n, least, n >= least, f"{n} pairs", f"write {least - n} more pairs", is_minimum=True)


def count_unpaired(subject: Subject) -> Measure:
    """Return how many texts have no partner on the other side."""
    pos, neg = subject.sides["pos"], subject.sides["neg"]
    alone = sorted(pos.keys() ^ neg.keys())
    detail = f"pos {len(pos)}, neg {len(neg)}"

    return Measure(
        len(alone),
        0,
        not alone,
        detail,
        f"give every line its mirror on the other side, or blank it: {subject.name_lines(alone)} stand alone",
    )


def count_questions(subject: Subject) -> Measure:
    """Return how many different questions steering is evaluated on."""
    n = len({normalised(q) for q in subject.dataset.questions})
    advice = (
        f"add {MIN_QUESTIONS - n} neutral questions to 'questions' (steering.json), answerable either way: "
        "two fifths choose the dose, three fifths report"
    )
    return Measure(n, MIN_QUESTIONS, n >= MIN_QUESTIONS, f"{n} for evaluation", advice, is_minimum=True)


def count_extraction_questions(subject: Subject) -> Measure:
    """Return how many different questions every instruction meets."""
    n = len({normalised(q) for q in subject.asked})
    return Measure(
        n,
        MIN_QUESTIONS,
        n >= MIN_QUESTIONS,
        f"{n} for extraction",
        f"add {MIN_QUESTIONS - n} to 'questions'",
        is_minimum=True,
    )


def count_question_overlap(subject: Subject) -> Measure:
    """Return how many evaluation questions the vector was already extracted with."""
    _, both = subject.dataset.split_used(subject.dataset.questions)
    advice = (
        "evaluate on questions that extraction has not used (trait_definition_eval.json or steering.json): "
        f"{_quote(both)}"
    )

    return Measure(
        len(both),
        0,
        not both,
        f"{len(both)} of {len(subject.dataset.questions)} evaluation questions",
        advice,
    )


def count_question_duplicates(subject: Subject) -> Measure:
    """Return how many questions repeat an earlier one, of evaluation or of extraction."""
    twice = [q for questions in (subject.dataset.questions, subject.asked) for q in repeated(questions)]
    return Measure(len(twice), 0, not twice, advice=f"replace what is asked twice: {_quote(twice)}")


def count_bad_characters(subject: Subject) -> Measure:
    """Return how many lines hold what no author typed: mojibake, replacement or control characters, a
    byte order mark inside.
    """
    bad = [
        f"{name} line {number} ({what})"
        for name, text in subject.files.items()
        for number, what in bad_lines(text)
    ]
    return Measure(
        len(bad),
        0,
        not bad,
        advice=f"retype, or save again as UTF-8: {'; '.join(bad[:6])}{' …' if len(bad) > 6 else ''}",
    )


def bad_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, what is wrong) of a text's badly encoded lines; JSON's \\u escapes are looked
    into.
    """
    for number, line in enumerate(text.split("\n"), 1):
        shown = _ESCAPE.sub(lambda m: chr(int(m[1], 16)), line)
        if what := _bad_character(shown):
            yield number, what


def _bad_character(text: str) -> str | None:
    for character in text:
        if character == "\ufffd":
            return "replacement character U+FFFD"
        if character in "\ufeff\u200b":
            return f"invisible U+{ord(character):04X}"
        if unicodedata.category(character) == "Cc" and character not in "\t\r":
            return f"control character U+{ord(character):04X}"
    return next((f"mojibake {run[0][:12]!r}" for run in _SUSPECT.finditer(text) if is_mojibake(run[0])), None)


def is_mojibake(run: str) -> bool:
    """Tell whether a run of non-ASCII characters is UTF-8 read in a Western code page ("â€™" for an
    apostrophe).
    """
    data = b"".join(_western(c) for c in run)
    found = re.findall(rb"[\xc2\xc3][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", data)
    others = re.findall(rb"(?:[\xc4-\xdf][\x80-\xbf]){2,}", data) if run[0] in _CYRILLIC_LEADS else []
    return any(_is_utf8(part) for part in [*found, *others])


def _western(character: str) -> bytes:
    for codec in ("cp1252", "latin-1"):
        try:
            return character.encode(codec)
        except UnicodeEncodeError:
            continue
    return b" "


def _is_utf8(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def count_duplicates(subject: Subject) -> Measure:
    """Return how many texts repeat an earlier one of their side, apart from case, spacing and the signs around
    them."""
    repeats = {side: _repeats(texts) for side, texts in subject.sides.items()}
    total = sum(map(len, repeats.values()))
    named = "; ".join(f"{side} {subject.name_lines(numbers)}" for side, numbers in repeats.items() if numbers)
    return Measure(total, 0, not total, advice=f"rewrite the repeated {named}")


def _repeats(texts: dict[int, str]) -> list[int]:
    first = {normalised(text): number for number, text in reversed(texts.items())}
    return [number for number, text in texts.items() if first[normalised(text)] != number]


def count_near_duplicates(subject: Subject) -> Measure:
    """Return how many pairs of texts within a side share most of their words: a template with a word
    exchanged counts once, not twice.
    """
    near = [(side, a, b) for side, texts in subject.sides.items() for a, b in near_duplicates(texts)]
    named = ", ".join(f"{side} {a} and {b}" for side, a, b in near[:5])
    advice = f"rewrite one of each: lines {named}{f' … ({len(near)} in all)' if len(near) > 5 else ''}"
    return Measure(len(near), 0, not near, f"texts that share over {NEAR:.0%} of their words", advice)


def near_duplicates(texts: dict[int, str]) -> list[tuple[int, int]]:
    """Return the numbers of every two different texts that share more than `NEAR` of all their words
    (Jaccard).
    """
    numbers, kept = list(texts), [words_of(text) or ["\0"] for text in texts.values()]
    has = CountVectorizer(analyzer=lambda words: words, binary=True, dtype=np.float32).fit_transform(kept)
    shared = np.asarray((has @ has.T).todense())
    sizes = np.diag(shared)
    close = shared > NEAR * (sizes[:, None] + sizes[None, :] - shared)

    return [
        (numbers[i], numbers[j])
        for i, j in np.argwhere(np.triu(close, 1))
        if normalised(texts[numbers[i]]) != normalised(texts[numbers[j]])
    ]


def count_identical_sides(subject: Subject) -> Measure:
    """Return how many texts stand on both sides."""
    pos, neg = (
        {normalised(text): number for number, text in subject.sides[side].items()} for side in ("pos", "neg")
    )
    both = sorted({number for text in pos.keys() & neg.keys() for number in (pos[text], neg[text])})
    count = len(pos.keys() & neg.keys())

    return Measure(
        count,
        0,
        not both,
        advice=f"a text on both sides contrasts nothing: rewrite {subject.name_lines(both)}",
    )


def count_bands(subject: Subject) -> Measure:
    """Return how many of the bands HIGH, MID and LOW the definition describes; without a definition, an eval
    prompt does for all.
    """
    definition = subject.dataset.rubric.definition
    found = [band for band in BANDS if re.search(rf"\b{band}\b", definition)]
    if not definition and subject.dataset.rubric.eval_prompt:
        return Measure(len(BANDS), len(BANDS), True, "the eval prompt defines the trait", is_minimum=True)
    advice = (
        "describe in definition.txt what a score of each band looks like; missing: "
        f"{', '.join(b for b in BANDS if b not in found)}"
    )
    return Measure(len(found), len(BANDS), len(found) == len(BANDS), " ".join(found), advice, is_minimum=True)


def count_unfilled(subject: Subject) -> Measure:
    """Return how many lines still hold a template's placeholder."""
    left = {
        name: [i for i, line in _own_lines(text) if UNFILLED in line] for name, text in subject.files.items()
    }
    named = "; ".join(
        f"{name} lines {', '.join(map(str, numbers))}" for name, numbers in left.items() if numbers
    )
    count = sum(map(len, left.values()))

    return Measure(count, 0, not count, advice=f"replace every {UNFILLED} …] by your own words: {named}")


def _own_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((i, line) for i, line in enumerate(text.split("\n"), 1) if not line.startswith(COMMENT))


def _quote(texts: Sequence[str]) -> str:
    return ", ".join(repr(t[:50]) for t in texts[:3]) + (
        f" … ({len(texts)} in all)" if len(texts) > 3 else ""
    )
