"""Kill a command at its n-th file operation, or at any moment: its readers see the old or the new, and the
same command again ends with the same bytes.
"""

import builtins
import json
import mmap
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from campaign.bench import Bench
from campaign.forks import Running, run
from campaign.observe import Snapshot, contents, differing
from campaign.works import Work, ask, replace_by, works

BATCH = 7  # answers of a batch, by the bench's --batch-size
JOURNAL = ".progress.jsonl"  # left behind it is litter, and no result
WRITING = ("w", "a", "x", "+")


class Board:
    """Numbers that a fork and its parent share: operations so far, journal lines so far."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    def add(self, place: int) -> int:
        """Count one more, and return the new number."""
        value = self.read(place) + 1
        struct.pack_into("q", self.memory, 8 * place, value)
        return value

    def read(self, place: int) -> int:
        return struct.unpack_from("q", self.memory, 8 * place)[0]


@dataclass(frozen=True)
class Kill:
    """When a command is killed: at an operation, before it, after it or in it, or after some seconds."""

    operation: int = 0
    how: str = "before"  # before, after, torn
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.how} operation {self.operation}" if self.operation else f"after {self.seconds:.2f} s"


def watch(board: Board, kill: Kill | None) -> None:
    """Count what the process does to files, and end it at the operation that is meant."""
    from traitscope.utils.files.journal import Journal

    def wrap(owner: Any, name: str, counts: Callable[..., bool] = lambda *_, **__: True) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            is_meant = counts(*arguments, **options) and board.add(0) == (kill.operation if kill else -1)
            if is_meant and kill and kill.how != "after":
                _die(kill.how == "torn" and name == "fsync" and arguments[0])
            result = real(*arguments, **options)
            if is_meant:
                _die(False)
            return result

        setattr(owner, name, watched)

    for name in ("replace", "fsync", "unlink", "truncate", "rename", "mkdir"):
        wrap(os, name)
    wrap(builtins, "open", lambda file, mode="r", *_, **__: any(x in mode for x in WRITING))
    add = Journal.add

    def count(self: Journal, *arguments: Any) -> None:
        add(self, *arguments)
        board.add(1)

    Journal.add = count  # type: ignore[method-assign]


def _die(torn: int | bool) -> None:
    """Die as in a power cut; of the file being synced a part may be missing."""
    if torn is not False and torn is not True:
        size = os.fstat(torn).st_size
        os.ftruncate(torn, size - min(size, 1 + size % 37))
    os.kill(os.getpid(), signal.SIGKILL)


class KillTrials:
    """Works that are killed, read, and run again."""

    def __init__(self, bench: Bench, seed: int, log: Path) -> None:
        self.bench, self.seed, self.log = bench, seed, log
        self.counts: Counter[tuple[str, str]] = Counter()
        self.most_lost = 0

    def measure(self, work: Work, root: Path) -> tuple[int, int, float]:
        """Return how many operations and journal lines the work takes undisturbed, and its seconds."""
        board, start = Board(), time.monotonic()
        job = replace(work.job(root), before=lambda: watch(board, None))
        done = run(job, root)
        assert done.kind == "ok", done.said
        return board.read(0), board.read(1), time.monotonic() - start

    def run_work(self, work: Work, points: int, deadline: float) -> None:
        """Kill a work at so many points."""
        root = self.bench.scratch / "killed"
        snapshot = _begin(work, root)
        size = self.measure(work, root)
        for point in range(points):
            if time.monotonic() > deadline:
                break
            snapshot.restore()
            rng = Random(f"{self.seed}/{work.name}/{point}")
            self.run_point(work, root, _choose(rng, size), size[1], rng)

    def run_point(self, work: Work, root: Path, kill: Kill, lines: int, rng: Random) -> None:
        """Kill once; read; run again."""
        board = Board()
        job = replace(work.job(root), before=lambda: watch(board, kill))
        running = Running(job, root)
        if kill.seconds:
            time.sleep(kill.seconds)
            running.kill()
        killed = running.wait()
        self._keep(
            work,
            kill,
            "killing",
            killed.kind if killed.kind in ("traceback", "hang") else "done",
            killed.last,
        )
        self._read(work, root, kill, rng)
        self._finish(work, root, kill, board.read(1), lines)

    def _read(self, work: Work, root: Path, kill: Kill, rng: Random) -> None:
        half = Snapshot(root)
        for reader in rng.sample(work.readers, min(2, len(work.readers))):
            done = ask(self.bench, root, reader)
            self._keep(work, kill, reader, *work.judge(reader, done, root))
            half.restore()

    def _finish(self, work: Work, root: Path, kill: Kill, written: int, lines: int) -> None:
        board = Board()
        done = run(replace((work.again or work.job)(root), before=lambda: watch(board, None)), root)
        if done.kind != "ok":
            self._keep(
                work, kill, "again", "not_finished" if done.kind == "one_line" else done.kind, done.last
            )
            return
        other = [rel for rel in differing(contents(root), work.end) if not rel.endswith(JOURNAL)]
        self._keep(work, kill, "again", "other_bytes" if other else "same_bytes", ", ".join(other[:3]))
        litter = [p.name for p in root.rglob("*") if p.name.endswith((".tmp", JOURNAL))]
        if litter:
            self._keep(work, kill, "again", "litter", litter[0])
        lost = written + board.read(1) - lines
        self.most_lost = max(self.most_lost, lost)
        if lost > BATCH:
            self._keep(work, kill, "again", "lost_work", f"{lost} answers")

    def _keep(self, work: Work, kill: Kill, step: str, outcome: str, last: str) -> None:
        self.counts[work.name, outcome] += 1
        if outcome in BAD or outcome in ("noted", "litter"):
            case = {"seed": self.seed, "work": work.name, "kill": str(kill), "step": step}
            with open(self.log, "a") as file:
                file.write(json.dumps(case | {"outcome": outcome, "last": last}) + "\n")


BAD = ("mixture", "traceback", "hang", "other_bytes", "lost_work", "not_finished", "killed")


def _begin(work: Work, root: Path) -> Snapshot:
    replace_by(work.start, root)
    return Snapshot(root)


def _choose(rng: Random, size: tuple[int, int, float]) -> Kill:
    operations, _, seconds = size
    if rng.random() < 0.2:
        return Kill(seconds=rng.uniform(0.005, seconds))
    return Kill(rng.randint(1, max(1, operations)), rng.choice(("before", "after", "torn")))


def run_kills(bench: Bench, seed: int, points: int, log: Path, seconds: float = 1e9) -> dict:
    """Kill every work at `points` points in all; returns counts by work and outcome."""
    campaign, found = KillTrials(bench, seed, log), list(works(bench, seed, points // 3))
    deadline = time.monotonic() + seconds
    for i, work in enumerate(found):
        left = (deadline - time.monotonic()) / (len(found) - i)
        campaign.run_work(work, -(-points // len(found)), time.monotonic() + left)
    total: Counter[str] = Counter()
    for (_, outcome), n in campaign.counts.items():
        total[outcome] += n
    kinds = {f"{work}: {outcome}": n for (work, outcome), n in sorted(campaign.counts.items())}
    return {"counts": dict(total), "kinds": kinds, "most_lost": campaign.most_lost}
