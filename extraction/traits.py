"""Read a trait dataset, in any of its three forms, into one thing: prompts with sides, a definition, questions.

Nothing after this module knows which form a trait came in.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from utils.artifacts import read_json
from utils.errors import UserError
from utils.judge import Example, Rubric
from utils.model import Prompt
from utils.paths import SIDES, TraitPaths

SCENARIO_FILES = {"pos": "positive", "neg": "negative"}
DATASET_FILES = (
    *("positive.txt", "negative.txt", "positive.jsonl", "negative.jsonl", "trait_definition.json", "pairs.jsonl"),
    *("definition.txt", "trait_definition.txt", "steering.json"),
)


@dataclass(frozen=True)
class Item:
    """One prompt of one side, with the response where the dataset gives it."""

    side: str
    pair: int  # the pos and neg item with the same pair are contrastive
    group: int  # items of a group share a topic: held out together
    example: int  # index into the rubric's examples: the contrasting text behind the prompt
    prompt: Prompt
    response: str | None = None


@dataclass(frozen=True)
class TraitDataset:
    """A trait as the stages see it."""

    trait: str
    items: tuple[Item, ...]
    rubric: Rubric
    questions: tuple[str, ...]  # for steering evaluation
    direction: str = "positive"  # "negative": the researcher wants less of it


def dataset_files(paths: TraitPaths) -> list[Path]:
    """Return the dataset's files that exist, of those the reader knows."""
    return [paths.dataset / name for name in DATASET_FILES if (paths.dataset / name).is_file()]


def prompt_files(paths: TraitPaths) -> list[Path]:
    """Return the files that decide what is generated: everything but the definition and the steering questions."""
    return [path for path in dataset_files(paths) if path.name not in ("definition.txt", "trait_definition.txt", "steering.json")]


def read_trait(paths: TraitPaths) -> TraitDataset:
    """Read and validate the dataset of a trait.

    Raises:
        UserError: the folder, a file or a field is missing or malformed; the message names file and line.
    """
    folder = paths.dataset
    if not folder.is_dir():
        raise UserError(f"unknown trait {paths.trait}: {folder} does not exist{_suggestion(paths)}")
    if (folder / "trait_definition.json").exists():
        items, examples, steering = _read_instructions(folder)
    elif (folder / "pairs.jsonl").exists():
        items, examples, steering = _read_answers(folder)
    else:
        items, examples, steering = _read_scenarios(folder)
    for side in SIDES:
        if not any(item.side == side for item in items):
            raise UserError(f"{paths.trait}: the {side} side is empty; a trait needs prompts on both sides")
    steering = steering | _read_steering(folder)
    rubric = Rubric(paths.trait, _read_definition(folder), tuple(examples), _eval_prompt(steering, folder))
    questions = tuple(_question(q, folder) for q in steering.get("questions", []))
    direction = steering.get("direction", "positive")
    if direction not in ("positive", "negative"):
        raise UserError(f"{folder / 'steering.json'}: direction is {direction!r}; it is positive or negative")
    return TraitDataset(paths.trait, tuple(items), rubric, questions, direction)


def _suggestion(paths: TraitPaths) -> str:
    known = known_traits(paths.root)
    close = [t for t in known if t.split("/")[-1] == paths.trait.split("/")[-1]] or known[:8]
    return f"; known: {', '.join(close)}" if close else ""


def known_traits(root: Path) -> list[str]:
    """Return every trait that has a dataset folder, by full path."""
    base = root / "datasets" / "traits"
    folders = {file.parent for name in DATASET_FILES for file in base.rglob(name)}
    return sorted(folder.relative_to(base).as_posix() for folder in folders)


Parts = tuple[list[Item], list[Example], dict]


def _read_scenarios(folder: Path) -> Parts:
    """Form 1: one unfinished prompt a line, line i of one side mirrors line i of the other."""
    items: list[Item] = []
    examples: list[Example] = []
    for side, stem in SCENARIO_FILES.items():
        for pair, prompt in _read_prompts(folder, stem):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            items.append(Item(side, pair, pair, len(examples), prompt))
            examples.append(Example(side, pair, text))
    return items, examples, {}


