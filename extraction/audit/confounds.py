"""Do the two sides differ in anything but the trait?

Every check fails only if the difference is both large and no accident. Large: this one feature alone would
tell the sides apart clearly better than a coin (the thresholds below). No accident: swapping the two sides
within pairs at random (which is what "no difference" means for mirrored pairs) seldom gives as much. Few
pairs can prove little, so for them it is enough that nearly all point the same way.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from transformers import AutoTokenizer

from traitscope.extraction.audit.subject import Measure, Subject, plain, words_of
from traitscope.extraction.audit.swaps import is_significant, p_value, swap_sides, tell_apart
from traitscope.utils.model.gguf import EMBEDDED
from traitscope.utils.model.loading import resolve_source

# 57 % of the texts told apart by length alone; 5 % of the length where lines are alike, 10 % where they vary
MAX_LENGTH_D = 0.35
MAX_SHIFT = 0.2  # a feature of one text in five more on one side than on the other tells 60 % apart
MAX_DISTANCE = 0.1  # beyond chance: about one text in five begins with a word of its side
MAX_STRAY = 0.02
MAX_WORDS_ACCURACY = 0.65
MAX_AT_ONE_END = 0.8
MARKS = {
    **{
        "comma": "[,、]",
        "semicolon": ";",
        "colon": ":",
        "full stop": r"(?<!\.)\.(?!\.)|。",
        "ellipsis": r"\.\.\.",
        "exclamation mark": "!",
    },
    **{
        "dash": "[—–]| - ",
        "quotation mark": '["“”„«»「」]',
        "apostrophe": r"(?<=\w)'(?=\w)",
        "bracket": r"[()\[\]{}]",
        "list or heading": r"(?m)^\s*(?:[-*#]|\d+[.)])",
    },
}


def check_words(subject: Subject) -> Measure:
    """Compare the sides' lengths in words."""
    return _compare_lengths(subject, "words", lambda text: len(words_of(text)))


def check_tokens(subject: Subject) -> Measure:
    """Compare the sides' lengths in tokens of the embedded model."""
    return _compare_lengths(
        subject, "tokens", lambda text: len(_tokenizer()(text, add_special_tokens=False).input_ids)
    )


@cache
def _tokenizer():
    return AutoTokenizer.from_pretrained(resolve_source(EMBEDDED))


def _compare_lengths(subject: Subject, unit: str, length: Callable[[str], int]) -> Measure:
    """Return standardised difference: mean difference / pooled standard deviation, the latter taken as 15
    to 30 % of the mean length.
    """
    lengths = np.array([[length(pair.pos), length(pair.neg)] for pair in subject.pairs], dtype=float)
    pos, neg = lengths.mean(0)
    difference = lengths[:, 0] - lengths[:, 1]
    spread = np.clip(np.sqrt(lengths.var(0, ddof=1).mean()), 0.15 * lengths.mean(), 0.3 * lengths.mean())
    d = float(difference.mean() / max(spread, 1e-9))
    p = p_value(abs(difference.sum()), swap_sides(difference[:, None], lambda sums: np.abs(sums[:, 0])))
    longer = "pos" if d > 0 else "neg"
    worst = [subject.pairs[i].number for i in np.argsort(-difference * np.sign(d))[:8]]
    advice = f"shorten the {longer} side or lengthen the other, first in {subject.name_lines(worst)}"
    detail = f"mean {pos:.1f} {unit} pos, {neg:.1f} neg ({pos / max(neg, 1e-9) - 1:+.0%}, p {p:.3f})"

    return Measure(
        abs(d),
        MAX_LENGTH_D,
        not (abs(d) > MAX_LENGTH_D and is_significant(p, len(difference))),
        detail,
        advice,
    )


def check_punctuation(subject: Subject) -> Measure:
    """Find the mark that most pairs have more of on the same side."""
    counts = [
        [[len(re.findall(mark, plain(text))) for mark in MARKS.values()] for text in (pair.pos, pair.neg)]
        for pair in subject.pairs
    ]
    return _most_lopsided(
        subject, np.array(counts), list(MARKS), MAX_SHIFT, "use the mark on both sides, or on neither"
    )


def check_question_marks(subject: Subject) -> Measure:
    """Look for questions on one side only."""
    counts = [[[plain(text).count("?")] for text in (pair.pos, pair.neg)] for pair in subject.pairs]
    return _most_lopsided(
        subject, np.array(counts), ["question mark"], MAX_SHIFT, "ask on both sides, or on neither"
    )


