"""What a vector is trained on: responses that passed, told apart into what is learnt and what validates."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.encode import Prompt, encode
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import ActivationsAbout
from traitscope.utils.records.responses import Response, read_responses
from traitscope.utils.records.scores import Thresholds, usable_responses

OTHER = {"pos": "neg", "neg": "pos"}
LEAST = 4  # texts to train on, and half as many to validate on
SHARE = 0.2  # of the tokens that validates, where no number is given


@dataclass(frozen=True, eq=False)
class Text:
    """A prompt and the response to it, in tokens."""

    key: str
    side: str
    group: int  # texts of a group share a question or a scenario, and validate together or not at all
    prompt_ids: list[int]
    response_ids: list[int]
    told_ids: list[int] = field(
        default_factory=list
    )  # the prompt with an instruction before it, where there is one

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.response_ids


@dataclass(frozen=True)
class Texts:
    """What is learnt, what validates, and what the budgets left over."""

    train: list[Text]
    val: list[Text]
    left: list[Text]

    def as_json(self) -> dict[str, int]:
        """Return how many texts and response tokens there are of each."""
        parts = {"train": self.train, "val": self.val, "left": self.left}
        return {f"{name}_texts": len(part) for name, part in parts.items()} | {
            f"{name}_tokens": count_tokens(part) for name, part in parts.items()
        }


def count_tokens(texts: Iterable[Text]) -> int:
    """Return how many response tokens texts have."""
    return sum(len(text.response_ids) for text in texts)


def own_texts(
    paths: TraitPaths,
    lm: LM,
    about: ActivationsAbout,
    thresholds: Thresholds | None,
    *,
    in_pairs: bool = False,
) -> list[Text]:
    """Return a trait's own responses that passed stage 2 and are not held out, each after a prompt that does not ask
    for it, so that the vector must bring the trait: a question without its system message, the other side's scenario.

    Args:
        thresholds: Where a response's score counts as passed; None takes every response.
        in_pairs: Give a scenario's response after its own side's scenario as well, so that both sides' responses come
            after the same prompts.

    Raises:
        UserError: scores and activations are of other responses.
    """
    responses = read_responses(paths)
    usable = (
        usable_responses(paths, thresholds, about.responses_sha256)
        if thresholds
        else {r.key for r in responses}
    )
    groups = {row.key: row.group for row in about.rows if row.split == "train" and row.key in usable}
    prompts = {(r.side, r.pair): r.prompt for r in responses}

    texts = []
    for r in responses:
        if r.key in groups and r.response_ids:
            mirror = prompts.get((OTHER[r.side], r.pair))
            for i, prompt in enumerate(_prompts(r, mirror, in_pairs=in_pairs)):
                texts.append(Text(f"{r.key}:{i}", r.side, groups[r.key], encode(lm, prompt), r.response_ids))
    return texts


def _prompts(response: Response, mirror: Prompt | None, *, in_pairs: bool) -> list[Prompt]:
    """Return the prompts after which a response is learnt."""
    own = without_system(response.prompt)
    other = own if mirror is None else without_system(mirror)
    if other == own:
        return [own]  # what asked for the trait is gone, or never was there
    return [other, own] if in_pairs else [other]


def without_system(prompt: Prompt) -> Prompt:
    """Return a prompt without what a system message asks for."""
    return prompt if isinstance(prompt, str) else [m for m in prompt if m["role"] != "system"]


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
            "ask for less with --train-tokens and --val-tokens, or raise --max-new-tokens"
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
