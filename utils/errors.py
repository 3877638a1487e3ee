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


def is_disk_error(error: OSError) -> bool:
    """Tell a full, read-only or forbidden disk (the user's to mend) from other operating-system errors."""
    return error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)


def explain_disk_error(error: OSError) -> str:
    """Say in one line what to do about it."""
    where = error.filename or "a file"
    return (
        f"cannot write {where}: {error.strerror}; make room or make it writable, then run the same command "
        "again"
    )