def _most_lopsided(
    subject: Subject, counts: np.ndarray, names: Sequence[str], threshold: float, what: str
) -> Measure:
    """Share of pairs with more of a feature on pos, less the share with more on neg, of the feature where
    it is largest.

    The null is that of the largest as well, so that many features do not make a find likelier.

    Args:
        counts: [n_pairs, 2, n_features]
    """
    signs = np.sign(counts[:, 0] - counts[:, 1])
    shift = signs.mean(0)
    best = int(np.abs(shift).argmax())
    p = p_value(abs(signs[:, best].sum()), swap_sides(signs, lambda sums: np.abs(sums).max(1)))
    number, side = float(abs(shift[best])), "pos" if shift[best] > 0 else "neg"
    more = float((signs[:, best] == np.sign(shift[best])).mean())
    less = float((signs[:, best] == -np.sign(shift[best])).mean())
    also = [
        f"{names[i]} ({shift[i]:+.0%})"
        for i in np.argsort(-np.abs(shift))
        if i != best and abs(shift[i]) > threshold
    ]
    rest = f"; also {', '.join(also[:5])}" if also else ""  # so that accepting one hides no other
    detail = (
        f"{names[best]}: more on {side} in {more:.0%} of pairs, less in {less:.0%} (p {p:.3f}){rest}"
        if number
        else "none"
    )
    lines = [
        pair.number
        for pair, sign in zip(subject.pairs, signs[:, best], strict=True)
        if sign == np.sign(shift[best])
    ]

    return Measure(
        number,
        threshold,
        not (number > threshold and is_significant(p, len(signs))),
        detail,
        f"{what}: {subject.name_lines(lines)}",
    )


def check_first_words(subject: Subject) -> Measure:
    """Compare how the sides begin."""
    return _compare_words(subject, 0, "begin")


def check_last_words(subject: Subject) -> Measure:
    """Compare how the unfinished prompts end: the response starts there."""
    return _compare_words(subject, -1, "end")


def _compare_words(subject: Subject, at: int, verb: str) -> Measure:
    """Return total variation distance between the sides' distributions of one word, less what random swaps of
    the sides give.
    """
    ends = [tuple((words or [""])[at] for words in pair) for pair in subject.words]
    vocabulary = {word: i for i, word in enumerate(sorted({word for pair in ends for word in pair}))}
    differences = np.zeros((len(ends), len(vocabulary)))

    for row, (pos, neg) in enumerate(ends):
        differences[row, vocabulary[pos]] += 1
        differences[row, vocabulary[neg]] -= 1

    distance = np.abs(differences.sum(0)).sum() / 2 / len(ends)
    null = swap_sides(differences, lambda sums: np.abs(sums).sum(1) / 2 / len(ends))
    excess, p = max(0.0, float(distance - null.mean())), p_value(distance, null)
    word = list(vocabulary)[int(np.abs(differences.sum(0)).argmax())]
    times = [sum(pair[side] == word for pair in ends) for side in (0, 1)]
    lines = [
        pair.number for pair, two in zip(subject.pairs, ends, strict=True) if word in two and two[0] != two[1]
    ]
    detail = (
        (
            f"distance {distance:.2f}, {null.mean():.2f} by chance (p {p:.3f}); {word!r}: {times[0]} pos, "
            f"{times[1]} neg"
        )
        if distance
        else "the same on both sides"
    )
    passed = not (excess > MAX_DISTANCE and is_significant(p, len(ends)))
    return Measure(
        excess,
        MAX_DISTANCE,
        passed,
        detail,
        f"let both sides {verb} alike; first {word!r} in {subject.name_lines(lines)}",
    )


def check_topics(subject: Subject) -> Measure:
    """Share of pairs whose mirror is not among the nearest tenth of the other side, by sentence
    embedding, seen from either of the two.
    """
    from traitscope.utils.judge.sentences import embed  # sentence-transformers takes four seconds to import

    nearness = embed([pair.pos for pair in subject.pairs]) @ embed([pair.neg for pair in subject.pairs]).T
    own = np.diag(nearness)
    others = max(len(own) - 1, 1)
    closer = np.maximum((nearness > own[:, None]).sum(1), (nearness > own[None, :]).sum(0)) / others
    stray = [pair.number for pair, share in zip(subject.pairs, closer, strict=True) if share > 0.1]
    between = (nearness.sum() - own.sum()) / max(len(own) * others, 1)
    detail = (
        f"distance {1 - own.mean():.2f} within pairs, {1 - between:.2f} "
        f"between{f'; strays: {subject.name_lines(stray)}' if stray else ''}"
    )
    advice = f"the two sides are about different things: mirror the topic in {subject.name_lines(stray)}"
    return Measure(len(stray) / len(own), MAX_STRAY, len(stray) <= MAX_STRAY * len(own), detail, advice)


