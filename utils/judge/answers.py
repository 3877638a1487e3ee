"""Answers of judges on disk, shared by all experiments and safe under concurrent processes (SQLite in WAL
mode).

They quote what a judge was shown and said, so the file is its owner's alone to read. A value stands behind a
digest of itself and its key: a flipped bit or a swapped row is noticed, and the question is asked again.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import cache_dir

SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
MARK = "sha256:"  # begins a value with a digest; no JSON begins so, and older values are plain JSON
FILES = ("", "-wal", "-shm")  # of one database
# what a value can raise that was damaged, or written by somebody else
DAMAGE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


class AnswerCache:
    """Key → JSON value. Every `put` is on disk when it returns, so that a killed run loses only what was
    on its way.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "judge_answers.sqlite"
        self._damaged: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._explain(error) from None
        except sqlite3.DatabaseError as error:
            self._replace_broken(error)

    def _open(self) -> None:
        _keep_private(self.path)
        self.db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self.db.text_factory = bytes  # a text that is no UTF-8 is one damaged value, not a damaged file
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
        try:
            self.path.replace(aside)
            for ending in FILES[1:]:
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
            self._open()
        except (OSError, sqlite3.Error) as second:
            raise self._explain(second) from None

    def _explain(self, error: Exception) -> UserError:
        return UserError(
            f"cannot use {self.path}: {first_line(error)}; make room, make it writable, or set "
            "TRAITSCOPE_CACHE to another folder"
        )

    def get(self, keys: Sequence[str], read: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
        """Return {key: read(value)} of the keys that are there.

        A value whose digest does not fit, or that `read` cannot read, counts as not there; it is replaced by
        what is put next.
        """
        found: dict[str, Any] = {}
        try:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                rows = self.db.execute(
                    f"SELECT key, value FROM answers WHERE key IN ({','.join('?' * len(part))})", part
                )
                for key, stored in rows:
                    self._read_value(key.decode(), stored, read, found)
        except sqlite3.OperationalError as error:
            raise self._explain(error) from None
        except sqlite3.DatabaseError as error:  # damaged inside
            self.db.close()
            self._replace_broken(error)
            return {}

        return found

    def _read_value(self, key: str, stored: Any, read: Callable[[Any], Any], found: dict[str, Any]) -> None:
        try:
            found[key] = read(_unseal(key, stored))
        except DAMAGE:
            self._damaged.add(key)

    def put(self, key: str, value: Any, *, replace: bool = False) -> None:
        """Store one answer; the first one stays, unless it is damaged or to be replaced."""
        replace = replace or key in self._damaged
        try:
            self.db.execute(
                f"INSERT OR {'REPLACE' if replace else 'IGNORE'} INTO answers VALUES (?, ?)",
                (key, _seal(key, value)),
            )
        except sqlite3.Error as error:
            raise self._explain(error) from None
        self._damaged.discard(key)

    def close(self) -> None:
        self.db.close()


def _keep_private(path: Path) -> None:
    """Make a database's files readable by their owner alone, before anything is written to them.

    SQLite gives its two companions the mode of the main file. An existing file is never opened for this: to
    close it again would release the locks that another connection of this process holds on it.
    """
    path = Path(os.path.realpath(path))  # behind a link, the companions lie beside the file itself
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    for file in (path.with_name(path.name + ending) for ending in FILES):
        with suppress(OSError):  # not there, or not ours: its owner decides who reads it
            if file.is_file() and file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _seal(key: str, value: Any) -> str:
    text = json.dumps(value)
    return f"{MARK}{_digest(key, text)} {text}"


def _unseal(key: str, stored: bytes) -> Any:
    """Return a stored value; raise one of DAMAGE if it is not as it was written."""
    text = stored.decode()
    if text.startswith(MARK):
        digest, _, text = text.removeprefix(MARK).partition(" ")
        if digest != _digest(key, text):
            raise ValueError("the digest does not fit")
    return json.loads(text)


def _digest(key: str, text: str) -> str:
    return hashlib.sha256(f"{key} {text}".encode()).hexdigest()[:16]
