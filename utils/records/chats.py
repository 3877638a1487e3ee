"""Conversations that somebody brings, one a line: `{"messages": [{"role", "content"}, …], "score"?}`, the last message
the assistant's.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import is_inside, root_dir
from traitscope.utils.files.reading import digest
from traitscope.utils.records.dataset_files import is_text, read_records
from traitscope.utils.records.prompt_sets import messages_in

FIELD, SCORE = "messages", "score"


@dataclass(frozen=True)
class Chat:
    """A conversation, and the assistant's last turn in it."""

    line: int  # in its file, from 1
    prompt: tuple[dict[str, str], ...]  # all that stands before the response
    response: str
    score: float | None  # how strongly it shows the trait; None where nobody could say

    @property
    def is_told(self) -> bool:
        """Whether a system message stands in it."""
        return any(message["role"] == "system" for message in self.prompt)

    @property
    def asked(self) -> list[str]:
        """What the user says in it, in order."""
        return [message["content"] for message in self.prompt if message["role"] == "user"]


@dataclass(frozen=True)
class Chats:
    """The conversations of a file."""

    file: Path
    rows: list[Chat]
    has_scores: bool
    repeated: list[tuple[int, int]]  # (line, the line that it repeats) of those that were left out


def read_chats(file: Path, score_column: str = SCORE) -> Chats:
    """Read conversations. One that repeats another, with the same score, is left out.

    Args:
        score_column: The field with a number that says how strongly the response shows the trait; "" reads none.

    Raises:
        UserError: the file is missing or empty, or a line is no such conversation; the message names the line.
    """
    rows: list[Chat] = []
    seen: dict[tuple, Chat] = {}
    repeated: list[tuple[int, int]] = []
    has_scores = False

    for number, where, record in read_records(file):
        chat = _read(number + 1, where, record, score_column)
        has_scores = has_scores or score_column in record
        said = (tuple((m["role"], m["content"]) for m in chat.prompt), chat.response)
        if (first := seen.setdefault(said, chat)) is chat:
            rows.append(chat)
        elif first.score == chat.score:
            repeated.append((chat.line, first.line))
        else:
            raise UserError(
                f"{where} repeats line {first.line} with another {score_column} ({first.score} and {chat.score}); "
                "delete one"
            )

    if not rows:
        raise UserError(
            f'{file} is empty; it needs a line {{"{FIELD}": [{{"role", "content"}}, …]}} for each text'
        )
    if score_column not in ("", SCORE) and not has_scores:
        raise UserError(
            f"no line of {file} has {score_column!r}; name the field of the scores with --score-column"
        )
    return Chats(file, rows, has_scores, repeated)


def _read(line: int, where: str, record: dict[str, Any], score_column: str) -> Chat:
    messages = messages_in(record.get(FIELD), where)
    *prompt, last = messages or [{"role": "", "content": ""}]
    if last["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's: it is the response")
    if not is_text(last["content"]):
        raise UserError(f"{where}: the response is empty")
    if not any(message["role"] == "user" for message in prompt):
        raise UserError(f"{where}: no message of the user stands before the response")

    score = record.get(score_column) if score_column else None
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise UserError(f"{where}: {score_column!r} must be a number, or null; found {str(score)[:40]!r}")
    return Chat(line, tuple(prompt), last["content"], score)


def chats_file(given: str) -> Path:
    """Return the file that a flag names: from the current folder, or else from the root."""
    typed = Path(os.path.abspath(os.path.expanduser(given)))
    below = root_dir() / given
    return below if below.exists() and not typed.exists() else typed


def is_ours(file: Path) -> bool:
    """Tell whether a file lies below datasets/ or experiments/, so that it travels with the results."""
    root = root_dir()
    return file.is_relative_to(root) and is_inside(root, file)


def name_of(file: Path) -> str:
    """Return how a record names a file: below the root, or by its last part. Nobody needs to know where else it lay."""
    return file.relative_to(root_dir()).as_posix() if is_ours(file) else file.name


def identify_chats(given: str) -> str | None:
    """Return what a manifest remembers of the file that a flag names: its name; of one that is no input of the stage,
    because it lies elsewhere, what is in it as well.
    """
    if not given:
        return None
    file = chats_file(given)
    if is_ours(file):
        return name_of(file)
    found = digest(file)
    return f"{name_of(file)} ({f'sha256 {found[:16]}' if found else 'which does not exist'})"
