"""Progress inside a long stage: an append-only JSONL file, keyed by what was asked, so that a crash costs
one item. Every line ends in a seal of its own.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from traitscope.utils.files.artifacts import make_folder, write_bytes
from traitscope.utils.files.reading import fits_seal, has_seal, is_there, parse_json, read_bytes, sealed


def key_of(*parts: Any) -> str:
    """Return a short digest of JSON-able parts: the same question gives the same key, in any process."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:24]


class Journal:
    """Answers already given, read once and appended to. A line that was torn by a crash, or damaged, is dropped:
    what it held is asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        if is_there(path):
            self._read()

    def _read(self) -> None:
        lines = read_bytes(self.path).splitlines(keepends=True)
        read = [(_read_line(line), line) for line in lines]
        whole = [line for record, line in read if record]
        self.answers = {record["key"]: record["answer"] for record, _ in read if record}

        if len(whole) < len(lines):  # else the next line would be written behind half a line
            write_bytes(self.path, b"".join(whole))

    def add(self, key: str, answer: Any) -> None:
        """Append one answer and force it to disk."""
        make_folder(self.path.parent)
        line = sealed(json.dumps({"key": key, "answer": answer}, ensure_ascii=False))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers[key] = answer


def _read_line(line: bytes) -> dict | None:
    """Return what a line holds, or None where it is not just as it was written."""
    if not (line.endswith(b"\n") and has_seal(line) and fits_seal(line)):
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    is_answer = isinstance(record, dict) and isinstance(record.get("key"), str) and "answer" in record
    return record if is_answer else None
