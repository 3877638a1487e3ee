"""How traits move through recorded responses: per prompt, over all of them, and at the points where a
prompt set says they should turn.

For example:

    python inference/monitor_dynamics.py --experiment demo --prompt-set dynamics
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import numpy as np
import pandas as pd
from scipy.stats import binomtest

from traitscope.inference.watch.dynamics import DynamicsOptions, describe, trace
from traitscope.inference.watch.known_points import turn_of
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.measures.intervals import mean_interval
from traitscope.utils.records.courses import write_dynamics
from traitscope.utils.records.readings import Projections, read_projected
from traitscope.utils.records.recorded import Record
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

MEANS = ("mean", "last", "peak", "persistence", "mean_velocity")


@dataclass(frozen=True)
class MonitorOptions:
    """Describe how each trait's centred projection moves through every response: velocity, acceleration,
    commitment, peak, persistence.
    """

    experiment: str = flag(help="Experiment that the prompt set was captured in.")
    prompt_set: str = flag(help='A captured prompt set; "adhoc" holds the prompts given on the command line.')
    traits: tuple[str, ...] = flag(
        (), "Traits, separated by commas; by default all that were projected.", also=("trait",)
    )
    over: Literal["response", "prompt", "all"] = flag(
        "response", "Tokens that are described: response, prompt or all."
    )


def monitor_dynamics(options: MonitorOptions, how: DynamicsOptions) -> None:
    """Describe, print and store.

    Raises:
        UserError: nothing was captured or projected.
    """
    if how.window < 1 or how.tolerance < 0:
        raise UserError("--window is 1 or more, --tolerance 0 or more")

    paths = InferencePaths(options.experiment, options.prompt_set)
    read = read_projected(paths)
    traits = options.traits or tuple(dict.fromkeys(scores.origin["trait"] for _, scores in read))
    absent = [trait for trait in traits if not any(scores.origin["trait"] == trait for _, scores in read)]
    if absent or not traits:
        raise UserError(
            f"{paths.dir} has no projections{f' of {absent[0]}' if absent else ''}; run "
            "inference/project_activations.py first"
        )

    for trait in traits:
        vectors = [
            monitor(group, options.over, how)
            for group in _by_vector([pair for pair in read if pair[1].origin["trait"] == trait])
        ]
        about = {"trait": trait, "over": options.over, "window": how.window, "tolerance": how.tolerance}
        write_dynamics(paths, about | {"vectors": vectors})
        write_text(paths.table(f"dynamics_{trait.replace('/', '_')}"), _table(vectors).to_csv(index=False))
        for found in vectors:
            print(render(found))

    size = f"{len({record.id for record, _ in read})} prompts × {len(traits)} traits over the {options.over}"
    print(f"[monitor] {options.experiment}, {paths.prompt_set}: {size}; {paths.dir}")


Pair = tuple[Record, Projections]


def _by_vector(pairs: Sequence[Pair]) -> list[list[Pair]]:
    labels = dict.fromkeys(scores.label for _, scores in pairs)
    return [[pair for pair in pairs if pair[1].label == label] for label in labels]


def monitor(pairs: Sequence[Pair], over: str, how: DynamicsOptions) -> dict:
    """Return one vector's figures: per prompt, over all prompts, and at known points."""
    origin = pairs[0][1].origin
    courses = {record.id: scores.on("centered")[record.span(over)] for record, scores in pairs}
    rows = [
        {"id": name, **figures}
        for name, course in courses.items()
        if (figures := describe(course, origin["norm"], how))
    ]
    turns = [turn for record, scores in pairs if (turn := turn_of(record, scores))]
    traces = {row["id"]: trace(courses[row["id"]], how.window) for row in rows}

    return {
        "origin": origin,
        "prompts": rows,
        "overall": summarise(rows),
        "known_points": judge_turns(turns),
        "per_token": traces,
    }


def summarise(rows: Sequence[dict]) -> dict:
    """Return the mean of every figure over the prompts with its 95 % interval, and how many
    committed to which side, how early.
    """
    means = {}
    for name in MEANS:
        mean, low, high = mean_interval(np.array([row[name] for row in rows])) if rows else (None, None, None)
        means[name] = {"mean": mean, "low": low, "high": high}

    committed = [row for row in rows if row["commitment"] is not None]
    share = [row["commitment"] / row["n_tokens"] for row in committed]
    sides = {
        "pos": sum(row["last"] > 0 for row in committed),
        "neg": sum(row["last"] <= 0 for row in committed),
    }
    return {
        "n": len(rows),
        **means,
        "committed": sides,
        "median_commitment_share": float(np.median(share)) if share else None,
    }


def judge_turns(turns: Sequence[dict]) -> dict | None:
    """Return how many turns went the expected way, with the p of a fair coin, and the mean change of
    rises and falls; None without turns.

    The difference between rises and falls is free of whatever drift every text has.
    """
    if not turns:
        return None

    right = sum((turn["change"] > 0) == (turn["expect"] == "rise") for turn in turns)
    means = {
        way: float(np.mean(c)) if (c := [t["change"] for t in turns if t["expect"] == way]) else None
        for way in ("rise", "fall")
    }
    return {
        "n": len(turns),
        "as_expected": right,
        "p": float(binomtest(right, len(turns), alternative="greater").pvalue),
        "mean_change": means,
        "turns": turns,
    }


def _table(vectors: Sequence[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {**{k: v["origin"][k] for k in ("trait", "method", "layer")}, **row}
            for v in vectors
            for row in v["prompts"]
        ]
    )


def render(found: dict) -> str:
    """Return one vector's overall figures for a terminal."""
    origin, overall, points = found["origin"], found["overall"], found["known_points"]
    lines = [
        (
            f"{origin['trait']}, {origin['method']} layer {origin['layer']} ({origin['why']}): {overall['n']} "
            f"texts, ‖v‖ {origin['norm']:.1f}"
        )
    ]

    for name in MEANS:
        mean, low, high = overall[name].values()
        if mean is not None:
            interval = f" [{low:+.2f}, {high:+.2f}]" if low is not None else ""
            lines.append(f"  {name.replace('_', ' '):15}{mean:+8.2f}{interval}")

    share = overall["median_commitment_share"]
    lines.append(
        f"  committed      pos {overall['committed']['pos']}, neg {overall['committed']['neg']}, more than "
        "noise does" + (f", at {share:.0%} of the text" if share is not None else "")
    )
    if points:
        lines.append(
            f"  known points   {points['as_expected']} of {points['n']} as expected (p {points['p']:.3f})"
        )

    return "\n".join(lines)


if __name__ == "__main__":
    command(monitor_dynamics)
