"""Kill a push and a pull: who pulls gets the old or the new, whole, or is refused; the same command again
ends as an undisturbed one.
"""

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from store_server import S3

from campaign.bench import Bench, job
from campaign.forks import Job, Outcome, Running, run
from campaign.kills import BAD, Board, Kill, watch
from campaign.observe import contents, differing
from campaign.works import replace_by

TAKE_ALL = ("--only", "demo", "--include-activations")


class SyncTrials:
    """A store on this machine, two versions of an experiment, and pushes and pulls that are killed."""

    def __init__(self, bench: Bench, seed: int, log: Path) -> None:
        self.bench, self.seed, self.log = bench, seed, log
        self.counts: Counter[tuple[str, str]] = Counter()
        folder = bench.scratch / "store"
        folder.mkdir()
        self.server = S3(folder).start()
        self.old, self.new = bench.copy("version-1"), bench.copy("version-2")
        done = run(job(bench.home, self.new, "pipeline", "--max-new-tokens", "7"), self.new)
        assert done.kind == "ok", done.said
        self.versions = {name: travelling(root) for name, root in (("old", self.old), ("new", self.new))}

    def sync(self, direction: str, root: Path, kill: Kill | None = None) -> Outcome:
        """Push or pull, and kill it where that is asked for."""
        typed = Job(f"r2_{direction}", TAKE_ALL, environment=self.server.environment)
        if kill and kill.operation:
            typed = replace(typed, before=lambda: watch(Board(), kill))
        running = Running(typed, root)
        if kill and kill.seconds:
            time.sleep(kill.seconds)
            running.kill()
        return running.wait()

    def push_twice(self, rng: Random, number: int) -> None:
        """Push the old version, kill the push of the new one, pull, push again, pull."""
        self.server.new_bucket()
        first = self.bench.scratch / "pusher"
        replace_by(self.old, first)
        assert self.sync("push", first).kind == "ok"
        _put(self.new, first)
        kill = _choose(rng)
        self._keep("push", number, kill, "killing", _ended(self.sync("push", first, kill)), "")
        self._keep("push", number, kill, "pull", *self._pulled())
        again = self.sync("push", first)
        if again.kind != "ok":
            self._keep("push", number, kill, "again", "not_finished", again.last)
            return
        seen, last = self._pulled()
        self._keep("push", number, kill, "again", "same_bytes" if seen == "new" else "other_bytes", last)

    def pull_over(self, rng: Random, number: int) -> None:
        """Pull the new version over the old one, killed, and once more."""
        self.server.new_bucket()
        pusher, puller = self.bench.scratch / "pusher", self.bench.scratch / "puller"
        replace_by(self.old, pusher)
        assert self.sync("push", pusher).kind == "ok"
        self._empty(puller)
        assert self.sync("pull", puller).kind == "ok"
        _put(self.new, pusher)
        assert self.sync("push", pusher).kind == "ok"
        kill = _choose(rng)
        self._keep("pull", number, kill, "killing", _ended(self.sync("pull", puller, kill)), "")
        table = run(job(self.bench.home, puller, "steering_table"), puller)
        self._keep("pull", number, kill, "table", table.kind, table.last)
        again = self.sync("pull", puller)
        other = differing(travelling(puller), self.versions["new"])
        outcome = "not_finished" if again.kind != "ok" else "other_bytes" if other else "same_bytes"
        self._keep(
            "pull", number, kill, "again", outcome, again.last if again.kind != "ok" else ", ".join(other[:3])
        )

    def _pulled(self) -> tuple[str, str]:
        """Return which version an empty machine pulls, "one_line" where it is refused, else "mixture"."""
        fresh = self.bench.scratch / "fresh"
        self._empty(fresh)
        done = self.sync("pull", fresh)
        if done.kind != "ok":
            return done.kind, done.last
        found = travelling(fresh)
        which = [name for name, version in self.versions.items() if not differing(found, version)]
        return (which[0], "") if which else ("mixture", ", ".join(differing(found, self.versions["new"])[:3]))

    def _empty(self, root: Path) -> None:
        replace_by(self.bench.bare("empty"), root)

    def _keep(self, work: str, number: int, kill: Kill, step: str, outcome: str, last: str) -> None:
        self.counts[work, outcome] += 1
        if outcome in BAD and not (step == "killing" and outcome == "killed"):
            case = {"seed": self.seed, "work": work, "point": number, "kill": str(kill), "step": step}
            with open(self.log, "a") as file:
                file.write(json.dumps(case | {"outcome": outcome, "last": last}) + "\n")


def _ended(done: Outcome) -> str:
    return done.kind if done.kind in ("traceback", "hang") else "done"


def _choose(rng: Random) -> Kill:
    if rng.random() < 0.5:
        return Kill(seconds=rng.uniform(0.02, 3.0))
    return Kill(rng.randint(1, 60), rng.choice(("before", "after", "torn")))


def _put(source: Path, target: Path) -> None:
    """Bring another version of the experiment; what the sync remembers stays."""
    for path in (source / "experiments").rglob("*"):
        to = target / path.relative_to(source)
        if path.is_file():
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())


def travelling(root: Path) -> dict[str, object]:
    """Return the contents of the experiment that is synchronised."""
    return {rel: data for rel, data in contents(root).items() if rel.startswith("experiments/demo/")}


def run_sync_kills(bench: Bench, seed: int, points: int, log: Path, seconds: float = 1e9) -> dict:
    """Kill pushes and pulls in turn; returns counts by work and outcome."""
    before = dict(os.environ)
    campaign, start = SyncTrials(bench, seed, log), time.monotonic()
    try:
        for number in range(points):
            if time.monotonic() - start > seconds:
                break
            trial = campaign.pull_over if number % 2 else campaign.push_twice
            trial(Random(f"{seed}/sync/{number}"), number)
    finally:
        campaign.server.stop()
        os.environ.clear()
        os.environ.update(before)
    total: Counter[str] = Counter()
    for (_, outcome), n in campaign.counts.items():
        total[outcome] += n
    kinds = {f"{work}: {outcome}": n for (work, outcome), n in sorted(campaign.counts.items())}
    return {"counts": dict(total), "kinds": kinds}
