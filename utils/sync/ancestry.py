"""Who descends from whom: a file here, the same file in the store, and what both were when the two sides
last agreed.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from traitscope.utils.errors import UserError
from traitscope.utils.sync.store import Stored
from traitscope.utils.sync.travel import check_path

Change = Literal["same", "mine", "theirs", "conflict", "deleted here", "deleted there"]


@dataclass(frozen=True)
class Entry:
    """A file as a finished push left it."""

    md5: str
    size: int
    left_out: bool = False  # it exists, but has not been sent
    was: tuple[str, ...] = ()  # its earlier digests: what they name is an ancestor

    def describes(self, found: Stored | None) -> bool:
        """Tell whether an object is this file; where the store gives no digest, its size must do."""
        return found is not None and found.size == self.size and found.md5 in ("", self.md5)


@dataclass(frozen=True)
class StoreRecord:
    """What the store holds of an experiment: the files of its last finished push. Objects that no record
    names do not exist.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    # who remembers agreeing with another store remembers nothing of this one
    store: str = field(default_factory=lambda: uuid.uuid4().hex)
    push: str = ""  # the push that wrote it
    incoming: str = ""  # where files wait that are still to be put in place; "" when all are
    gone: tuple[str, ...] = ()  # files still to be deleted

    def text(self) -> str:
        """Return the record as JSON."""
        files = {
            path: {k: v for k, v in asdict(entry).items() if v} | {"size": entry.size}
            for path, entry in sorted(self.files.items())
        }
        about = {
            "format": 1,
            "store": self.store,
            "push": self.push,
            "incoming": self.incoming,
            "gone": self.gone,
        }
        return json.dumps(about | {"files": files}, ensure_ascii=False, indent=1)

    def updated(self, new: Mapping[str, Entry], gone: set[str]) -> "StoreRecord":
        """Return the record after a push: a changed file remembers what it was."""
        files = {path: entry for path, entry in self.files.items() if path not in gone}
        for path, entry in new.items():
            old = self.files.get(path)
            changed = old is not None and old.md5 != entry.md5
            files[path] = replace(
                entry, was=() if old is None else (*old.was, old.md5) if changed else old.was
            )

        return replace(self, files=files, push=uuid.uuid4().hex)


def read_record(text: str, experiment: str) -> StoreRecord:
    """Return a record from its JSON.

    Raises:
        UserError: it is no record, or names a file outside its experiment.
    """
    try:
        content = json.loads(text)
        if content["format"] != 1:
            raise ValueError
        files = {check_path(path): _read_entry(entry) for path, entry in content["files"].items()}
        ids = {name: content[name] for name in ("store", "push", "incoming")}
        if not all(isinstance(value, str) and (value.isalnum() or not value) for value in ids.values()):
            raise ValueError
        return StoreRecord(files, **ids, gone=tuple(check_path(path) for path in content["gone"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"the store's record of {experiment} is not one that this version reads; update traitscope"
        ) from None


def _read_entry(content: dict) -> Entry:
    md5, size, was = content["md5"], content["size"], content.get("was", [])
    if not (isinstance(md5, str) and type(size) is int and isinstance(was, list)):
        raise ValueError
    return Entry(md5, size, bool(content.get("left_out")), tuple(map(str, was)))


def compare(
    local: Mapping[str, Stored], agreed: Mapping[str, str], files: Mapping[str, Entry]
) -> dict[str, Change]:
    """Return what happened to every file since both sides last agreed.

    Args:
        local: The files here.
        agreed: {path: MD5} when the sides last agreed; empty at the first contact, or where that was
            forgotten.
        files: The files of the store's record.
    """
    return {
        path: _compare(local.get(path), agreed.get(path), files.get(path))
        for path in sorted(local.keys() | files.keys())
    }


def _compare(mine: Stored | None, agreed: str | None, theirs: Entry | None) -> Change:
    if mine is None:
        assert theirs is not None
        return "deleted here" if theirs.md5 == agreed else "theirs"
    if theirs is None:
        return "deleted there" if mine.md5 == agreed else "mine"
    if mine.md5 == theirs.md5:
        return "same"
    if theirs.md5 == agreed:
        return "mine"
    if mine.md5 == agreed or (agreed is None and mine.md5 in theirs.was):
        return "theirs"

    return "conflict"
