"""A Hugging Face model as judge, on its own device: the probability-weighted mean over complete number
strings.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import JudgeOptions, Score
from traitscope.utils.judge.answers import AnswerCache
from traitscope.utils.judge.ledger import Ledger
from traitscope.utils.judge.parsing import MIN_MASS, parse_text
from traitscope.utils.judge.prompts import Question
from traitscope.utils.model.anatomy import place, position_limit, read_logits
from traitscope.utils.model.batching import halve_on_oom, plan_batches
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.generation import Row, Sampling, generate, pad_left
from traitscope.utils.model.loading import LM, ModelOptions, identify_model, load_lm
from traitscope.utils.model.prefix import prefill_shared

TEXT_TOKENS = 256
BATCH_TOKENS = 4096
LEAD = "Score:"  # put into the judge's mouth, so that small models too begin with a number
NEGLIGIBLE = 1e-3  # probability below which the beginning of a number is taken for the whole of it

Tokens = tuple[int, ...]  # the tokens of a number, or of its beginning


class LocalGrader:
    """Grades questions with a model on this machine: `MODEL` or `MODEL@device`."""

    def __init__(self, name: str, options: JudgeOptions) -> None:
        model, _, device = name.partition("@")
        if not model:
            raise UserError(
                "--judge local:MODEL[@device] needs a Hugging Face id, a folder or 'embedded', such as "
                "local:google/gemma-3-12b-it@cuda:1"
            )
        self.lm = load_lm(ModelOptions(model=model, device=device or "auto"), role="judge")
        self.name, self.ledger, self.cache = f"local:{model}", Ledger(), AnswerCache()
        self._known_as = key_of(self.name, identify_model(model), self.lm.identity["dtype"])

    def mode_of(self, *, wants_text: bool) -> str:
        return f"{self.name}/{'text' if wants_text else 'logprobs'}"

    @property
    def identity(self) -> dict:
        return {"judge": self.name, "mode": f"{self.name}/logprobs", "model": self.lm.identity}

    def grade(self, questions: Sequence[Question], label: str = "judge") -> list[Score]:
        """Score questions, in order; identical ones are asked once, and those asked before come from the
        cache.
        """
        keys = [key_of(self._known_as, q.prompt, q.messages) for q in questions]
        distinct = dict(zip(keys, questions, strict=True))
        scores: dict[str, Score] = self.cache.get(list(distinct), lambda stored: Score(**stored))
        self.ledger.cached += len(scores)
        self.ledger.repeated += len(questions) - len(distinct)
        rest = {key: question for key, question in distinct.items() if key not in scores}

        for wants_text in (False, True):
            part = {key: q for key, q in rest.items() if q.wants_text == wants_text}
            scores |= self._grade_new(part, self._read_texts if wants_text else self._read_numbers, label)

        return [scores[key] for key in keys]

    def _grade_new(self, asked: dict[str, Question], read: Any, label: str) -> dict[str, Score]:
        keys = list(asked)
        scores: dict[str, Score] = {}
        ids = [self._encode(asked[key]) for key in keys]

        for i in [i for i, row in enumerate(ids) if len(row) + TEXT_TOKENS > self._context]:
            scores[keys[i]] = Score(
                None,
                "error",
                self.identity["mode"],
                asked[keys[i]].prompt,
                f"{len(ids[i])} tokens do not fit into the judge's context",
            )

        todo = [i for i, key in enumerate(keys) if key not in scores]

        with tqdm(total=len(todo), desc=label, unit="score", disable=None, leave=False) as bar:
            for batch in plan_batches([len(ids[i]) for i in todo], max_tokens=BATCH_TOKENS):
                rows = [todo[j] for j in batch]
                for i, (value, state, mode, detail) in zip(
                    rows, halve_on_oom(read, [ids[i] for i in rows]), strict=True
                ):
                    scores[keys[i]] = score = Score(
                        value, state, f"{self.name}/{mode}", asked[keys[i]].prompt, detail
                    )
                    if state == "scored":
                        self.cache.put(keys[i], score.as_json())
                self.ledger.calls += len(rows)
                self.ledger.tokens_in += sum(len(ids[i]) for i in rows)
                bar.update(len(rows))

        return scores

    def _encode(self, question: Question) -> list[int]:
        lead = [] if question.wants_text else encode_text(self.lm, LEAD)
        return (
            encode(self.lm, [m | {"content": self._defuse(m["content"])} for m in question.messages]) + lead
        )

    def _defuse(self, text: str) -> str:
        """Break up the tokenizer's control tokens in a text, which would end the turn that it stands in."""
        for token in self._controls:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @cached_property
    def _controls(self) -> list[str]:
        added = self.lm.tokenizer.added_tokens_decoder.values()
        return sorted({t.content for t in added if t.special and len(t.content) > 1}, key=len, reverse=True)

    @property
    def _context(self) -> int:
        return position_limit(self.lm.model) or 10**9

    @cached_property
    def _numbers(self) -> dict[Tokens, int]:
        return number_paths(self.lm)

    def _read_numbers(self, prompts: Sequence[list[int]]) -> list[tuple]:
        answers: list[tuple] = []
        for row in number_probabilities(self.lm, prompts, self._numbers):
            mass = sum(row.values())
            value = min(100.0, sum(n * p for n, p in row.items()) / mass) if mass >= MIN_MASS else None
            answers.append(
                (
                    value,
                    "low_mass" if value is None else "scored",
                    "logprobs",
                    "" if value is not None else f"probability {mass:.2f} on numbers",
                )
            )

        return answers

    def _read_texts(self, prompts: Sequence[list[int]]) -> list[tuple]:
        answers = []
        for completion in generate(
            self.lm, [Row(ids) for ids in prompts], Sampling(max_new_tokens=TEXT_TOKENS)
        ):
            text = self.lm.tokenizer.decode(completion.ids, skip_special_tokens=True)
            value, state = parse_text(text, is_cut=not completion.is_finished)
            wrote = text or self.lm.tokenizer.decode(completion.thought)
            answers.append((value, state, "text", "" if value is not None else wrote[:80]))
        return answers


