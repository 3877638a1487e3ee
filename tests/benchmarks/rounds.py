"""Fair timing: named ways of doing the same work, in rounds of rotating order, compared round by round.

Absolute times on a shared machine mean little: what else runs there comes and goes within seconds. The ways
of one round meet the same machine, so that a ratio within a round means something, and its median over rounds
more.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Way = Callable[[], float]  # does the work once and returns its seconds


@dataclass(frozen=True)
class Rounds:
    """What every way took, round by round, and why some could not be measured."""

    seconds: dict[str, list[float]]
    not_run: dict[str, str] = field(default_factory=dict)  # way → reason


def timed(work: Callable[[], Any]) -> Way:
    """Return a way that times a call in this process."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def processor_timed(work: Callable[[], Any]) -> Way:
    """Return a way that takes a call's processor seconds: what else runs on the machine counts for less in them."""

    def run() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return run


def run_rounds(ways: Mapping[str, Way], rounds: int) -> Rounds:
    """Run every way once a round; each round begins with another way. A way that raises is left out and
    named, with its reason.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    not_run: dict[str, str] = {}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if name in not_run:
                continue
            try:
                seconds[name].append(ways[name]())
                print(
                    f"round {turn + 1} of {rounds}, {name}: {seconds[name][-1]:.3g} s",
                    file=sys.stderr,
                    flush=True,
                )
            except (
                RuntimeError,
                OSError,
                ValueError,
                TypeError,
                AttributeError,
            ) as error:  # a peer's failure is a row of the table
                not_run[name] = (
                    f"{type(error).__name__}: "
                    f"{str(error).strip().splitlines()[-1][:200] if str(error).strip() else ''}"
                )
    return Rounds({name: found for name, found in seconds.items() if name not in not_run}, not_run)


def summarise(rounds: Rounds, base: str, per: float = 1.0) -> list[dict]:
    """Return a row per way: median, lowest and highest seconds, and the same of its ratio to the base,
    taken round by round.

    Args:
        base: The way that is 1.
        per: Units of work in a round, where seconds per unit are wanted.
    """
    reference = rounds.seconds[base]
    rows: list[dict] = []
    for name, found in rounds.seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(found, reference, strict=True)]
        rows.append(
            {"way": name}
            | _spread("seconds", [s / per for s in found])
            | _spread("ratio", ratios)
            | {"rounds": len(found)}
        )
    return rows + [{"way": name, "not_run": reason} for name, reason in rounds.not_run.items()]


def _spread(name: str, values: list[float]) -> dict[str, float]:
    middle, low, high = statistics.median(values), min(values), max(values)
    return {name: round(middle, 6), f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)}


def ratio_between(rounds: Rounds, slow: str, fast: str) -> float:
    """Return the median over rounds of how many times as long one way took as another."""
    return statistics.median(a / b for a, b in zip(rounds.seconds[slow], rounds.seconds[fast], strict=True))
