"""Responses to a prompt set: generated, or replayed from the tokens that another experiment recorded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Completion, Row, Sampling, generate
from traitscope.utils.model.loading import LM
from traitscope.utils.model.memory import rows_that_fit
from traitscope.utils.model.tokens import find_turns, token_texts
from traitscope.utils.records.prompt_sets import PromptItem
from traitscope.utils.records.recorded import Record, read_index, read_recorded
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class Responding(Sampling):
    """How responses are drawn."""

    max_new_tokens: int = flag(128, "Length limit of a response, in tokens.")
    seed: int = flag(0, "With a temperature, fixes every prompt's text.")

    heading = "Text"
    is_setting = False

    def key(self, lm: LM, item: PromptItem) -> str:
        """Return a digest of what decides the response."""
        drawn = (self.temperature, self.seed) if self.temperature else ()
        return key_of(lm.identity, item.prompt, item.turns, self.max_new_tokens, drawn)


def respond_all(lm: LM, items: Sequence[PromptItem], how: Responding) -> Iterator[Record]:
    """Yield a record per prompt, batch by batch, so that what was written is never lost; similar lengths
    share a batch.
    """
    lengths = {item.id: len(encode(lm, item.prompt)) for item in items}
    ordered = sorted(items, key=lambda item: (len(item.turns), -lengths[item.id], item.id))
    done = 0

    while done < len(ordered):
        fitting = how.batch_size or min(
            64, rows_that_fit(lm, max(lengths[i.id] for i in ordered[done:]) + how.max_new_tokens)
        )
        yield from _respond(lm, ordered[done : done + fitting], how)
        done += fitting


def _respond(lm: LM, items: Sequence[PromptItem], how: Responding) -> Iterator[Record]:
    talks = {item.id: item for item in items}
    keys = {item.id: how.key(lm, item) for item in items}
    last: dict[str, tuple[list[int], Completion]] = {}
    asked = list(items)

    while asked:  # once, and once more for every further turn of the longest conversation
        prompts = [encode(lm, talks[item.id].prompt) for item in asked]
        rows = [
            Row(ids, int(key_of(how.seed, item.id, len(ids)), 16) % 2**31)
            for item, ids in zip(asked, prompts, strict=True)
        ]
        for item, ids, completion in zip(
            asked, prompts, generate(lm, rows, replace(how, batch_size=len(rows))), strict=True
        ):
            last[item.id] = ids + completion.thought, completion
        asked = [item for item in asked if talks[item.id].turns]
        for item in asked:
            talks[item.id] = _take_turn(lm, talks[item.id], last[item.id][1])

    for item in items:
        yield make_record(lm, talks[item.id], *last[item.id], key=keys[item.id])


def _take_turn(lm: LM, talk: PromptItem, completion: Completion) -> PromptItem:
    said = {
        "role": "assistant",
        "content": lm.tokenizer.decode(completion.ids, skip_special_tokens=True).strip(),
    }
    assert not isinstance(talk.prompt, str)
    return replace(
        talk, prompt=[*talk.prompt, said, {"role": "user", "content": talk.turns[0]}], turns=talk.turns[1:]
    )


def make_record(lm: LM, item: PromptItem, prompt_ids: list[int], completion: Completion, key: str) -> Record:
    """Return the record of an answered prompt."""
    ids = prompt_ids + completion.ids
    tokens = token_texts(lm, ids)
    return Record(
        id=item.id,
        key=key,
        prompt=item.prompt,
        response=lm.tokenizer.decode(completion.ids, skip_special_tokens=True),
        ids=ids,
        tokens=tokens,
        prompt_tokens=len(prompt_ids),
        turns=find_turns(item.prompt, tokens, len(prompt_ids)),
        is_finished=completion.is_finished,
        metadata=item.metadata,
        made_by={"model": lm.identity},
    )


def replay_all(lm: LM, source: InferencePaths, items: Sequence[PromptItem]) -> Iterator[Record]:
    """Yield what another experiment recorded for the prompts: the very same tokens, to be read by this model.

    Raises:
        UserError: there is no such response, or this model's tokenizer reads its ids otherwise.
    """
    index = read_index(source) if items else None
    for item in items:
        assert index is not None
        record = read_recorded(source, item.id, index)
        if max(record.ids) >= len(lm.tokenizer) or token_texts(lm, record.ids) != record.tokens:
            raise UserError(
                f"{source.response(item.id)} holds token ids of {record.made_by['model']['name']}; the "
                f"tokenizer of {lm.identity['name']} differs"
            )
        yield record