def _read_prompts(folder: Path, stem: str) -> list[tuple[int, Prompt]]:
    """Return (line number from 0, prompt): a blank line on one side leaves its mirror without a partner and shifts nothing."""
    rich, plain = folder / f"{stem}.jsonl", folder / f"{stem}.txt"
    if rich.exists():
        return [(number, _rich_prompt(record, where)) for number, where, record in _records(rich)]
    if not plain.exists():
        raise UserError(f"{folder} has no {plain.name} (or {rich.name}); a trait needs both sides, one unfinished prompt a line")
    lines = _read_text(plain).split("\n")  # never stripped: a line may end in an open quote or a space
    return [(number, line) for number, line in enumerate(lines) if line.strip()]


def _rich_prompt(record: dict, where: str) -> Prompt:
    text = _string(record, "prompt", where)
    if "system_prompt" not in record:
        return text
    return [{"role": "system", "content": _string(record, "system_prompt", where)}, {"role": "user", "content": text}]


def _read_instructions(folder: Path) -> Parts:
    """Form 2: every pair of instructions (as system prompts) meets every question."""
    path = folder / "trait_definition.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object with instruction and questions")
    pairs, questions = content.get("instruction"), content.get("questions")
    if not isinstance(pairs, list) or not isinstance(questions, list) or not pairs or not questions:
        raise UserError(f"{path} must have non-empty lists 'instruction' and 'questions'")
    items: list[Item] = []
    examples: list[Example] = []
    for i, pair in enumerate(pairs):
        for side in SIDES:
            instruction = _string(pair, side, f"{path}: instruction {i + 1}")
            for j, question in enumerate(questions):
                prompt = [{"role": "system", "content": instruction}, {"role": "user", "content": _question(question, path)}]
                items.append(Item(side, i * len(questions) + j, j, len(examples), prompt))
            examples.append(Example(side, i, instruction))
    return items, examples, {"questions": questions, "eval_prompt": content.get("eval_prompt")}


def _read_answers(folder: Path) -> Parts:
    """Form 3: both responses are given."""
    path = folder / "pairs.jsonl"
    items: list[Item] = []
    examples: list[Example] = []
    for pair, where, record in _records(path):
        prompt: Prompt = [{"role": "user", "content": _string(record, "question", where)}]
        for side, field in SCENARIO_FILES.items():
            response = _string(record, field, where)
            items.append(Item(side, pair, pair, len(examples), prompt, response))
            examples.append(Example(side, pair, response))
    return items, examples, {}


def _read_definition(folder: Path) -> str:
    for name in ("definition.txt", "trait_definition.txt"):
        if (folder / name).exists():
            if text := _read_text(folder / name).strip():
                return text
            raise UserError(f"{folder / name} is empty: say there what the trait is, for the judge")
    if (folder / "trait_definition.json").exists():
        return ""  # this form defines its trait by the eval prompt
    raise UserError(f"{folder} has no definition.txt: say there what the trait is, for the judge")


def _read_steering(folder: Path) -> dict:
    path = folder / "steering.json"
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("questions", []), list):
        raise UserError(f"{path} must hold an object with a list 'questions'")
    return content


def _eval_prompt(steering: dict, folder: Path) -> str | None:
    prompt = steering.get("eval_prompt")
    if prompt is None:
        return None
    if not isinstance(prompt, str) or "{question}" not in prompt or not ("{answer}" in prompt or "{response}" in prompt):
        raise UserError(f"{folder}: eval_prompt must be a text with {{question}} and {{answer}} (or {{response}}) in it")
    return prompt


def _question(value: Any, where: Path) -> str:
    text = value.get("question") if isinstance(value, dict) else value
    if not _is_text(text):
        raise UserError(f"{where}: a question must be a text, or an object with 'question'; found {str(value)[:60]!r}")
    return text


def _records(path: Path) -> Iterator[tuple[int, str, dict]]:
    for number, line in enumerate(_read_text(path).split("\n")):
        if not line.strip():
            continue
        where = f"{path}, line {number + 1}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} must be a JSON object")
        yield number, where, record


def _string(record: Any, field: str, where: str) -> str:
    value = record.get(field) if isinstance(record, dict) else None
    if not _is_text(value):
        raise UserError(f"{where}: {field!r} must be a non-empty text")
    return value


def _is_text(value: Any) -> TypeGuard[str]:
    """A text that a UTF-8 file can hold: JSON can escape half a character."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # newlines of other systems become \n
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; it must be a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
