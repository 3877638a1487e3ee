"""Progress inside a long stage: an append-only JSONL file, keyed by what was asked, so that a crash costs
one item.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def key_of(*parts: Any) -> str:
    """Return a short digest of JSON-able parts: the same question gives the same key, in any process."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:24]


class Journal:
    """Answers already given, read once and appended to. A last line torn by a crash is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                record = None
            if (
                not isinstance(record, dict)
                or not isinstance(record.get("key"), str)
                or "answer" not in record
            ):
                break
            self.answers[record["key"]] = record["answer"]
            whole += len(line)

        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def add(self, key: str, answer: Any) -> None:
        """Append one answer and force it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answers[key] = answer
