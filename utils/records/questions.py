"""What is asked: a trait's own questions, split once, by hash: dev chooses the dose, test is what is reported. And the
pool of neutral questions, for a trait whose own are too few, or were used.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import question_pool
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.dataset_files import is_text, read_object
from traitscope.utils.records.texts import normalised, repeated

LEAST = 200  # questions that a pool must have
DEV_SHARE = 40  # percent
FILLED_TO = 12  # questions of each part, where the trait's own are fewer


def read_pool(root: Path) -> list[str]:
    """Read the neutral questions, in order: topics take turns, so that the first few are of many.

    Args:
        root: The folder that holds datasets/; one without a pool has this checkout's.

    Raises:
        UserError: the pool is no JSON, or has too few questions, one that is no text, or one twice.
    """
    path = question_pool(root)
    questions = read_object(path, "questions").get("questions")
    if not isinstance(questions, list) or not all(map(is_text, questions)):
        raise UserError(f"{path} must have a list 'questions' of texts that are not empty")

    if twice := repeated(questions):
        raise UserError(f"{path} asks {twice[0]!r:.80} twice; delete one")
    if len(questions) < LEAST:
        raise UserError(f"{path} has {len(questions)} questions; a pool needs at least {LEAST}")
    return questions


@dataclass(frozen=True)
class Questions:
    """The questions of an evaluation, and where they come from."""

    dev: list[str]
    test: list[str]
    from_pool: dict[str, int] = field(default_factory=dict)  # how many of each part are of the shipped pool
    left_out: list[str] = field(default_factory=list)  # the trait's own, which extraction used

    def as_json(self) -> dict:
        """Return what results.json says of them."""
        return {
            "questions": {"dev": self.dev, "test": self.test},
            "questions_from_pool": self.from_pool,
            "questions_left_out": self.left_out,
        }

    def note(self) -> str:
        """Return a line about what is not the trait's own; empty where all is."""
        taken = sum(self.from_pool.values())
        said = [
            f"{self.from_pool['dev']} of {len(self.dev)} dev and {self.from_pool['test']} of {len(self.test)} test "
            "questions are of the neutral pool"
            if taken
            else "",
            f"{len(self.left_out)} of its own were left out, because vectors were extracted with them"
            if self.left_out
            else "",
        ]
        return "; ".join(filter(None, said))


def choose_questions(
    dataset: TraitDataset, pool: Sequence[str], subset: int = 0, fresh: int = 0, seen: Iterable[str] = ()
) -> Questions:
    """Return the questions of a trait's evaluation.

    Questions that vectors were extracted with are left out: an answer to them proves little. A part with fewer
    than twelve is filled up from the pool.

    Args:
        pool: Neutral questions that go with any trait.
        subset: Keep only the first so many of each part; 0 keeps all.
        fresh: Take this many test questions from the pool instead, of those that no test has `seen`.

    Raises:
        UserError: the pool has too few that are not seen.
    """
    if fresh < 0:
        raise UserError("--fresh-test is a number of questions, 0 or more")
    own, used = dataset.split_used(list(dict.fromkeys(dataset.questions)))
    mine = {normalised(q) for q in dataset.questions} | dataset.used_in_extraction
    dev, test = (part[: subset or None] for part in split_questions(own))
    # the pool is split as well, so that no question of it is ever both
    spare_dev, spare_test = split_questions([q for q in pool if normalised(q) not in mine])

    wanted = min(subset or FILLED_TO, FILLED_TO)
    added_dev, added_test = spare_dev[: max(wanted - len(dev), 0)], spare_test[: max(wanted - len(test), 0)]
    if fresh:
        test, added_test = [], _unseen(spare_test, fresh, seen)
    from_pool = {"dev": len(added_dev), "test": len(added_test)}
    return Questions(dev + added_dev, test + added_test, from_pool if any(from_pool.values()) else {}, used)


def spare_for_training(dataset: TraitDataset, pool: Sequence[str]) -> list[str]:
    """Return the questions of the pool that no evaluation of the trait asks: neither to choose nor to test."""
    mine = {normalised(q) for q in dataset.questions} | dataset.used_in_extraction
    return split_questions([q for q in pool if normalised(q) not in mine])[0][FILLED_TO:]


def _unseen(questions: Sequence[str], wanted: int, seen: Iterable[str]) -> list[str]:
    known = {normalised(q) for q in seen}
    left = [q for q in questions if normalised(q) not in known]
    if len(left) < wanted:
        raise UserError(
            f"--fresh-test {wanted}: the pool has {len(left)} questions left that no test has seen"
        )
    return left[:wanted]


def split_questions(questions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (dev, test). A question's part depends on its text alone, so adding others never moves it."""
    is_dev = [
        int.from_bytes(hashlib.sha256(q.encode()).digest()[:4], "big") % 100 < DEV_SHARE for q in questions
    ]
    dev = [q for q, chosen in zip(questions, is_dev, strict=True) if chosen]
    test = [q for q, chosen in zip(questions, is_dev, strict=True) if not chosen]
    return dev, test


def may_be_asked(dataset: TraitDataset, pool: Sequence[str]) -> set[str]:
    """Return all questions that an evaluation of the trait may ask, normalised: what is trained must not meet them."""
    own, _ = dataset.split_used(dataset.questions)
    spare = {normalised(q) for q in spare_for_training(dataset, pool)} | dataset.used_in_extraction
    return {normalised(q) for q in [*own, *pool]} - spare
