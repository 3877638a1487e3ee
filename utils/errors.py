"""Errors that a user can mend."""


class UserError(Exception):
    """Something the user can fix: shown as one line that says what to do, without a traceback; the exit status is 1."""


def first_line(error: BaseException) -> str:
    """Return what an error says, cut to one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
