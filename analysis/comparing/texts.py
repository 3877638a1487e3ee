"""The texts that vectors are measured on: what was held out, after prompts that ask for the trait or do not, and
neutral answers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from traitscope.utils.files.journal import Journal
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.encode import Prompt, encode
from traitscope.utils.model.generation import Row, Sampling, Work, generate
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import ActivationsAbout
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.own_texts import Text, own_texts, plain_prompts
from traitscope.utils.records.questions import read_pool, spare_for_training
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds


@dataclass(frozen=True)
class HeldOutTexts:
    """Both sides' held-out responses after prompts that do not ask for the trait; the positive ones also after prompts
    that do, None where nothing asks.
    """

    pos: list[Text]
    neg: list[Text]
    prompted: list[Text | None]  # one per positive text: after the prompt that it was generated with
    told: list[Text]  # after the prompt that does not ask, with the definition asked for before it


def held_out_texts(
    paths: TraitPaths, lm: LM, about: ActivationsAbout, thresholds: Thresholds | None, most: int
) -> HeldOutTexts:
    """Return the responses that passed stage 2 and are held out, whole groups in a seeded order.

    Args:
        most: Texts of each side; 0 takes all.

    Raises:
        UserError: a file is missing or damaged, or scores and activations are of other responses.
    """
    found = own_texts(paths, lm, about, thresholds, split="val")
    pos, neg = ([t for t in _shuffled(found) if t.side == side][: most or None] for side in ("pos", "neg"))
    responses = {r.key: r for r in read_responses(paths)}
    plain = plain_prompts(list(responses.values()))
    wish = read_trait(paths).ask_for(1)

    prompted: list[Text | None] = []
    told: list[Text] = []
    for text in pos:
        key, _, place = text.key.rpartition(":")
        asked = _after(text, "prompted", responses[key].prompt_ids)
        prompted.append(None if asked.prompt_ids == text.prompt_ids else asked)  # nothing was asked
        told.append(_after(text, "told", _told_ids(lm, plain[key][int(place)], wish)))
    return HeldOutTexts(pos, neg, prompted, told)


def _shuffled(texts: Sequence[Text]) -> list[Text]:
    """Return texts group by group, the groups in a seeded order."""
    order = sorted({text.group for text in texts})
    random.Random(0).shuffle(order)
    place = {group: i for i, group in enumerate(order)}
    return sorted(texts, key=lambda text: place[text.group])


def _after(text: Text, name: str, prompt_ids: list[int]) -> Text:
    """Return the same response after another prompt."""
    return replace(text, key=f"{text.key}:{name}", prompt_ids=prompt_ids)


def _told_ids(lm: LM, prompt: Prompt, wish: str) -> list[int]:
    """Return the ids of a prompt behind a system message; of a text to be continued, which has none, behind a
    paragraph.
    """
    if isinstance(prompt, str):
        return encode(lm, f"{wish}\n\n{prompt}")
    return encode(lm, [{"role": "system", "content": wish}, *prompt])


def neutral_texts(paths: TraitPaths, lm: LM, count: int, journal: Journal) -> list[Text]:
    """Return the unsteered model's greedy answers to neutral questions that no evaluation of the trait asks."""
    spare = spare_for_training(read_trait(paths), read_pool(paths.root))
    questions = spare[max(len(spare) - count, 0) :]  # training takes the first ones
    asked = [encode(lm, [{"role": "user", "content": question}]) for question in questions]
    rows = [Row(ids, i) for i, ids in enumerate(asked)]
    written = generate(lm, rows, Sampling(), work=Work(journal, f"neutral answers for {paths.trait}"))
    texts = [
        Text(f"neutral:{i}", "neutral", i, ids + answer.thought, answer.ids)
        for i, (ids, answer) in enumerate(zip(asked, written, strict=True))
    ]
    return [text for text in texts if text.response_ids]
