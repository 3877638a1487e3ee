"""The stored texts of a trait that two judges are compared on."""

import random
import re
from dataclasses import dataclass
from typing import Literal

from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Answer
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.responses import answers_of, read_responses
from traitscope.utils.records.verdict import read_texts

Source = Literal["responses", "steering"]
_ONE_OF_MANY = re.compile(r" [0-9]+ (?:plus|minus)$")


@dataclass(frozen=True)
class StoredText:
    """An answer that an experiment holds."""

    key: str
    arm: str  # the side in stage 1; in stage 5 the arm, all random directions being one, and all shuffles
    group: int  # texts of one group share a topic
    answer: Answer


def stored_texts(paths: TraitPaths, dataset: TraitDataset, source: Source) -> list[StoredText]:
    """Return stage 1's responses ("responses") or stage 5's answers to its test questions ("steering").

    Raises:
        UserError: they are missing or damaged.
    """
    if source == "responses":
        rows = read_responses(paths)
        return [
            StoredText(r.key, r.side, r.group, answer)
            for r, answer in zip(rows, answers_of(dataset, rows), strict=True)
        ]

    written = read_texts(paths, "test")
    groups = {question: i for i, question in enumerate(dict.fromkeys(t.question for t in written))}
    return [
        StoredText(
            f"{t.arm}:{groups[t.question]}", pooled(t.arm), groups[t.question], Answer(t.question, t.response)
        )
        for t in written
    ]


def pooled(arm: str) -> str:
    """Return what an arm counts as: "random 3 plus" is one of "random", "vector plus" is itself."""
    return _ONE_OF_MANY.sub("", arm)


def take_sample(texts: list[StoredText], n: int) -> list[StoredText]:
    """Return n texts, evenly over the arms as far as these go, arm by arm in the order of their keys; 0 is all."""
    if not n or n >= len(texts):
        return texts

    rng = random.Random(0)
    arms = list(dict.fromkeys(t.arm for t in texts))
    chosen: list[StoredText] = []
    for i, arm in enumerate(arms):
        own = [t for t in texts if t.arm == arm]
        share = n // len(arms) + (i < n % len(arms))
        chosen += sorted(rng.sample(own, min(len(own), share)), key=lambda t: t.key)
    return chosen
