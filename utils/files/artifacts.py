"""Files, written so that nobody ever sees half of one."""

import io
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from traitscope.utils.errors import UserError
from traitscope.utils.files.reading import sealed


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a sibling temporary file, fsync, rename: a reader sees the old file or the new one."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to; what was written takes the path's place when the block ends without an
    error, and is deleted when not.
    """
    make_folder(path.parent)
    temporary = temporary_name(path)

    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UserError: something else lies in the way; the line names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        above = [path for path in (folder, *folder.parents) if os.path.lexists(path) and not path.is_dir()]
        raise UserError(f"{(above or [folder])[-1]} must be a folder, and is none; move it away") from None


def temporary_name(path: Path) -> Path:
    """Return where a file is written before it takes its place: beside it, hidden, named after this
    process and this machine.
    """
    return path.with_name(f".{path.name}.{os.getpid()}@{host_name()}.tmp")


def host_name() -> str:
    """Return this machine's name as part of a file's name."""
    return re.sub(r"[^\w-]+", "-", socket.gethostname())


def sweep_temporaries(folder: Path) -> None:
    """Delete what a killed process of this machine left half written; nothing ever reads such a file.

    What another machine writes into the same folder stays: whether its process still lives cannot be told
    from here.
    """
    for stale in folder.rglob(".*.tmp"):
        pid, _, host = stale.name.split(".")[-2].partition("@")
        is_ours = pid.isdigit() and host in ("", host_name())
        if is_ours and (int(pid) == os.getpid() or not is_running(int(pid))):
            stale.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine is alive."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def remove(path: Path) -> None:
    """Delete whatever lies at a path of ours, be it a folder that somebody put there; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, indent: int | None = 1, *, is_sealed: bool = True) -> None:
    """Write strict JSON (a NaN raises ValueError: a missing number is written as null, on purpose or not
    at all); no indent for long lists.

    Args:
        is_sealed: End an object in the digest of what it holds. Without, people may edit the file.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, (sealed(text) if is_sealed and isinstance(content, dict) else text) + "\n")


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG and close it, without the program's name and date, which would
    make every file differ.
    """
    from matplotlib import pyplot as plt

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, data.getvalue())
