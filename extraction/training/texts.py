"""What a vector is trained on, told apart into what is learnt, what validates, and what is left over."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.records.own_texts import Text, count_tokens

LEAST = 4  # texts to train on, and half as many to validate on
SHARE = 0.2  # of the tokens that validates, where no number is given


@dataclass(frozen=True)
class Texts:
    """What is learnt, what validates, and what the budgets left over."""

    train: list[Text]
    val: list[Text]
    left: list[Text]
    source: dict[str, Any] = field(
        default_factory=dict
    )  # of texts of a file: which, and what became of its lines

    @property
    def fates(self) -> dict[str, int]:
        """Return how many lines of their file were left out, or cut, by the reason."""
        return self.source.get("counts", {})

    def as_json(self) -> dict[str, int]:
        """Return how many texts and response tokens there are of each."""
        parts = {"train": self.train, "val": self.val, "left": self.left}
        return {f"{name}_texts": len(part) for name, part in parts.items()} | {
            f"{name}_tokens": count_tokens(part) for name, part in parts.items()
        }


def fill_budgets(texts: Sequence[Text], train_tokens: int, val_tokens: int, seed: int) -> Texts:
    """Share texts out: whole groups in a seeded order, first to validation, then to training, until each has
    its tokens.

    Args:
        train_tokens: Response tokens to train on; 0 takes all that validation leaves.
        val_tokens: Response tokens to validate on; 0 takes a fifth of all, or as many beside training's.

    Raises:
        UserError: there are not as many tokens, or too few texts for either.
    """
    groups: dict[int, list[Text]] = {}
    for text in texts:
        groups.setdefault(text.group, []).append(text)
    order = sorted(groups)
    random.Random(seed).shuffle(order)

    total = count_tokens(texts)
    wanted = val_tokens or round(SHARE * (train_tokens / (1 - SHARE) if train_tokens else total))
    val, rest = _take([groups[g] for g in order], wanted)
    train, left = _take(rest, train_tokens) if train_tokens else ([t for group in rest for t in group], [])
    found = Texts(train, val, [t for group in left for t in group])

    short = [
        f"{count_tokens(part)} of {asked} {name} tokens"
        for name, part, asked in (("validation", val, val_tokens), ("training", train, train_tokens))
        if count_tokens(part) < asked
    ]
    if short:
        raise UserError(
            f"the texts have {total} response tokens in all, which gives {' and '.join(short)}; "
            "ask for less with --train-tokens and --val-tokens, or bring more texts"
        )
    if len(train) < LEAST or len(val) < LEAST // 2:
        raise UserError(
            f"there are {len(texts)} texts to train on and to validate on, in {len(groups)} groups, which gives "
            f"{len(train)} and {len(val)}; {LEAST} and {LEAST // 2} are needed"
        )
    return found


def _take(groups: Sequence[list[Text]], tokens: int) -> tuple[list[Text], list[list[Text]]]:
    """Return the texts of the first groups that hold so many tokens, and the other groups."""
    taken: list[Text] = []
    for i, group in enumerate(groups):
        if count_tokens(taken) >= tokens:
            return taken, list(groups[i:])
        taken += group
    return taken, []
