"""The files of a trait dataset: which of them decide, and their content as text, records and objects.

Lines of a text file that begin with `#:` are comments and count as blank, so that pairs, which go by line
number, stay together; in JSON the key `_comment` is one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import is_there, parse_json, read_bytes, read_json

COMMENT = "#:"
NOTE = "_comment"
SCENARIO_FILES = {"pos": "positive", "neg": "negative"}
DEFINITIONS = ("definition.txt", "trait_definition.txt")
STEERING = "steering.json"
ANSWERS = "pairs.jsonl"
INSTRUCTIONS = "trait_definition.json"
EVALUATION = "trait_definition_eval.json"
SCENARIOS = tuple(f"{stem}.{ending}" for stem in SCENARIO_FILES.values() for ending in ("txt", "jsonl"))
DATASET_FILES = (*SCENARIOS, INSTRUCTIONS, EVALUATION, ANSWERS, *DEFINITIONS, STEERING)
# the same two files under the names that persona_vectors and its users gave them: (of the extraction
# questions, of the evaluation questions)
FOREIGN_PAIRS = (("*_extract.json", "*_eval.json"), ("trait_data_extract/*.json", "trait_data_eval/*.json"))


def form_of(folder: Path) -> str | None:
    """Return the form that a folder's files make it: instructions, answers or scenarios; None without any
    prompts.
    """
    if is_there(folder / INSTRUCTIONS):
        return "instructions"
    if is_there(folder / ANSWERS):
        return "answers"
    if any(is_there(folder / name) for name in SCENARIOS):
        return "scenarios"

    return "instructions" if any(_foreign(folder, pattern) for pattern, _ in FOREIGN_PAIRS) else None


def _foreign(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if is_there(path))


def instruction_files(folder: Path) -> tuple[Path, Path | None]:
    """Return the file with the instructions and extraction questions, and the one with the evaluation
    questions, where there is one.

    Raises:
        UserError: several files could be meant.
    """
    if is_there(folder / INSTRUCTIONS):
        return folder / INSTRUCTIONS, folder / EVALUATION if is_there(folder / EVALUATION) else None

    for extract, evaluate in FOREIGN_PAIRS:
        if found := _foreign(folder, extract):
            chosen = _only(folder, found)
            twin = (
                chosen.name.removesuffix("_extract.json") + "_eval.json"
                if "/" not in extract
                else chosen.name
            )
            path = folder / Path(evaluate).parent / twin
            return chosen, path if is_there(path) else None

    raise UserError(f"{folder} has no {INSTRUCTIONS}")


def _only(folder: Path, found: list[Path]) -> Path:
    """Return the one candidate, or the one with the folder's name."""
    named = [path for path in found if path.name in (f"{folder.name}.json", f"{folder.name}_extract.json")]
    if len(named or found) > 1:
        raise UserError(
            f"{folder} has several traits ({', '.join(p.name for p in found[:4])} …); give each a folder, "
            f"or name one {folder.name}.json"
        )
    return (named or found)[0]


def dataset_files(paths: TraitPaths) -> list[Path]:
    """Return the dataset's files that exist, of those the reader knows."""
    folder = paths.dataset
    known = [folder / name for name in DATASET_FILES if is_there(folder / name)]
    if form_of(folder) == "instructions":
        known += [path for path in instruction_files(folder) if path and path not in known]
    return known


def prompt_files(paths: TraitPaths) -> list[Path]:
    """Return the files that decide what is generated: everything but the definition and what only
    evaluates.
    """
    evaluation = instruction_files(paths.dataset)[1] if form_of(paths.dataset) == "instructions" else None
    return [
        path
        for path in dataset_files(paths)
        if path.name not in (*DEFINITIONS, STEERING, EVALUATION) and path != evaluation
    ]


def known_traits(root: Path) -> list[str]:
    """Return every trait that has a dataset folder, by full path; a folder with only a definition is one
    of them.
    """
    base = root / "datasets" / "traits"
    folders = {file.parent for name in DATASET_FILES for file in base.rglob(name)}
    for extract, _ in FOREIGN_PAIRS:
        folders |= {file.parents[extract.count("/")] for file in base.rglob(extract)}
    names = (folder.relative_to(base).as_posix() for folder in folders)
    return sorted(name for name in names if 2 <= len(name.split("/")) <= 5)


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark; newlines of other systems become \\n."""
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 0, line), never stripped, of the lines that are neither blank nor a comment."""
    for number, line in enumerate(read_text(path).split("\n")):
        if line.strip() and not line.startswith(COMMENT):
            yield number, line


def read_records(path: Path) -> Iterator[tuple[int, str, dict]]:
    """Yield (line number from 0, where in words, object) of a JSON-lines file; an object with nothing but
    a comment counts as blank.
    """
    for number, line in read_lines(path):
        where = f"{path}, line {number + 1}"
        try:
            record = parse_json(line.encode())
        except ValueError as error:
            raise UserError(f"{where} is not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} must be a JSON object")
        if record.keys() != {NOTE}:
            yield number, where, record


def read_object(path: Path, keys: str) -> dict:
    """Read a JSON file that must hold an object with these keys."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object with {keys}")
    return content


def string_in(record: Any, field: str, where: str) -> str:
    """Return a field that must be a non-empty text."""
    value = record.get(field) if isinstance(record, dict) else None
    if not is_text(value):
        raise UserError(f"{where}: {field!r} must be a non-empty text")
    return value


def is_text(value: Any) -> TypeGuard[str]:
    """Tell a text that a UTF-8 file can hold: JSON can escape half a character."""
    return (
        isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)
    )
