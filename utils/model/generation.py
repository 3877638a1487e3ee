"""Batched generation: every row carries its own prompt ids, seed and steering, so its text does not
depend on its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessorList

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.model.anatomy import end_tokens, position_limit, require_room
from traitscope.utils.model.batching import halve_on_oom, pad_left, plan_batches
from traitscope.utils.model.cache import make_room
from traitscope.utils.model.decoding import can_decode, decode
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM
from traitscope.utils.model.memory import rows_that_fit
from traitscope.utils.model.prefix import prefill_shared
from traitscope.utils.model.sampling import NOISE, GumbelNoise
from traitscope.utils.model.tokens import split_thought
from traitscope.utils.stage.flags import flag


def room_after(lm: LM, ids: list[int], wanted: int) -> int:
    """Return how many of the wanted tokens a model's context has room for after a prompt.

    Raises:
        UserError: the prompt alone fills it.
    """
    limit = position_limit(lm.model) or len(ids) + wanted
    if len(ids) >= limit:
        raise UserError(f"the conversation has {len(ids)} tokens; {lm.identity['name']} takes {limit}")
    return min(wanted, limit - len(ids))


@dataclass(frozen=True)
class Row:
    """One text to generate."""

    prompt_ids: list[int]
    seed: int = 0  # used when temperature > 0
    pushes: tuple[Push, ...] = ()

    @cached_property
    def key(self) -> str:
        steering = [p.key for p in self.pushes]
        return key_of(self.prompt_ids, self.seed, steering)


@dataclass(frozen=True)
class Completion:
    """What a row became: the ids the model wrote, without the end-of-text token."""

    ids: list[int]
    is_finished: bool  # the model ended the text itself, before max_new_tokens
    # what a reasoning model wrote before its answer: it stands with the prompt, and is neither judged nor pooled
    thought: list[int] = field(default_factory=list)


def identify_temperature(temperature: float) -> float | str:
    """Return what a manifest remembers of a temperature: above 0 the way in which noise is drawn as well, so that
    texts of another are not taken for these.
    """
    return f"{temperature}, {NOISE}" if temperature else temperature


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn."""

    max_new_tokens: int = flag(32, "Length limit of a response, in tokens.")
    temperature: float = flag(
        0.0, "0 is greedy; above it, a row's seed fixes its text.", identify=identify_temperature
    )
    batch_size: int = flag(
        0,
        (
            "Rows a generate call; 0 takes what fits into free memory (at most 128 on a CPU, 1024 on a GPU); "
            "halved when memory runs out."
        ),
        cosmetic=True,
    )

    heading = "Text"
    is_setting = True  # a key of config.json


@dataclass
class Work:
    """Where a long generation keeps its progress and shows it."""

    journal: Journal | None = None
    label: str = "generate"
    counts: dict[str, int] = field(default_factory=lambda: {"calls": 0, "rows": 0})


def generate(
    lm: LM, rows: Sequence[Row], sampling: Sampling, positions: str = "all", work: Work | None = None
) -> list[Completion]:
    """Generate every row, in few large calls; what the journal already holds is not generated again.

    Batches are planned from all rows and journalled whole, so that a resumed run computes the very same
    batches.

    Raises:
        UserError: a prompt and its new tokens are more than the model's context.
    """
    work = work or Work()
    longest = max((len(row.prompt_ids) for row in rows), default=0)
    require_room(lm, longest, sampling.max_new_tokens)
    batches = plan_batches(
        [len(row.prompt_ids) for row in rows],
        max_rows=_rows_a_batch(lm, rows, sampling, work.journal),
        rows=lm.habits.rows,
    )
    answers: dict[int, Completion] = {}

    with tqdm(total=len(rows), desc=work.label, unit="text", disable=None, leave=False) as bar:
        for batch in batches:
            for i, completion in zip(
                batch, _journalled(lm, [rows[i] for i in batch], sampling, positions, work), strict=True
            ):
                answers[i] = completion
            bar.update(len(batch))

    return [_set_thought_apart(lm, answers[i]) for i in range(len(rows))]