def check_common_words(subject: Subject) -> Measure:
    """Measure how well words that are not the contrast tell the sides of unseen pairs apart.

    Common words are those that stand on both sides of two pairs or more: function words and topics, which a
    mirrored pair shares. The words of the definition are the trait's own and left out, and so is the last
    word of a scenario, which has a check of its own.
    """
    differences, vocabulary = _word_differences(subject, is_common=True)
    accuracy, null = tell_apart(differences)
    p = p_value(accuracy, null)
    shift = differences.mean(0) if len(vocabulary) else np.zeros(0)
    telling = [
        f"{vocabulary[i]!r} ({'pos' if shift[i] > 0 else 'neg'} {abs(shift[i]):.0%})"
        for i in np.argsort(-np.abs(shift))[:5]
    ]
    detail = f"{accuracy:.0%} of unseen pairs told apart by {len(vocabulary)} words (p {p:.3f})"
    advice = f"use these words alike on both sides: {', '.join(telling)}"

    return Measure(
        accuracy,
        MAX_WORDS_ACCURACY,
        not (accuracy > MAX_WORDS_ACCURACY and is_significant(p, len(differences))),
        detail,
        advice,
    )


def check_marker_words(subject: Subject) -> Measure:
    """Return the word, not of the definition, that most pairs have on the same side: a contrast should
    not hang on one word.
    """
    differences, vocabulary = _word_differences(subject, is_common=False)
    if not len(vocabulary):
        return Measure(0.0, MAX_SHIFT, True, "none")
    counts = np.stack([differences, np.zeros_like(differences)], 1)
    what = "say it in other words, or name the word in the definition if it is the trait itself"
    return _most_lopsided(subject, counts, [repr(word) for word in vocabulary], MAX_SHIFT, what)


def _word_differences(subject: Subject, *, is_common: bool) -> tuple[np.ndarray, list[str]]:
    """Return presence in pos − presence in neg [n_pairs, n_words], and the words, less the trait's own."""
    end = -1 if subject.form == "scenarios" else None
    texts = [words[:end] for pair in subject.words for words in pair]
    counter = CountVectorizer(
        analyzer=lambda words: set(words) or {"\0"}, max_features=3000, dtype=np.float32
    )
    has = counter.fit_transform(texts).toarray().reshape(len(subject.pairs), 2, -1)
    words, own = list(counter.get_feature_names_out()), own_words(subject.dataset.rubric.definition)
    shared = (has.min(1).sum(0) >= 2) if is_common else np.ones(len(words), bool)
    kept = [i for i, word in enumerate(words) if shared[i] and stem(word) not in own]

    return has[:, 0, kept] - has[:, 1, kept], [words[i] for i in kept]


def own_words(definition: str) -> set[str]:
    """Return the stems of the words that the definition describes the trait with; what any English text
    is made of is not among them.
    """
    return {stem(word) for word in words_of(definition) if word not in ENGLISH_STOP_WORDS}


def stem(word: str) -> str:
    """Return a word's first five letters: crude, and it holds optimism and optimistic together."""
    return word[:5]


def check_contrast_start(subject: Subject) -> Measure:
    """Share of pairs that differ from the very first word on."""
    starts = [_shared_start(pos, neg) for pos, neg in subject.words]
    first = [pair.number for pair, start in zip(subject.pairs, starts, strict=True) if start == 0]
    where = np.median(
        [start / max(len(pos), 1) for start, (pos, _) in zip(starts, subject.words, strict=True)]
    )
    advice = f"begin both sides alike and let the contrast come later: {subject.name_lines(first)}"
    return _at_one_end(subject, first, f"the sides part at {where:.0%} of the line (median)", advice)


def check_contrast_end(subject: Subject) -> Measure:
    """Share of pairs that differ in the last word only."""
    last = [
        p.number
        for p, (pos, neg) in zip(subject.pairs, subject.words, strict=True)
        if pos != neg and pos[:-1] == neg[:-1]
    ]
    advice = (
        "one word at the end is all the contrast there is, and the vector may be that word: let it begin "
        f"earlier in {subject.name_lines(last)}"
    )
    return _at_one_end(
        subject, last, f"{len(last)} of {len(subject.pairs)} differ in the last word only", advice
    )


def _at_one_end(subject: Subject, numbers: list[int], detail: str, advice: str) -> Measure:
    share = len(numbers) / len(subject.pairs)
    return Measure(share, MAX_AT_ONE_END, share <= MAX_AT_ONE_END, detail, advice)


def _shared_start(pos: list[str], neg: list[str]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(pos, neg, strict=False)) if a != b), min(len(pos), len(neg))
    )
