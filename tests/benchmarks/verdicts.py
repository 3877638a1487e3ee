"""How often does stage 5 take chance for a trait, and how often does it find one? Its own protocol on simulated
texts, for the table of docs/steering.md. Run: .venv/bin/python tests/benchmarks/verdicts.py
"""

import re
import runpy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from scipy.stats import beta
from tqdm import tqdm

from benchmarks.simulated import Bench, World, exact, mixtures, nulls, traits
from traitscope.analysis.steering import evaluate as protocol
from traitscope.analysis.steering.search import Search
from traitscope.analysis.steering.setting import Protocol
from traitscope.analysis.steering.treatments import Intervention
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.measures.intervals import benjamini_hochberg
from traitscope.utils.records.verdict import WORKS
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

PAGE = Path(__file__).resolve().parents[2] / "docs" / "steering.md"
RUN = 20  # traits of one run


@dataclass(frozen=True)
class VerdictOptions:
    """How often each world is drawn."""

    repetitions: int = flag(2000, "Draws of each world of chance; a third of them of the others.")
    only: str = flag("", "Only worlds whose kind and name hold this; the page stays as it is.")


def verdicts(options: VerdictOptions) -> None:
    """Draw every world, print the tables, and write them into the page when all were drawn."""
    protocol.arm_rows = lambda *_: []  # a simulation is about verdicts, not texts
    worlds = [(kind, world) for kind in (nulls, exact, mixtures, traits) for world in kind()]
    asked = [(kind, w) for kind, w in worlds if options.only in f"{kind.__name__} {w.name}"]
    # where every random direction chooses as well, a draw takes ten times as long
    often = {nulls: options.repetitions, exact: max(options.repetitions // 10, 1)}
    drawn = {
        w.name: draw(w, often.get(kind, max(options.repetitions // 3, 1)))
        for kind, w in tqdm(asked, disable=None, leave=False)
    }

    parts = [
        render(kind.__name__, [w for k, w in asked if k is kind], drawn)
        for kind in (nulls, exact, mixtures, traits)
    ]
    text = "\n\n".join(filter(None, parts))
    print(text)
    if not options.only:
        write_text(PAGE, insert(PAGE.read_text(), text, options.repetitions))


def draw(world: World, repetitions: int) -> list[tuple[bool, float]]:
    """Return, per draw, whether the vector works, and its p."""
    found = []
    for seed in range(repetitions):
        results = try_vector(world, seed)
        found.append((results["verdict"] == WORKS, 1.0 if results["p"] is None else results["p"]))
    return found


def try_vector(world: World, seed: int) -> dict:
    """Run stage 5's protocol on one draw of a world."""
    bench, n = Bench(world, seed), world.questions
    search, how = Search(choose_by=world.choose_by), Intervention()  # type: ignore[arg-type]
    return protocol.evaluate(
        bench, bench.candidates(), search, how, bench.questions[:n], bench.questions[n:]
    )[0]


def share_of(hits: int, of: int) -> tuple[float, float, float]:
    """Return a share and its exact 95 % interval (Clopper and Pearson 1934)."""
    low = beta.ppf(0.025, hits, of - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, of - hits) if hits < of else 1.0
    return hits / of, float(low), float(high)


TITLES = {
    "nulls": "The vector is one more random direction",
    "exact": "The same with `--choose-by steering` (a tenth as many draws)",
    "mixtures": "The vector is a random mixture of activations that hold a real trait of +28, its sides drawn by lot",
    "traits": "The vector is the true direction",
}


def render(kind: str, worlds: Iterable[World], drawn: dict[str, list[tuple[bool, float]]]) -> str:
    """Return one kind's table as Markdown."""
    rows = [_row(kind, world, drawn[world.name]) for world in worlds]
    if not rows:
        return ""
    more = " a run of 20 such traits has one | … with q ≤ 0.05 |" if kind == "nulls" else ""
    lines = "---|---|" if kind == "nulls" else ""
    return "\n".join([f"**{TITLES[kind]}**", "", f"| | *works* [95 %] |{more}", f"|---|---|{lines}", *rows])


def _row(kind: str, world: World, found: list[tuple[bool, float]]) -> str:
    share, low, high = share_of(sum(works for works, _ in found), len(found))
    cells = [world.name, f"{share:.1%} [{low:.1%}, {high:.1%}]"]
    if kind == "nulls":
        cells += [f"{1 - (1 - share) ** RUN:.0%}", f"{_runs_with_q(found):.0%}"]
    return f"| {' | '.join(cells)} |"


def _runs_with_q(found: list[tuple[bool, float]], runs: int = 500) -> float:
    """Return the share of runs of 20 null traits in which one works and has q ≤ 0.05."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(runs):
        some = [found[i] for i in rng.integers(0, len(found), RUN)]
        adjusted = benjamini_hochberg([p for _, p in some])
        hits += any(
            works and q is not None and q <= 0.05 for (works, _), q in zip(some, adjusted, strict=True)
        )
    return hits / runs


def insert(page: str, text: str, repetitions: int) -> str:
    """Return the page with the tables between its markers replaced."""
    made = f"Made on {datetime.now(UTC):%d %B %Y}, {repetitions} draws of each world of chance, a third "
    made += f"as many of the others; {Protocol().random_pairs} random pairs."
    new = f"<!-- verdicts -->\n{made}\n\n{text}\n<!-- /verdicts -->"
    page, n = re.subn(r"<!-- verdicts -->.*?<!-- /verdicts -->", lambda _: new, page, flags=re.DOTALL)
    assert n == 1, "the page has no place for the tables"
    return page


if __name__ == "__main__":
    command(verdicts)
