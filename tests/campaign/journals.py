"""Damage the journal of an interrupted stage: what it still holds is used, what it lost is asked again, and
the end is the same.
"""

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

from campaign.bench import Bench, job
from campaign.forks import run
from campaign.kills import Board, watch
from campaign.mutations import damage
from campaign.observe import Snapshot, contents, differing

CUTS = (0.1, 0.4, 0.9)  # of the journal lines of a whole run, after which one is interrupted
JOURNALS = "experiments/**/*.progress.jsonl"


def die_after(lines: int) -> None:
    """End this process when so many lines are written."""
    from traitscope.utils.files.journal import Journal

    add, seen = Journal.add, [0]

    def counted(self: Journal, *arguments: object) -> None:
        add(self, *arguments)  # type: ignore[arg-type]
        seen[0] += 1
        if seen[0] == lines:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.add = counted  # type: ignore[method-assign]


def interrupted(bench: Bench, lines: int) -> Snapshot:
    """Return a root in which the pipeline was killed after so many lines."""
    root = bench.bare(f"interrupted-{lines}")
    run(replace(job(bench.home, root, "pipeline"), before=lambda: die_after(lines)), root)
    assert list(root.glob(JOURNALS)), f"nothing was begun after {lines} lines"
    return Snapshot(root)


def run_journals(bench: Bench, seed: int, trials: int, log: Path) -> Counter[tuple[str, str]]:
    """Damage journals, and run the pipeline again; returns counts by kind and outcome."""
    counts: Counter[tuple[str, str]] = Counter()
    known, board = bench.bare("uninterrupted"), Board()
    whole = replace(job(bench.home, known, "pipeline"), before=lambda: watch(board, None))
    assert run(whole, known).kind == "ok"
    end, total = contents(known), board.read(1)
    cuts = CUTS if trials > len(CUTS) else CUTS[1:2]
    starts = [interrupted(bench, round(share * total)) for share in cuts]

    for trial in range(trials):
        case = damage_one(bench, seed, trial, starts[trial % len(starts)], end)
        counts["journals", case["outcome"]] += 1
        if case["outcome"] not in ("one_line", "repaired"):
            with open(log, "a") as lines:
                lines.write(json.dumps(case) + "\n")
    return counts


def damage_one(bench: Bench, seed: int, trial: int, start: Snapshot, end: dict[str, object]) -> dict:
    """Damage one journal of an interrupted root, and run the pipeline to its end."""
    rng, root = Random(f"{seed}/journal/{trial}"), start.root
    start.restore()
    file = next(root.glob(JOURNALS))
    others = [path for path in root.glob("experiments/**/*.json*") if path != file]
    said, _ = damage(rng, file, others)
    done = run(job(bench.home, root, "pipeline"), root)
    other = differing(contents(root), end)
    outcome = done.kind if done.kind != "ok" else "wrong_result" if other else "repaired"
    case = {"seed": seed, "trial": trial, "kind": "journals", "file": str(file.relative_to(root))}
    case |= {"damage": said, "reader": "pipeline", "outcome": outcome}
    return case | {"detail": ", ".join(other[:3]), "last": done.last}
