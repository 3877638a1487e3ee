"""Files, read so that nothing damaged is believed and nothing odd is waited for.

A JSON file that this project wrote ends in a *seal*: the sha256 of all the bytes before it. A file that no longer
fits its seal was changed since it was written, and is refused.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError

LARGEST = 512 << 20  # bytes of a file that is read as a whole; tensors are mapped instead
SEAL = "seal"
_SEALED = re.compile(rb',?\s*"seal": "([0-9a-f]{64})"\s*\}\s*\Z')
_TAIL = 200  # bytes at a file's end that hold its seal
# a number that no float holds, or half a character: only then is the slow, strict parser needed
_SUSPICIOUS = re.compile(rb"[\s:,\[-]\d[\d.]*[eE]\+?0*\d{3}|\d{300}|\\u[dD][89a-fA-F]")
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def is_there(path: Path) -> bool:
    """Tell whether there is anything at a path.

    Raises:
        UserError: it is a link to nothing: what is meant to be there is not the same as what is absent.
    """
    if path.exists():
        return True
    if path.is_symlink():
        raise UserError(f"{path} is a link to nothing; mend the link, or delete it")
    return False


def open_file(path: Path) -> io.BufferedReader:
    """Open a file to be read, whatever lies there: what is no regular file would be waited for for ever.

    Raises:
        FileNotFoundError: there is nothing.
        UserError: it may not be read, or is no regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        is_there(path)
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise UserError(
                f"{path} is a link to nothing; mend the link, or delete it"
            ) from None  # ValueError: a NUL in the name
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot read {path}: {why}") from None

    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
        raise UserError(f"{path} is {kind}; it must be a regular file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Return a file's content.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no regular file, may not be read, or holds more than `largest` bytes.
    """
    with open_file(path) as file:
        size = _require_small(path, file, largest)
        try:
            return file.read(size + 1)  # not "all there is", which reads in pieces
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None


def _require_small(path: Path, file: io.BufferedReader, largest: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if largest and size > largest:
        raise UserError(f"{path} holds {size >> 20} MB; at most {largest >> 20} are read")
    return size


def digest(path: Path, largest: int = 0) -> str | None:
    """Return the sha256 of a file's content, or None when there is no such file.

    Args:
        largest: Bytes above which a file is refused; 0 takes any.

    Raises:
        UserError: it is no regular file, too large, or may not be read.
    """
    try:
        with open_file(path) as file:
            _require_small(path, file, largest)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or errno.errorcode.get(error.errno or 0)}"
        ) from None


def read_json(path: Path) -> Any:
    """Read JSON; its seal, where it has one, is checked and left out.

    Raises:
        UserError: the file is missing, broken, or not as it was written; the line names it.
    """
    try:
        raw = read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    seal = _find_seal(raw)
    if seal and not _fits(raw, *seal):
        raise UserError(f"{path} was changed since it was written; run its stage again with --force")

    try:
        content = parse_json(raw, is_ours=seal is not None)
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); mend it, or delete it and run its stage again"
        ) from None
    return without_seal(content)


def parse_json(raw: bytes, *, is_ours: bool = False) -> Any:
    """Return what JSON holds: UTF-8, finite numbers, whole characters.

    Args:
        is_ours: It fits its seal, so that there is nothing odd to look for, which takes as long as reading it.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        text = raw.decode("utf-8-sig")
        if is_ours or not _SUSPICIOUS.search(raw):
            return json.loads(text, parse_constant=_refuse_constant)

        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_not_huge)
        json.dumps(content, ensure_ascii=False).encode()
        return content
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half a character, of a \\ud800 without its other half") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _not_huge(text: str) -> int:
    if len(text) > 300:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def sealed(text: str) -> str:
    """Return the text of a JSON object with a seal as its last field."""
    body = text[:-1].rstrip()
    comma, line = "" if body == "{" else ",", "\n " if "\n" in text else " "
    end = "\n" if "\n" in text else ""
    return f'{body}{comma}{line}"{SEAL}": "{hashlib.sha256(body.encode()).hexdigest()}"{end}}}'


def fits_seal(raw: bytes) -> bool:
    """Tell whether a file is as it was written; one without a seal, of an older version, is taken to be so."""
    found = _find_seal(raw)
    return found is None or _fits(raw, *found)


def _fits(raw: bytes, end: int, sha256: str) -> bool:
    return hashlib.sha256(memoryview(raw)[:end]).hexdigest() == sha256


def has_seal(raw: bytes) -> bool:
    """Tell whether a JSON object ends in a seal."""
    return _find_seal(raw) is not None


def _find_seal(raw: bytes) -> tuple[int, str] | None:
    start = max(0, len(raw) - _TAIL)
    match = _SEALED.search(raw, start)
    return (match.start(), match[1].decode()) if match else None


def without_seal(content: Any) -> Any:
    """Return what was read, without its seal."""
    if isinstance(content, dict):
        content.pop(SEAL, None)
    return content


def left_out_note(path: Path) -> Path:
    """Return the note, beside a file, of what a pull left out: {file name: how to get it}."""
    return path.with_name(".left_out.json")


def why_left_out(path: Path) -> str:
    """Say that a pull left a file out, and how to get it; "" when none did."""
    note = left_out_note(path)
    content = read_json(note) if is_there(note) else {}
    return str(content.get(path.name, "")) if isinstance(content, dict) else ""
