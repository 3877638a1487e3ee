"""Errors that a user can mend."""


class UserError(Exception):
    """Something the user can fix: shown as one line that says what to do, without a traceback; the exit status is 1."""
