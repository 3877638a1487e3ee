"""A disk that is full at many moments: what stood before stays whole or is refused, the refusal is one line,
and with room again the same command ends with the same bytes.

A small tmpfs where one may be mounted; elsewhere a fork whose n-th write finds no room.
"""

import errno
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from campaign.bench import Bench
from campaign.forks import Outcome, run
from campaign.observe import Snapshot, contents, differing
from campaign.works import Work, ask, works

PAGE = 4096
BAD = ("mixture", "traceback", "hang", "other_bytes", "not_finished")


class SmallDisk:
    """A tmpfs of so many pages, which can grow."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mount(self, pages: int) -> bool:
        """Mount it, and tell whether that could be done."""
        self.place.mkdir(exist_ok=True)
        how = ["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(self.place)]
        return shutil.which("mount") is not None and _succeeds(how)

    def resize(self, pages: int) -> None:
        """Give it another size."""
        subprocess.run(["mount", "-o", f"remount,size={pages * PAGE}", str(self.place)], check=True)

    def unmount(self) -> None:
        """Let go of it."""
        subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)


def _succeeds(how: list[str]) -> bool:
    return subprocess.run(how, check=False, capture_output=True).returncode == 0


def lack_room(point: int) -> None:
    """Let the n-th sync or opening for writing find no room, and every one after it."""
    import builtins

    seen = [0]

    def refuse(*arguments: Any, **_: Any) -> None:
        seen[0] += 1
        if seen[0] >= point:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sync, open_ = os.fsync, builtins.open

    def synced(handle: int) -> None:
        refuse()
        sync(handle)

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wax+") and not isinstance(file, int):
            refuse()
        return open_(file, mode, *rest, **options)

    os.fsync, builtins.open = synced, opened  # type: ignore[assignment]


class DiskTrials:
    """Works that run out of room."""

    def __init__(self, bench: Bench, seed: int, log: Path) -> None:
        self.bench, self.seed, self.log = bench, seed, log
        self.counts: Counter[tuple[str, str]] = Counter()
        self.disk = SmallDisk(bench.scratch / "disk")
        self.is_mounted = self.disk.mount(64)
        self.disk.unmount()

    def run_point(self, work: Work, point: int) -> None:
        """Fill the disk once, read, and run the work again with room."""
        rng = Random(f"{self.seed}/{work.name}/{point}")
        if self.is_mounted:
            self.disk.mount(_pages(work.start) * 4)
            try:
                self._on_mount(work, rng, point)
            finally:
                self.disk.unmount()
        else:
            root = self.bench.scratch / "full"
            _copy(work.start, root)
            lacking = rng.randint(1, 120)
            done = run(replace(work.job(root), before=lambda: lack_room(lacking)), root)
            self._judge(work, root, rng, point, done)

    def _on_mount(self, work: Work, rng: Random, point: int) -> None:
        root = self.disk.place / "root"
        _copy(work.start, root)
        used = os.statvfs(self.disk.place)
        pages = used.f_blocks - used.f_bfree
        self.disk.resize(pages + rng.choice((0, 1, 2, rng.randint(0, 40), rng.randint(0, 250))))
        done = run(work.job(root), root)
        self._judge(work, root, rng, point, done)

    def _judge(self, work: Work, root: Path, rng: Random, point: int, done: Outcome) -> None:
        self._keep(work, point, "with no room", _sort(done), done.last)
        if self.is_mounted:
            self.disk.resize(_pages(work.start) * 8)
        half = Snapshot(root)
        for reader in rng.sample(work.readers, min(2, len(work.readers))):
            answer = ask(self.bench, root, reader)
            self._keep(work, point, reader, *work.judge(reader, answer, root))
            half.restore()

        again = run(work.job(root), root)
        if again.kind != "ok":
            self._keep(work, point, "again", "not_finished", again.last)
            return
        other = differing(contents(root), work.end)
        self._keep(work, point, "again", "other_bytes" if other else "same_bytes", ", ".join(other[:3]))

    def _keep(self, work: Work, point: int, step: str, outcome: str, last: str) -> None:
        self.counts[work.name, outcome] += 1
        if outcome in BAD:
            case = {"seed": self.seed, "work": work.name, "point": point, "step": step, "outcome": outcome}
            with open(self.log, "a") as file:
                file.write(json.dumps(case | {"last": last}) + "\n")


def _sort(done: Outcome) -> str:
    if done.kind == "ok":
        return "it fitted"
    is_told = "make room" in done.said or "No space" in done.said
    return "no room, one line" if done.kind == "one_line" and is_told else done.kind


def _pages(root: Path) -> int:
    return sum(2 + p.stat().st_size // PAGE for p in root.rglob("*"))


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def run_full_disk(bench: Bench, seed: int, points: int, log: Path, seconds: float = 1e9) -> dict:
    """Fill the disk under every work, at `points` points in all; returns counts by work and outcome."""
    campaign, found = DiskTrials(bench, seed, log), list(works(bench, seed, points // 2))
    start = time.monotonic()
    for point in range(points):
        if time.monotonic() - start > seconds:
            break
        campaign.run_point(found[point % len(found)], point)
    total: Counter[str] = Counter()
    for (_, outcome), n in campaign.counts.items():
        total[outcome] += n
    kinds = {f"{work}: {outcome}": n for (work, outcome), n in sorted(campaign.counts.items())}
    way = "a small tmpfs" if campaign.is_mounted else "writes that find no room"
    return {"counts": dict(total), "kinds": kinds, "way": way}
