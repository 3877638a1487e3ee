"""Errors that a user can mend."""

import errno


class UserError(Exception):
    """Something the user can fix: shown as one line that says what to do, without a traceback; the exit
    status is 1.
    """


def first_line(error: BaseException) -> str:
    """Return what an error says, cut to one line: a heading that ends in a colon stands with what follows it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1]}"
    return said.rstrip(".")


_NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)
# something else lies where a file or folder should be, or the disk itself fails
_IN_THE_WAY = (
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY),
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE),
)


def is_disk_error(error: OSError) -> bool:
    """Tell a disk that the user can mend (full, read-only, forbidden, a file where a folder should be) from other
    operating-system errors.
    """
    return error.errno in (*_NO_ROOM, *_IN_THE_WAY)


def explain_disk_error(error: OSError) -> str:
    """Say in one line what to do about it."""
    where = error.filename or "a file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot open {where}: {error.strerror}; make it readable and writable, then run the same command again"
    if error.errno in _IN_THE_WAY:
        return f"cannot use {where}: {error.strerror}; mend that, then run the same command again"
    return (
        f"cannot write {where}: {error.strerror}; make room or make it writable, then run the same command "
        "again"
    )
