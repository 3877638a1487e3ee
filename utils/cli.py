"""The command line of every script: flags checked before anything expensive starts, help by Fire."""

import difflib
import errno
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from fire import helptext, trace

from utils.errors import UserError
from utils.flags import REQUIRED, Flag


def run_cli(main: Callable[..., None], flags: dict[str, Flag], doc: str) -> None:
    """Parse sys.argv into `flags` and call `main(**values)` with those given, each of its declared type.

    An unknown flag, a stray argument or a value of the wrong type stops before `main` runs. Exit status: 0, 1 for a UserError or a
    failing disk (one line, no traceback), 130 when interrupted, 141 when nobody reads the output any more.
    """
    try:
        given = parse_arguments(sys.argv[1:], flags)
        if given is None:
            _show_help(main, flags, doc)
        else:
            main(**given)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush does not complain
        sys.exit(141)
    except OSError as error:
        if not is_disk_error(error):
            raise
        sys.exit(f"error: {explain_disk_error(error)}")
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again and it goes on where it stopped", file=sys.stderr)
        sys.exit(130)


def parse_arguments(argv: list[str], flags: dict[str, Flag]) -> dict | None:
    """Return {name: value} of the flags given, or None when help was asked for.

    Values are read by their flag's type and never guessed, so that `--experiment 1_0` stays a name and `--layers 16` a text.
    """
    given: dict = {}
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token in ("--help", "-h"):
            return None
        if not token.startswith("--"):
            flag = _positional(token, flags, given)
            given[flag.name] = flag.coerce(token)
            continue
        name, equals, value = token[2:].partition("=")
        flag = _known(name.replace("-", "_"), flags)
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True" if flag.kind is bool else _missing(flag)
        given[flag.name] = flag.coerce(value)
    absent = [flag.name for flag in flags.values() if flag.default is REQUIRED and flag.name not in given]
    if absent:
        name = absent[0].upper() if flags[absent[0]].is_positional else f"--{absent[0].replace('_', '-')}"
        raise UserError(f"missing {name}: {flags[absent[0]].help}")
    return given


def _positional(token: str, flags: dict[str, Flag], given: dict) -> Flag:
    """Return the flag that a bare argument stands for, where the script has declared one."""
    for flag in flags.values():
        if flag.is_positional and flag.name not in given:
            return flag
    raise UserError(f"unexpected argument {token!r}; every setting is a flag, see --help")


def _known(name: str, flags: dict[str, Flag]) -> Flag:
    if name in flags:
        return flags[name]
    close = difflib.get_close_matches(name, flags, 1)
    hint = f"did you mean --{close[0].replace('_', '-')}?" if close else f"known: {', '.join('--' + f.replace('_', '-') for f in sorted(flags))}"
    raise UserError(f"unknown flag --{name.replace('_', '-')}; {hint}")


def _missing(flag: Flag) -> str:
    raise UserError(f"--{flag.name.replace('_', '-')} needs a value: {flag.help}")


def _show_help(main: Callable[..., None], flags: dict[str, Flag], doc: str) -> None:
    """Print Fire's help of a function that has just these flags, less the one-letter forms that are not accepted here."""

    def command(**values: object) -> None:
        main(**values)

    kinds = {True: inspect.Parameter.POSITIONAL_OR_KEYWORD, False: inspect.Parameter.KEYWORD_ONLY}
    ordered = sorted(flags.values(), key=lambda f: not f.is_positional)
    command.__signature__ = inspect.Signature([inspect.Parameter(f.name, kinds[f.is_positional], default=f.default) for f in ordered])  # type: ignore[attr-defined]
    command.__doc__ = "\n".join([doc.strip().split("\n\nArgs:")[0], "", "Args:", *(f"    {f.name}: {f.help}" for f in flags.values())])
    name = f"python {Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}"
    text = helptext.HelpText(command, trace.FireTrace(command, name=name))
    print(re.sub(r"-\w, --(\w+)", r"--\1", text).replace(f"'{name}'", name))


def is_disk_error(error: OSError) -> bool:
    """Tell a full, read-only or forbidden disk (the user's to mend) from other operating-system errors."""
    return error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)


def explain_disk_error(error: OSError) -> str:
    """Say in one line what to do about it."""
    return f"cannot write {error.filename or 'a file'}: {error.strerror}; make room or make it writable, then run the same command again"
