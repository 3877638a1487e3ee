"""The foot of every command: its flags are read, its experiment's config.json is heard, it runs, and what
fails is one line.

    if __name__ == "__main__":
        command(compare_groups)

A command is a function whose parameters are options dataclasses (see `flag`); they arrive filled: default <
config.json < flag.
"""

import difflib
import inspect
import io
import locale
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fire import formatting

from traitscope.utils.errors import UserError, explain_disk_error, is_disk_error
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.stage import interrupts
from traitscope.utils.stage.experiment import resolve_settings
from traitscope.utils.stage.flags import REQUIRED, Flag, bind, flags_of

HELP_WIDTH, FLAG_WIDTH = 100, 24


@dataclass(frozen=True)
class Command:
    """A function that is run with flags."""

    run: Callable[..., Any]
    others: Callable[[], dict[str, Flag]] = (
        dict  # further flags, handed to it as they were typed, in a dictionary `given`
    )
    doc: str = ""  # what --help begins with: the command line, and what it is for

    @property
    def flags(self) -> dict[str, Flag]:
        """Every flag of the command."""
        return self.others() | flags_of(self.run)


def command(what: Callable[..., Any] | Command) -> None:
    """Run a command with the arguments of this process.

    Exit status: 0, 1 for a UserError or a failing disk (one line, no traceback), 130 when interrupted, 143 when
    terminated, 141 when nobody reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no such letter must cost no work
            stream.reconfigure(errors="backslashreplace")

    try:
        interrupts.begin()
        require_utf8()
        run_command(what, sys.argv[1:])
        interrupts.finish()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        # so that the interpreter's last flush does not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if not is_disk_error(error):
            raise
        sys.exit(f"error: {explain_disk_error(error)}")
    except KeyboardInterrupt as interrupt:
        line, status = interrupts.explain(interrupt)
        print(f"\n{line}", file=sys.stderr)
        interrupts.leave(status)


def require_utf8() -> None:
    """Raise UserError where Python reads files and their names otherwise than in UTF-8, as every file here is
    written.
    """
    found = {sys.getfilesystemencoding().lower(), locale.getpreferredencoding(False).lower()}
    if not found <= {"utf-8", "utf8"}:
        raise UserError(
            f"Python reads files as {', '.join(sorted(found))} in this shell, and they are UTF-8; set PYTHONUTF8=1"
        )


def run_command(what: Callable[..., Any] | Command, argv: list[str]) -> None:
    """Run a command with the arguments given, or print its help.

    Raises:
        UserError: an argument is wrong, or the command says what the user must mend.
    """
    known = what if isinstance(what, Command) else Command(what)
    flags = known.flags
    given = parse_arguments(argv, flags)
    if given is None:
        print(render_help(known))
        return

    own = flags_of(known.run)
    arguments = bind(known.run, merge(own, {name: value for name, value in given.items() if name in own}))
    if known.others is not dict:
        arguments["given"] = {name: value for name, value in given.items() if name not in own}
    known.run(**arguments)


def merge(flags: dict[str, Flag], given: dict[str, Any]) -> dict[str, Any]:
    """Return every value that a command runs with: default < the experiment's config.json < flag.

    The config is heard wherever a command names an experiment, and speaks of settings alone: which model, how
    texts are drawn, who judges.
    """
    values = {name: flag.default for name, flag in flags.items() if flag.default is not REQUIRED}
    settings = {name: flag for name, flag in flags.items() if flag.is_setting}
    if not settings or "experiment" not in given:
        return values | given

    stated = {name: value for name, value in given.items() if name in settings}
    paths = ExperimentPaths(given["experiment"])
    resolved = resolve_settings(paths, settings, stated, needs_model=False)
    return values | given | {name: value for name, value in resolved.items() if name in settings}


def parse_arguments(argv: list[str], flags: dict[str, Flag]) -> dict | None:
    """Return {name: value} of the flags given, or None when help was asked for.

    Values are read by their flag's type and never guessed, so that `--experiment 1_0` stays a name and
    `--layers 16` a text.
    """
    given: dict = {}
    also: dict = {}  # by other names that a flag answers to
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
            value = (
                rest.pop(0)
                if rest and not rest[0].startswith("--")
                else "True"
                if flag.kind is bool
                else _missing(flag)
            )
        spelled = given if name.replace("-", "_") == flag.name else also
        spelled[flag.name] = flag.coerce(value)

    for name, value in also.items():
        given[name] = _joined(given.get(name), value)
    absent = [flag for flag in flags.values() if flag.default is REQUIRED and flag.name not in given]
    if absent:
        raise UserError(
            f"missing {absent[0].name.upper() if absent[0].is_positional else absent[0].typed}: "
            f"{absent[0].help}"
        )
    return given


def _joined(value: Any, other: Any) -> Any:
    """Return what a flag says that was typed by its name and by another: lists add up; of single values, the
    other name's counts, unless it is empty.
    """
    if isinstance(value, tuple):
        return (*value, *other)
    return other if other != "" or value is None else value


def _positional(token: str, flags: dict[str, Flag], given: dict) -> Flag:
    """Return the flag that a bare argument stands for, where the command has declared one."""
    for flag in flags.values():
        if flag.is_positional and flag.name not in given:
            return flag
    raise UserError(f"unexpected argument {token!r}; every setting is a flag, see --help")


def _known(name: str, flags: dict[str, Flag]) -> Flag:
    accepted = {other: flag for flag in flags.values() for other in flag.also} | flags
    if name in accepted:
        return accepted[name]

    close = difflib.get_close_matches(name, flags, 1)
    hint = (
        f"did you mean {flags[close[0]].typed}?"
        if close
        else f"known: {', '.join(sorted(f.typed for f in flags.values()))}"
    )
    raise UserError(f"unknown flag --{name.replace('_', '-')}; {hint}")


def _missing(flag: Flag) -> str:
    raise UserError(f"{flag.typed} needs a value: {flag.help}")


def render_help(known: Command) -> str:
    """Return the help of a command: the command line, what it is for, then its flags in groups under
    plain headings.
    """
    groups: dict[str, list[Flag]] = {}
    flags = known.flags
    for flag in sorted(flags.values(), key=lambda f: f.default is not REQUIRED):
        groups.setdefault(flag.group, []).append(flag)

    parts = [_usage(flags), _purpose(known)]
    for heading, members in groups.items():
        parts.append("\n".join([heading, *map(_line, members)]))
    return "\n\n".join(part for part in parts if part)


def _usage(flags: dict[str, Flag]) -> str:
    script = Path(sys.argv[0])
    needed = [flag for flag in flags.values() if flag.default is REQUIRED]
    shown = [
        flag.name.upper() if flag.is_positional else f"{flag.typed} {_placeholder(flag)}" for flag in needed
    ]
    name = "/".join(script.parts[-2:])
    return " ".join([name if script.suffix == ".sh" else f"python {name}", *shown, "[flags]"])


def _purpose(known: Command) -> str:
    """Return what a command's file says of itself: its docstring, in which the lines to type are indented."""
    return (known.doc or inspect.getmodule(known.run).__doc__ or inspect.getdoc(known.run) or "").strip()


def _placeholder(flag: Flag) -> str:
    kind = getattr(flag.kind, "__args__", None)
    return f"{flag.name.upper()}{',…' if kind and isinstance(kind, tuple) and kind[-1] is Ellipsis else ''}"


def _line(flag: Flag) -> str:
    stands = "" if flag.default in (REQUIRED, "", (), False, None) else f" Default: {_show(flag.default)}."
    text = formatting.WrappedJoin(
        f"{flag.help}{stands}".split(" "), separator=" ", width=HELP_WIDTH - FLAG_WIDTH
    )
    first, *rest = text or [""]
    head = f"  {flag.typed}"
    lead = (
        [head.ljust(FLAG_WIDTH) + first] if len(head) < FLAG_WIDTH - 1 else [head, " " * FLAG_WIDTH + first]
    )

    return "\n".join([*lead, *(" " * FLAG_WIDTH + line for line in rest)]).rstrip()


def _show(value: Any) -> str:
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
