"""Read a trait dataset, in any of its three forms, into one thing: prompts with sides, a definition,
questions.

The stages do not know which form a trait came in; only its audit does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.judge import Example, Rubric
from traitscope.utils.model.encode import Prompt, text_of
from traitscope.utils.records.dataset_files import (
    ANSWERS,
    COMMENT,
    DEFINITIONS,
    NOTE,
    SCENARIO_FILES,
    STEERING,
    form_of,
    instruction_files,
    is_text,
    known_traits,
    read_lines,
    read_object,
    read_records,
    read_text,
    string_in,
)
from traitscope.utils.records.texts import join_shared, normalised


@dataclass(frozen=True)
class Item:
    """One prompt of one side, with the response where the dataset gives it."""

    side: str
    pair: int  # the pos and neg item with the same pair are contrastive
    group: int  # items of a group share a prompt's text: held out together
    example: int  # index into the rubric's examples: the contrasting text behind the prompt
    prompt: Prompt
    response: str | None = None


@dataclass(frozen=True)
class TraitDataset:
    """A trait as the stages see it."""

    trait: str
    form: str  # scenarios, instructions or answers
    items: tuple[Item, ...]
    rubric: Rubric
    questions: tuple[str, ...]  # for steering evaluation
    direction: str = "positive"  # "negative": the researcher wants less of it
    # check of the audit → why its finding belongs to the trait
    accepted_confounds: dict[str, str] = field(default_factory=dict)

    @cached_property
    def used_in_extraction(self) -> frozenset[str]:
        """The questions and scenarios that vectors are extracted with, normalised."""
        return frozenset(normalised(text_of(item.prompt)) for item in self.items)

    def split_used(self, questions: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return (own, used): the questions that extraction has not seen, and those that it used."""
        own: list[str] = []
        used: list[str] = []
        for question in questions:
            (used if normalised(question) in self.used_in_extraction else own).append(question)
        return own, used

    def ask_for(self, wanted: int) -> str:
        """Return a system prompt that asks for more of the trait (+1) or for less (−1)."""
        wish = self.rubric.definition.split("\n\n")[0] or self.rubric.examples[0].text
        return (
            "Write every answer so that it clearly shows "
            f"{'the opposite of this' if wanted < 0 else 'this'}. {wish}"
        )

    def system_prompts(self, side: str) -> list[str]:
        """Return the system prompts that ask for a side: the trait's own instructions, else its definition as one."""
        if self.form != "instructions":
            return [self.ask_for(1 if side == "pos" else -1)]
        own = [item.prompt for item in self.items if item.side == side]
        told = [m["content"] for p in own if not isinstance(p, str) for m in p if m["role"] == "system"]
        return list(dict.fromkeys(told))


def read_trait(paths: TraitPaths) -> TraitDataset:
    """Read and validate the dataset of a trait.

    Raises:
        UserError: the folder, a file or a field is missing or malformed; the message names file and line.
    """
    folder = paths.dataset
    if not folder.is_dir():
        raise UserError(f"unknown trait {paths.trait}: {folder} does not exist{_suggestion(paths)}")

    form = form_of(folder) or "scenarios"
    items, examples, steering = {
        "scenarios": _read_scenarios,
        "instructions": _read_instructions,
        "answers": _read_answers,
    }[form](folder)

    for side in SIDES:
        if not any(item.side == side for item in items):
            raise UserError(f"{paths.trait}: the {side} side is empty; a trait needs prompts on both sides")

    items, examples = _join_repeated(items, examples)
    steering = steering | _read_steering(folder)
    rubric = Rubric(
        paths.trait, _read_definition(folder, form), tuple(examples), _eval_prompt(steering, folder)
    )
    questions = tuple(_question(q, folder) for q in steering.get("questions", []))
    return TraitDataset(
        paths.trait,
        form,
        tuple(items),
        rubric,
        questions,
        _direction(steering, folder),
        _accepted(steering, folder),
    )


def _join_repeated(items: list[Item], examples: list[Example]) -> tuple[list[Item], list[Example]]:
    """Join the groups of items that repeat a prompt's text, and the families of examples that repeat a text
    or answer one question: no split and no fold has a text on both of its sides.
    """
    groups = join_shared((item.group, normalised(text_of(item.prompt))) for item in items)
    given = [item for item in items if item.response is not None]

    marks = [(example.family, normalised(example.text)) for example in examples]
    marks += [(examples[item.example].family, normalised(text_of(item.prompt))) for item in given]
    families = join_shared(marks)
    return (
        [replace(item, group=groups[item.group]) for item in items],
        [replace(e, family=families[e.family], line=e.family) for e in examples],
    )


def _suggestion(paths: TraitPaths) -> str:
    known = known_traits(paths.root)
    close = [t for t in known if t.split("/")[-1] == paths.trait.split("/")[-1]] or known[:8]
    return f"; known: {', '.join(close)}" if close else ""


Parts = tuple[list[Item], list[Example], dict]


def _read_scenarios(folder: Path) -> Parts:
    """Form 1: one unfinished prompt a line, line i of one side mirrors line i of the other."""
    items: list[Item] = []
    examples: list[Example] = []
    for side, stem in SCENARIO_FILES.items():
        for pair, prompt in _read_prompts(folder, stem):
            items.append(Item(side, pair, pair, len(examples), prompt))
            examples.append(Example(side, pair, text_of(prompt)))
    return items, examples, {}


