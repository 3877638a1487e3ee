"""Locks: one process at a time at what two would spoil. A lock dies with its process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import make_folder


@contextmanager
def hold(path: Path, busy: str, *, wait: bool | None = None) -> Iterator[None]:
    """Hold the lock file at a path; the lock, not the file, goes when the block ends.

    Args:
        busy: What is said when another process holds it, such as "another process runs …"; "" says nothing.
        wait: Wait for the other process, as long as it takes; None where the command has no --wait.

    Raises:
        UserError: another process holds it, or there can be no lock at that path.
    """
    lock = FileLock(path)
    try:
        make_folder(path.parent)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UserError(f"{path} is a link or a folder, and no lock; delete it")
        _acquire(lock, busy, wait)
    except OSError as error:
        if isinstance(error, Timeout):
            advice = "wait for it" if wait is None else "wait for it (--wait does)"
            raise UserError(f"{busy}; {advice}, or stop it") from None
        why = error.strerror or type(error).__name__
        raise UserError(f"cannot lock {path}: {why}; make its folder a writable one") from None

    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, busy: str, wait: bool | None) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        if busy:
            print(f"{busy}; waiting for it", flush=True)
        lock.acquire(timeout=-1)
