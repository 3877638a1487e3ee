"""The held-out split: nothing that a vector was fitted on is in what it is measured on, nor is a text of it.

Responses whose prompts share a question or a scenario are held out together. Where instructions meet
questions, both are held out: a vector is measured on new questions under new instructions, and what mixes the
old with the new is left aside. An instruction's words can be learnt without anything that instructions have in
common, and would tell the sides of every question apart.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from traitscope.utils.model.encode import Prompt, text_of
from traitscope.utils.records.responses import Response
from traitscope.utils.records.texts import join_shared, normalised

TRAIN, VAL, ASIDE = "train", "val", "aside"
FEW = 10  # held-out responses of a side, below which more are held out where the data allow it


@dataclass(frozen=True)
class HeldOut:
    """What is held out of some responses: one entry per response."""

    splits: list[str]  # train, val, or aside: neither fitted nor measured on
    groups: list[int]  # responses of a group share a question or a scenario
    by: tuple[str, ...]  # what no held-out response shares with a fitted one

    def as_json(self) -> dict:
        """Return what is held out, and how many responses each split has."""
        return {"by": list(self.by), **{s: self.splits.count(s) for s in (TRAIN, VAL, ASIDE)}}


def split_held_out(responses: Sequence[Response], share: float, seed: int) -> HeldOut:
    """Hold out a share of the responses, drawn at random (files are written in blocks of topics).

    Of questions that meet instructions, the share is of what is not left aside.
    """
    groups, instructions = _groups(responses), _instructions(responses)
    draw = random.Random(seed)
    if len(set(instructions)) == 1:
        return HeldOut(_split(groups, _draw(groups, share, draw)), groups, ("group",))
    if len(set(groups)) == 1:
        return HeldOut(_split(instructions, _draw(instructions, share, draw)), groups, ("instruction",))

    both = ("group", "instruction")
    islands = join_shared(zip(groups, instructions, strict=True))  # groups that share no instruction
    places = [islands[group] for group in groups]
    if chosen := _draw(places, share, draw):
        return HeldOut(_split(places, chosen), groups, both)
    return HeldOut(_cross(groups, instructions, share, draw), groups, both)


def _groups(responses: Sequence[Response]) -> list[int]:
    """Return every response's group: the dataset's, joined where they share a text. Responses of older versions
    were not joined when they were written.
    """
    joined = join_shared((r.group, normalised(text_of(r.prompt))) for r in responses)
    return [joined[r.group] for r in responses]


def _instructions(responses: Sequence[Response]) -> list[int]:
    """Return a number per response that those share whose pairs share a system prompt; −1 without one."""
    joined = join_shared(
        (r.pair, normalised(text)) for r in responses if (text := _system_of(r.prompt)) is not None
    )
    return [joined.get(r.pair, -1) for r in responses]


def _system_of(prompt: Prompt) -> str | None:
    if isinstance(prompt, str):
        return None
    return next((message["content"] for message in prompt if message["role"] == "system"), None)


def _draw(units: Sequence[int], share: float, draw: random.Random) -> set[int]:
    """Return which units are held out; `units` has one entry per response. One that is more than the whole
    share is not.
    """
    sizes = Counter(units)
    most = max(share * len(units), len(units) / len(sizes))
    fitting = sorted(unit for unit, size in sizes.items() if size <= most)
    return set(draw.sample(fitting, round(share * len(fitting))))


def _split(units: Sequence[int], held_out: set[int]) -> list[str]:
    return [VAL if unit in held_out else TRAIN for unit in units]


def _cross(
    groups: Sequence[int], instructions: Sequence[int], share: float, draw: random.Random
) -> list[str]:
    """Hold out new questions under new instructions, and leave aside what has one of the two."""
    if share == 0:
        return [TRAIN] * len(groups)
    asked, told = sorted(set(groups)), sorted(set(instructions))
    n_told, n_asked = held_out_sizes(len(told), len(asked), share)
    new_told, new_asked = set(draw.sample(told, n_told)), set(draw.sample(asked, n_asked))

    news = [(g in new_asked) + (i in new_told) for g, i in zip(groups, instructions, strict=True)]
    return [(TRAIN, ASIDE, VAL)[new] for new in news]


def held_out_sizes(n_instructions: int, n_questions: int, share: float) -> tuple[int, int]:
    """Return how many instructions and how many questions are held out: those that leave the most to be fitted
    on, of all with which at least the share of what is not left aside is held out.

    At least FEW a side are held out where twice as many remain to be fitted on.
    """
    options = [(i, q) for i in range(1, n_instructions) for q in range(1, n_questions)]
    counts = {(i, q): (i * q, (n_instructions - i) * (n_questions - q)) for i, q in options}

    enough = [option for option, (val, train) in counts.items() if val >= share * (val + train)]
    ample = [o for o in enough if counts[o][0] >= FEW and counts[o][1] >= 2 * counts[o][0]]
    return max(ample or enough or options[-1:], key=lambda option: (counts[option][1], option))
