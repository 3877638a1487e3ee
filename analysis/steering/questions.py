"""What is asked: questions are split once, by hash. dev chooses the dose; test is what is reported."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from traitscope.utils.errors import UserError
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.texts import normalised

DEV_SHARE = 40  # percent
FILLED_TO = 12  # questions of each part, where the trait's own are fewer


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
    own, used = dataset.split_used(list(dict.fromkeys(dataset.questions)))
    dev, test = split_questions(own)
    mine = {normalised(q) for q in dataset.questions} | dataset.used_in_extraction
    spare = [q for q in pool if normalised(q) not in mine]

    if fresh:
        known = {normalised(q) for q in seen}
        unseen = [q for q in spare if normalised(q) not in known]
        if len(unseen) < fresh:
            raise UserError(
                f"--fresh-test {fresh}: the pool has {len(unseen)} questions left that no test has seen"
            )
        test, spare = unseen[:fresh], [q for q in spare if q not in unseen[:fresh]]
    elif subset:
        test = test[:subset]

    wanted = min(subset or FILLED_TO, FILLED_TO)
    dev = dev[: subset or None]
    added_dev = spare[: max(wanted - len(dev), 0)]
    added_test = spare[len(added_dev) :][: 0 if fresh else max(wanted - len(test), 0)]
    from_pool = {"dev": len(added_dev), "test": fresh or len(added_test)}
    return Questions(dev + added_dev, test + added_test, from_pool if any(from_pool.values()) else {}, used)


def split_questions(questions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (dev, test). A question's part depends on its text alone, so adding others never moves it."""
    is_dev = [
        int.from_bytes(hashlib.sha256(q.encode()).digest()[:4], "big") % 100 < DEV_SHARE for q in questions
    ]
    dev = [q for q, chosen in zip(questions, is_dev, strict=True) if chosen]
    test = [q for q, chosen in zip(questions, is_dev, strict=True) if not chosen]
    return dev, test
