"""Two commands at once over one root: what is left is what the one after the other would have left."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path
from random import Random

from campaign.bench import A, B, Bench, job
from campaign.forks import Outcome, run, run_together
from campaign.observe import Snapshot, contents, differing, speech
from campaign.works import ask

LONGER = ("--max-new-tokens", "7")
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {  # name → (command, further flags, trait)
    "pipeline of A": ("one_trait", LONGER, A),
    "pipeline of B": ("one_trait", LONGER, B),
    "pipeline of both": ("pipeline", (*LONGER, "--force"), A),
    "capture": ("capture", ("--force",), A),
    "capture with another model": ("recapture", (), A),
    "import": ("import", (), A),
    "import of another file": (
        "import_persona_vectors",
        ("--method", "from_safetensors", "--layers", "1-2"),
        A,
    ),
    "export": ("export", ("--layers", "1-3"), A),
    "projections": ("project_more", (), A),
}
READERS = ("table", "steering_table", "project", "dynamics", "compare", "export_import", "draw")


@dataclass
class Orders:
    """What a pair leaves when its commands run one after the other, and what readers may say on the way."""

    readers: list[str]
    ends: list[dict[str, object]] = field(default_factory=list)
    said: dict[str, set[str]] = field(default_factory=dict)


class PairTrials:
    """Pairs of commands over a root that is put back each time."""

    def __init__(self, bench: Bench, seed: int, log: Path) -> None:
        self.bench, self.seed, self.log = bench, seed, log
        self.root = bench.copy("crowded")
        self.whole = Snapshot(self.root)
        self.counts: Counter[tuple[str, str]] = Counter()

    def run_one(self, name: str, wait: float = 0.0) -> Outcome:
        """Run a command of the table alone."""
        return run(self.job(name, wait), self.root)

    def job(self, name: str, wait: float = 0.0):
        short, more, trait = COMMANDS[name]
        own = job(self.bench.home, self.root, short, *more, trait=trait)
        return replace(own, before=lambda: time.sleep(wait))

    def orders(self, pair: tuple[str, str]) -> Orders:
        """Run a pair in both orders."""
        known = Orders(Random(f"{self.seed}/{pair}").sample(READERS, 3))
        self.whole.restore()
        self._listen(known)
        for first, second in (pair, pair[::-1]):
            self.whole.restore()
            for name in (first, second, first, second):  # twice: what one reads of the other has then arrived
                done = self.run_one(name)
                assert done.kind == "ok", f"{name}: {done.said}"
                self._listen(known)
            known.ends.append(contents(self.root))
        return known

    def _listen(self, known: Orders) -> None:
        here = Snapshot(self.root)
        for reader in known.readers:
            done = ask(self.bench, self.root, reader)
            if done.kind == "ok":
                known.said.setdefault(reader, set()).add(speech(done.out, self.root))
            here.restore()

    def run_pair(self, pair: tuple[str, str], rounds: int) -> None:
        """Run a pair at once, so many times, each beginning at another moment."""
        known = self.orders(pair)
        for number in range(rounds):
            rng = Random(f"{self.seed}/{pair}/{number}")
            self.whole.restore()
            waits = (0.0, rng.choice((0.0, 0.02, rng.uniform(0, 1.0))))
            done = run_together(map(self.job, pair, waits), self.root)
            for name, outcome in zip(pair, done, strict=True):
                self._keep(pair, number, name, _sort(outcome), outcome.last)
            self._read(pair, number, known, rng)
            self._again(pair, number, known, rng)

    def _read(self, pair: tuple[str, str], number: int, known: Orders, rng: Random) -> None:
        here = Snapshot(self.root)
        for reader in known.readers:
            done = ask(self.bench, self.root, reader)
            said = speech(done.out, self.root)
            is_known = done.kind != "ok" or said in known.said.get(reader, ())
            outcome = done.kind if done.kind != "ok" else "consistent" if is_known else "mixture"
            if outcome == "mixture" and reader.endswith("table"):
                outcome = "partial"  # a row of each: the one command has come further than the other
            self._keep(pair, number, reader, outcome, done.last)
            here.restore()

    def _again(self, pair: tuple[str, str], number: int, known: Orders, rng: Random) -> None:
        """Run both again, one after the other: what is left is what that order leaves."""
        turn = rng.randrange(2)
        order = (pair, pair[::-1])[turn]
        for name in order * 2:
            done = self.run_one(name)
            if done.kind != "ok":
                self._keep(pair, number, f"{name} again", "not_finished", done.last)
                return
        other = differing(contents(self.root), known.ends[turn])
        self._keep(pair, number, "again", "other_bytes" if other else "same_bytes", ", ".join(other[:3]))

    def _keep(self, pair: tuple[str, str], number: int, step: str, outcome: str, last: str) -> None:
        self.counts[" + ".join(pair), outcome] += 1
        if outcome in BAD:
            case = {"seed": self.seed, "pair": pair, "round": number, "step": step, "outcome": outcome}
            with open(self.log, "a") as file:
                file.write(json.dumps(case | {"last": last}) + "\n")


BAD = ("mixture", "traceback", "hang", "other_bytes", "not_finished")


def _sort(done: Outcome) -> str:
    if done.kind != "one_line":
        return done.kind
    return "busy" if "another process" in done.said else "one_line"


def run_pairs(bench: Bench, seed: int, rounds: int, log: Path, seconds: float = 1e9) -> dict:
    """Run every pair `rounds` times; returns counts by pair and outcome."""
    campaign = PairTrials(bench, seed, log)
    pairs = list(combinations_with_replacement(COMMANDS, 2))
    Random(seed).shuffle(pairs)
    start = time.monotonic()
    for pair in pairs:
        if time.monotonic() - start > seconds:
            break
        campaign.run_pair(pair, rounds)
    total: Counter[str] = Counter()
    for (_, outcome), n in campaign.counts.items():
        total[outcome] += n
    kinds = {f"{pair}: {outcome}": n for (pair, outcome), n in sorted(campaign.counts.items())}
    return {"counts": dict(total), "kinds": kinds}
