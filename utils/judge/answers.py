"""Answers of judges on disk, shared by all experiments and safe under concurrent processes (SQLite in WAL
mode).
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import cache_dir

SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


class AnswerCache:
    """Key → JSON value. Every `put` is on disk when it returns, so that a killed run loses only what was
    on its way.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "judge_answers.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._explain(error) from None
        except sqlite3.DatabaseError as error:
            self._replace_broken(error)

    def _open(self) -> None:
        self.db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        for attempt in range(50):  # the switch to WAL does not wait for another process that makes it
            try:
                self.db.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or attempt == 49:
                    raise
                time.sleep(0.1)

        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute(SCHEMA)

    def _replace_broken(self, error: sqlite3.DatabaseError) -> None:
        if isinstance(error, sqlite3.OperationalError):
            raise self._explain(error) from None

        aside = self.path.with_suffix(".broken")
        print(
            f"warning: {self.path} is damaged ({first_line(error)}); it is put aside as {aside.name}, and a "
            "new one is begun"
        )
        self.path.replace(aside)
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        self._open()

    def _explain(self, error: Exception) -> UserError:
        return UserError(
            f"cannot use {self.path}: {first_line(error)}; make room, make it writable, or set "
            "TRAITSCOPE_CACHE to another folder"
        )

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return {key: value} of the keys that are there."""
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                rows = self.db.execute(
                    f"SELECT key, value FROM answers WHERE key IN ({','.join('?' * len(part))})", part
                )
                found.update((key, json.loads(value)) for key, value in rows)
        except sqlite3.OperationalError as error:
            raise self._explain(error) from None
        except sqlite3.DatabaseError as error:  # damaged inside
            self.db.close()
            self._replace_broken(error)
            return {}

        return found

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        """Store one answer; the first one stays, unless it is to be replaced."""
        try:
            self.db.execute(
                f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO answers VALUES (?, ?)",
                (key, json.dumps(value)),
            )
        except sqlite3.Error as error:
            raise self._explain(error) from None

    def close(self) -> None:
        self.db.close()
