"""Commands in forks of one process that has everything imported: a trial costs milliseconds, not seconds.

The parent never runs a command and never a backward pass, which a fork could not repeat; it only imports, and
warms what is the same for everybody: the embedded judge's sentences.
"""

import importlib
import os
import re
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from conftest import call_as_shell

from traitscope.utils.stage.manifest import provenance

LIMIT = 60.0  # seconds after which a command counts as hanging
ROOM = 4 << 30  # bytes beyond what the parent maps: a file that decompresses without end meets them
STAGES = ("0_vet_scenarios", "1_generate_responses", "2_vet_responses", "3_capture_activations")
SCRIPTS = {
    "extraction": (
        "run_pipeline",
        *STAGES,
        "4_fit_vectors",
        "5_steer_evaluate",
        "import_vectors",
        "check_trait",
        "trait_table",
    ),
    "analysis": (
        "compare_groups",
        "compare_models",
        "cross_trait",
        "draw_steering",
        "export_vectors",
        "judge_agreement",
    ),
    "inference": ("capture_raw_activations", "project_activations", "monitor_dynamics", "chat"),
}
WINGS = {name: wing for wing, names in SCRIPTS.items() for name in names}
UNEXPECTED = re.compile(r"Traceback|unexpected \w+|Fatal Python error|core dumped|Exception ignored")
DISK_FULL = re.compile(r"No space left|File too large")


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int  # exit status; below 0 the signal that ended it
    out: str
    err: str
    is_late: bool = False
    peak: int = 0  # bytes of memory at most

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def kind(self) -> str:
        """Return ok, one_line, killed, traceback or hang."""
        if self.is_late:
            return "hang"
        if self.status == -signal.SIGKILL:
            return "killed"
        if UNEXPECTED.search(self.said) or self.status not in (0, 1):
            return "traceback"
        if self.status == 0:
            return "ok"
        return "one_line" if is_one_line(self.err) else "traceback"

    @property
    def last(self) -> str:
        """Return the last line that it printed."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


def is_one_line(err: str) -> bool:
    """Tell whether a refusal is one line, or the documented list of the traits that failed."""
    lines = [line for line in err.splitlines() if line.strip() and not is_chatter(line)]
    begun = [i for i, line in enumerate(lines) if line.startswith("error:")]
    if len(begun) != 1:
        return False
    before, after = lines[: begun[0]], lines[begun[0] + 1 :]
    return all(re.match(r"\[\w+\] \S+: failed: ", x) for x in before) and all(
        x.startswith("  ") for x in after
    )


def is_chatter(line: str) -> bool:
    """Tell whether a line of stderr is a note, a warning or a progress bar."""
    return bool(re.match(r"\s*(note|warning|.*Warning): ?|\s+warnings\.warn|.*\|.*\||\r", line))


@dataclass
class Job:
    """What a fork does: a command line, or a function."""

    script: str = ""
    arguments: tuple[str, ...] = ()
    action: Callable[[], None] | None = None
    before: Callable[[], None] | None = None  # is called in the fork, ahead of the command
    stdin: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def module_of(script: str):
    """Return the module of a command."""
    if script.startswith("r2_"):
        return importlib.import_module("traitscope.utils.sync.main")
    return importlib.import_module(f"traitscope.{WINGS[script]}.{script}")


def warm_up() -> None:
    """Import whatever a command may need, once, and ask git once."""
    import sentence_transformers  # noqa: F401
    import torch
    from fastapi.testclient import TestClient  # noqa: F401

    torch.set_num_threads(1)
    for script in WINGS:
        module_of(script)
    for name in ("visualization.app", "visualization.library", "utils.sync.main", "utils.judge.embedded"):
        importlib.import_module(f"traitscope.{name}")
    provenance()


class Running:
    """A fork under way."""

    def __init__(self, job: Job, root: Path) -> None:
        self.outputs = [os.memfd_create(name) for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(job, root, self.outputs)
        self.handle = os.pidfd_open(self.pid)

    def kill(self) -> None:
        """End it and what it started, as a power cut does."""
        for end, number in ((os.killpg, self.pid), (os.kill, self.pid)):
            with suppress(ProcessLookupError):
                end(number, signal.SIGKILL)

    def wait(self, limit: float = LIMIT) -> Outcome:
        """Wait for its end, or end it."""
        is_late = not select.select([self.handle], [], [], limit)[0]
        if is_late:
            self.kill()
        _, status, used = os.wait4(self.pid, 0)
        os.close(self.handle)
        texts = [_take(handle) for handle in self.outputs]
        return Outcome(os.waitstatus_to_exitcode(status), *texts, is_late, used.ru_maxrss << 10)


def _take(handle: int) -> str:
    """Return what a process wrote to a file in memory, and close it."""
    with os.fdopen(handle, "rb") as file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _be_child(job: Job, root: Path, outputs: list[int]) -> None:
    """Run the job; never return."""
    status = 70
    try:
        os.setpgid(0, 0)
        _settle(job, root, outputs)
        if job.before:
            job.before()
        status = _run(job)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _settle(job: Job, root: Path, outputs: list[int]) -> None:
    """Take over the standard streams, the environment and a limit of memory."""
    typed = os.memfd_create("in")
    os.write(typed, job.stdin.encode())
    os.lseek(typed, 0, os.SEEK_SET)
    for handle, number in ((typed, 0), (outputs[0], 1), (outputs[1], 2)):
        os.dup2(handle, number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    os.environ |= {"TRAITSCOPE_ROOT": str(root)} | job.environment
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, resource.RLIM_INFINITY))


def _run(job: Job) -> int:
    if job.action:
        job.action()
        return 0
    try:
        if job.script.startswith("r2_"):
            _synchronise(job)
        else:
            call_as_shell(module_of(job.script), *job.arguments)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):  # as the interpreter does
            print(leaving.code, file=sys.stderr)
            return 1
        return leaving.code or 0
    return 0


def _synchronise(job: Job) -> None:
    from traitscope.utils.stage.command import command
    from traitscope.utils.sync.main import direction_command

    sys.argv = [f"utils/{job.script}.sh", *job.arguments]
    command(direction_command(job.script.removeprefix("r2_")))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def run(job: Job, root: Path, limit: float = LIMIT) -> Outcome:
    """Run one job to its end."""
    return Running(job, root).wait(limit)


def run_together(jobs: Iterable[Job], root: Path, limit: float = LIMIT) -> list[Outcome]:
    """Run several at once, over one root."""
    running = [Running(job, root) for job in jobs]
    return [one.wait(limit) for one in running]