def _read_prompts(folder: Path, stem: str) -> list[tuple[int, Prompt]]:
    """Return (line number from 0, prompt): a blank line on one side leaves its mirror without a partner
    and shifts nothing.
    """
    rich, plain = folder / f"{stem}.jsonl", folder / f"{stem}.txt"
    if is_there(rich):
        return [(number, _rich_prompt(record, where)) for number, where, record in read_records(rich)]
    if not is_there(plain):
        raise UserError(
            f"{folder} has no {plain.name} (or {rich.name}); a trait needs both sides, one unfinished "
            "prompt a line"
        )

    return [*read_lines(plain)]  # never stripped: a line may end in an open quote or a space


def _rich_prompt(record: dict, where: str) -> Prompt:
    text = string_in(record, "prompt", where)
    if "system_prompt" not in record:
        return text
    return [
        {"role": "system", "content": string_in(record, "system_prompt", where)},
        {"role": "user", "content": text},
    ]


def _read_instructions(folder: Path) -> Parts:
    """Form 2: every pair of instructions (as system prompts) meets every question; a second file may hold
    the evaluation questions.
    """
    path, evaluation = instruction_files(folder)
    content = read_object(path, "instruction and questions")
    pairs, questions = _lists(content, path)
    items: list[Item] = []
    examples: list[Example] = []

    for i, pair in enumerate(pairs):
        for side in SIDES:
            instruction = string_in(pair, side, f"{path}: instruction {i + 1}")
            for j, question in enumerate(questions):
                prompt = [
                    {"role": "system", "content": instruction},
                    {"role": "user", "content": _question(question, path)},
                ]
                items.append(Item(side, i * len(questions) + j, j, len(examples), prompt))
            examples.append(Example(side, i, instruction))

    settings = {
        key: content[key]
        for key in ("questions", "eval_prompt", "accepted_confounds")
        if content.get(key) is not None
    }
    return items, examples, settings | (_read_evaluation(evaluation) if evaluation else {})


def _lists(content: dict, path: Path) -> tuple[list, list]:
    pairs, questions = content.get("instruction"), content.get("questions")
    if not isinstance(pairs, list) or not isinstance(questions, list) or not pairs or not questions:
        raise UserError(f"{path} must have non-empty lists 'instruction' and 'questions'")
    return pairs, questions


def _read_evaluation(path: Path) -> dict:
    content = read_object(path, "questions")
    if not isinstance(content.get("questions"), list):
        raise UserError(f"{path} must have a list 'questions'")
    return {key: content[key] for key in ("questions", "eval_prompt") if content.get(key) is not None}


def _read_answers(folder: Path) -> Parts:
    """Form 3: both responses are given."""
    path = folder / ANSWERS
    items: list[Item] = []
    examples: list[Example] = []

    for pair, where, record in read_records(path):
        prompt: Prompt = [{"role": "user", "content": string_in(record, "question", where)}]
        for side, key in SCENARIO_FILES.items():
            response = string_in(record, key, where)
            items.append(Item(side, pair, pair, len(examples), prompt, response))
            examples.append(Example(side, pair, response))

    return items, examples, {}


def _read_definition(folder: Path, form: str) -> str:
    for name in DEFINITIONS:
        if is_there(folder / name):
            if text := "\n".join(
                line for line in read_text(folder / name).split("\n") if not line.startswith(COMMENT)
            ).strip():
                return text
            raise UserError(f"{folder / name} is empty: say there what the trait is, for the judge")

    if form == "instructions":
        return ""  # this form defines its trait by the eval prompt
    raise UserError(f"{folder} has no definition.txt: say there what the trait is, for the judge")


def _read_steering(folder: Path) -> dict:
    path = folder / STEERING
    if not is_there(path):
        return {}
    content = read_object(path, "questions")
    if not isinstance(content.get("questions", []), list):
        raise UserError(f"{path} must hold an object with a list 'questions'")
    return content


def _eval_prompt(steering: dict, folder: Path) -> str | None:
    prompt = steering.get("eval_prompt")
    if prompt is None:
        return None
    if (
        not isinstance(prompt, str)
        or "{question}" not in prompt
        or not ("{answer}" in prompt or "{response}" in prompt)
    ):
        raise UserError(
            f"{folder}: eval_prompt must be a text with {{question}} and {{answer}} (or {{response}}) in it"
        )

    return prompt


def _direction(steering: dict, folder: Path) -> str:
    direction = steering.get("direction", "positive")
    if direction not in ("positive", "negative"):
        raise UserError(f"{folder / STEERING}: direction is {direction!r:.60}; it is positive or negative")
    return direction


def _accepted(steering: dict, folder: Path) -> dict[str, str]:
    accepted = steering.get("accepted_confounds", {})
    if not isinstance(accepted, dict) or not all(
        is_text(c) and is_text(reason) for c, reason in accepted.items() if c != NOTE
    ):
        raise UserError(
            f'{folder / STEERING}: accepted_confounds must be an object of texts, {{"name of the check": "why it belongs to the trait"}}'
        )
    return {check: reason for check, reason in accepted.items() if check != NOTE}


def _question(value: Any, where: Path) -> str:
    text = value.get("question") if isinstance(value, dict) else value
    if not is_text(text):
        raise UserError(
            f"{where}: a question must be a text, or an object with 'question'; found {str(value)[:60]!r}"
        )
    return text