def number_paths(lm: LM) -> dict[Tokens, int]:
    """Return {tokens: number} for 0 to 100, each written as the tokenizer writes it, with and without a
    space before it.
    """
    spellings = {
        tuple(lm.tokenizer(space + str(n), add_special_tokens=False).input_ids): n
        for space in ("", " ")
        for n in range(101)
    }
    return {
        path: n for path, n in spellings.items() if path and lm.tokenizer.decode(list(path)).strip() == str(n)
    }


@torch.inference_mode()
def number_probabilities(
    lm: LM, prompts: Sequence[list[int]], numbers: dict[Tokens, int]
) -> list[dict[int, float]]:
    """Return, per prompt, the probability of each whole number as the complete beginning of the answer.

    P(number) = Π P(token | what is before it) × (1 − P(another digit follows)), the last factor where a
    longer number begins the same way: "7" is not the 7 of "72". One pass over the prompts, then one step for
    each beginning of a number that is likely enough.
    """
    read = (
        _go_on(lm, prompts)
        if lm.habits.rows == "padded" and lm.habits.takes_steps
        else _start_anew(lm, prompts)
    )
    # beginning → next token's probabilities [row, vocabulary]
    steps: dict[Tokens, torch.Tensor] = {(): read(())}
    reached: dict[Tokens, torch.Tensor] = {(): torch.ones(len(prompts), device=lm.device)}

    for path in sorted({whole[:i] for whole in numbers for i in range(1, len(whole) + 1)}, key=len):
        if path[:-1] not in steps:
            continue
        reached[path] = reached[path[:-1]] * steps[path[:-1]][:, path[-1]]
        goes_on = any(len(other) > len(path) and other[: len(path)] == path for other in numbers)
        if goes_on and float(reached[path].max()) > NEGLIGIBLE:
            steps[path] = read(path)

    return _complete(lm, numbers, steps, reached)


# tokens after every prompt → next token's probabilities [row, vocabulary]
Reader = Callable[[Tokens], torch.Tensor]


def _go_on(lm: LM, prompts: Sequence[list[int]]) -> Reader:
    """Read the prompts once, and go on from their cache."""
    ids, mask = (t.to(lm.device) for t in pad_left(prompts, lm.tokenizer.pad_token_id))
    shared = prefill_shared(lm, prompts, [()] * len(prompts), "all")
    known = shared.get_seq_length() if shared else 0  # columns that the shared beginning fills
    cached = {} if shared is None else {"past_key_values": shared}
    first, output = read_logits(
        lm.model, 1, input_ids=ids[:, known:], **place(lm.model, mask, known), **cached, use_cache=True
    )

    def read(path: Tokens) -> torch.Tensor:
        if not path:
            return _probabilities(first)
        tokens = torch.tensor([path] * len(mask), device=mask.device)
        where = place(lm.model, torch.cat([mask, torch.ones_like(tokens)], 1), mask.shape[1])
        cache = copy.deepcopy(output.past_key_values)
        return _probabilities(
            read_logits(lm.model, 1, input_ids=tokens, **where, past_key_values=cache, use_cache=True)[0]
        )

    return read


def _start_anew(lm: LM, prompts: Sequence[list[int]]) -> Reader:
    """Read every prompt anew, with what follows it, beside prompts of the same length only: for a model whose
    cache cannot be handed back, or whose rows do not stay apart under padding.
    """

    def read(path: Tokens) -> torch.Tensor:
        whole = [[*prompt, *path] for prompt in prompts]
        found: dict[int, torch.Tensor] = {}
        for batch in plan_batches(
            list(map(len, whole)),
            max_tokens=BATCH_TOKENS,
            rows=lm.habits.rows if lm.habits.rows != "padded" else "equal",
        ):
            ids = torch.tensor([whole[i] for i in batch], device=lm.device)
            rows = _probabilities(read_logits(lm.model, 1, input_ids=ids)[0])
            found.update(zip(batch, rows, strict=True))
        return torch.stack([found[i] for i in range(len(prompts))])

    return read


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1].float().softmax(-1)


def _complete(
    lm: LM, numbers: dict[Tokens, int], steps: dict[Tokens, torch.Tensor], reached: dict[Tokens, torch.Tensor]
) -> list[dict[int, float]]:
    digits = digit_tokens(lm)
    found: list[dict[int, float]] = [defaultdict(float) for _ in next(iter(reached.values()))]

    for path, number in numbers.items():
        if path not in reached:
            continue
        probability = reached[path] * (1 - steps[path][:, digits].sum(-1)) if path in steps else reached[path]
        for row, p in enumerate(probability.tolist()):
            found[row][number] += p if math.isfinite(p) else 0.0

    return found


def digit_tokens(lm: LM) -> list[int]:
    """Return the tokens that begin with a digit and no space: after a number's beginning they make it
    another number.
    """
    vocabulary = range(len(lm.tokenizer))
    return [
        i
        for i in vocabulary
        if (text := lm.tokenizer.convert_ids_to_tokens(i)) and text[0].isascii() and text[0].isdigit()
    ]