def _set_thought_apart(lm: LM, completion: Completion) -> Completion:
    thought, answer = split_thought(lm, completion.ids)
    return replace(completion, ids=answer, thought=thought) if thought else completion


def _rows_a_batch(lm: LM, rows: Sequence[Row], sampling: Sampling, journal: Journal | None) -> int:
    """Return --batch-size, else what fits into memory; a resumed run takes what the first one took, so
    that it meets the same batches.
    """
    if sampling.batch_size or not rows:
        return sampling.batch_size or 1

    key = key_of("rows a batch", lm.identity, [row.key for row in rows])
    if journal and key in journal.answers:
        return journal.answers[key]

    fitting = rows_that_fit(lm, max(len(row.prompt_ids) for row in rows) + sampling.max_new_tokens)
    if journal:
        journal.add(key, fitting)
    return fitting


def _journalled(lm: LM, batch: list[Row], sampling: Sampling, positions: str, work: Work) -> list[Completion]:
    drawn = identify_temperature(sampling.temperature)
    key = key_of(lm.identity, sampling.max_new_tokens, drawn, positions, [row.key for row in batch])
    if work.journal and key in work.journal.answers:
        return [Completion(ids, is_finished) for ids, is_finished in work.journal.answers[key]]

    completions = halve_on_oom(lambda part: _generate_batch(lm, part, sampling, positions), batch)
    work.counts["calls"] += 1
    work.counts["rows"] += len(batch)
    if work.journal:
        work.journal.add(key, [(c.ids, c.is_finished) for c in completions])
    return completions


@torch.inference_mode()
def _generate_batch(lm: LM, batch: Sequence[Row], sampling: Sampling, positions: str) -> list[Completion]:
    ids, mask = pad_left([row.prompt_ids for row in batch], lm.tokenizer.pad_token_id)
    plan = [row.pushes for row in batch]
    if not lm.habits.forgets:
        lm.model(input_ids=ids[:, :1].to(lm.device), use_cache=False)  # a pass that keeps nothing clears it
    shared = prefill_shared(lm, [row.prompt_ids for row in batch], plan, positions)

    with steer(lm.model, plan, positions) as check:
        if sampling.temperature == 0 and can_decode(lm):
            output = decode(lm, (ids, mask), shared, sampling.max_new_tokens, check)
        else:
            output = _decode_plainly(lm, (ids, mask), shared, [row.seed for row in batch], sampling)

    ends = set(end_tokens(lm))
    return [cut_at_end(row, ends) for row in output.tolist()]


def _decode_plainly(
    lm: LM, batch: tuple[Tensor, Tensor], shared: DynamicCache | None, seeds: list[int], sampling: Sampling
) -> Tensor:
    """Return the new tokens [batch, new] by transformers' own loop, which serves every model, device and
    temperature.
    """
    ids, mask = batch
    width = ids.shape[1]
    processors = LogitsProcessorList(
        [GumbelNoise(seeds, sampling.temperature, width)] if sampling.temperature > 0 else []
    )
    # a model that keeps a state of another kind makes it itself
    cache = (
        {"past_key_values": make_room(shared, lm.model.config, sampling.max_new_tokens)}
        if lm.habits.keeps_tokens
        else {}
    )
    output = lm.model.generate(
        **cache,
        input_ids=ids.to(lm.device),
        attention_mask=mask.to(lm.device),
        do_sample=False,
        logits_processor=processors,
        max_new_tokens=sampling.max_new_tokens,
    )

    return output[:, width:]  # sliced at the padded width


def cut_at_end(ids: list[int], ends: set[int]) -> Completion:
    """Drop the first end-of-text token and what follows it."""
    for i, token in enumerate(ids):
        if token in ends:
            return Completion(ids[:i], True)
    return Completion(ids, False)
