"""How a command ends when it is stopped: by ctrl-C with status 130, by SIGTERM with 143, and one line each.

Installed before anything large is imported, which takes seconds: until the command begins there is nothing to
lose, and the process ends at once. A notebook that imports traitscope keeps its own handlers.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
GO_ON = "run the same command again and it goes on where it stopped"


class Stopped(KeyboardInterrupt):
    """SIGTERM arrived, and everything under way is to end as after ctrl-C."""


_watched: list[signal.Signals] = []  # the signals that are ours: none in a test or a notebook


def watch(root: Path) -> None:
    """Take over the signals of a process that runs a command of the checkout at `root`; until the command
    begins, the first one ends it. What the shell told the process to ignore stays ignored.
    """
    main = getattr(sys.modules["__main__"], "__file__", None)
    wing = Path(main).resolve().parent if main else root
    if root not in wing.parents or {"tests", ".venv"} & set(wing.relative_to(root).parts):
        return

    _watched.extend(number for number in STATUS if signal.getsignal(number) is not signal.SIG_IGN)

    def end(number: int, _frame: FrameType | None) -> None:
        os.write(2, b"\ninterrupted before anything was begun\n")
        os._exit(STATUS[signal.Signals(number)])

    _handle(end)


def begin() -> None:
    """From here on, a signal raises in the main thread, so that what is open is closed."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped if number == signal.SIGTERM else KeyboardInterrupt

    _handle(stop)


def finish() -> None:
    """From here on, nothing is left to interrupt."""
    _handle(signal.SIG_IGN)


def explain(interrupt: KeyboardInterrupt) -> tuple[str, int]:
    """Return the line to print, and the exit status."""
    number = signal.SIGTERM if isinstance(interrupt, Stopped) else signal.SIGINT
    what = "terminated" if number == signal.SIGTERM else "interrupted"
    return f"{what}; {GO_ON}", STATUS[number]


def leave(status: int) -> NoReturn:
    """End an interrupted process at once: what it had open is closed, and taking large packages apart takes
    seconds.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if not _watched:  # a test or a notebook goes on
        sys.exit(status)
    os._exit(status)


def _handle(how: Any) -> None:
    for number in _watched:
        signal.signal(number, how)
