"""What an experiment found for its traits, as a Markdown table: how well each shows, reads and steers, and whether it is usable."""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with
from extraction.summary import summarise
from extraction.vetting import Thresholds
from utils.artifacts import read_json
from utils.cli import run_cli
from utils.errors import UserError
from utils.experiment import resolve_settings
from utils.flags import Flag, option_flags, pick
from utils.paths import ExperimentPaths, TraitPaths

READING = (
    "trait",
    "scenarios pass",
    "pos pass",
    "neg pass",
    "judge accuracy",
    "best held-out AUROC [95 %]",
    "Cohen's d [95 %]",
    "held out",
    "usable for reading",
)
STEERING = ("trait", "cell", "effect [95 %]", "odd part [95 %]", "z", "p, selection allowed for", "coherence", "largest coherent dose", "verdict", "why")
NEAR_CHANCE, FEW = 0.65, 6  # judge accuracy, held-out responses of a side


@dataclass(frozen=True)
class TableOptions:
    """Print a Markdown table of an experiment's traits: how well each shows, reads and steers, and whether it is usable.

    Args:
        experiment: Experiment whose results are shown.
        traits: Traits, separated by commas; by default all that have results.
        steering: Print what stage 5 found instead of what stages 0 to 4 found.
    """

    experiment: str
    traits: tuple[str, ...] = ()
    steering: bool = False


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(TableOptions) | option_flags(Thresholds)


def main(**given: Any) -> None:
    """Print the table.

    Raises:
        UserError: there is nothing to show.
    """
    options = pick(TableOptions, given)
    paths = ExperimentPaths(options.experiment)
    settings = resolve_settings(paths, option_flags(Thresholds), {k: v for k, v in given.items() if k in option_flags(Thresholds)})
    traits = [TraitPaths(options.experiment, name) for name in options.traits or paths.traits]
    if not traits:
        raise UserError(f"{paths.dir} has no results; run extraction/run_pipeline.py first")
    rows = [steering_row(t) if options.steering else reading_row(t, pick(Thresholds, settings)) for t in traits]
    print(markdown(STEERING if options.steering else READING, [row for row in rows if row]))


def reading_row(paths: TraitPaths, thresholds: Thresholds) -> list[str] | None:
    """Return one trait's figures of stages 0 to 4; None before stage 2."""
    if not paths.manifest("2_vet_responses").exists():
        return None
    row = summarise(paths, paths, thresholds)
    vetted = read_json(paths.manifest("2_vet_responses"))["summary"]
    accuracy = read_json(paths.response_scores)["judge"].get("cross_validated_accuracy")
    held = row["held_out"]
    figures = [
        _percent(row["scenario_pass_rate"]),
        _percent(vetted["pos pass rate"]),
        _percent(vetted["neg pass rate"]),
        "–" if accuracy is None else f"{accuracy:.2f}",
        f"{held['auroc']:.2f} [{held['auroc_low']:.2f}, {held['auroc_high']:.2f}]" if held else "–",
        f"{held['cohens_d']:.1f} [{held['cohens_d_low']:.1f}, {held['cohens_d_high']:.1f}]" if held else "–",
        f"{held['n_pos']} + {held['n_neg']}" if held else "–",
    ]
    return [f"`{paths.trait}`", *figures, usable(held, accuracy)]


def usable(held: dict | None, accuracy: float | None) -> str:
    """Say in a few words whether a trait's vectors can be trusted for reading on this model with this judge."""
    if held is None:
        return "no: too few responses show a side"
    if accuracy is not None and accuracy < NEAR_CHANCE:
        return "no: the judge is near chance"
    if min(held["n_pos"], held["n_neg"]) < FEW:
        return "unclear: few held-out responses"
    return "yes" if held["auroc_low"] > 0.6 else "weak" if held["auroc_low"] > 0.5 else "no: it may be chance"


def steering_row(paths: TraitPaths) -> list[str] | None:
    """Return one trait's figures of stage 5; None before it."""
    if not paths.manifest("5_steer_evaluate").exists():
        return None
    r = read_json(paths.steering_results)
    chosen, null, strongest = r["chosen"], r["random"], r["strongest"]
    largest = f"{strongest['dose']:.2g}: {_interval(strongest['effect'])}" if strongest else "the same"
    figures = [
        f"{chosen['method']} {chosen['layer']} × {chosen['dose']:.2g}",
        _interval(r["effect"]),
        _interval(r["odd_part"]),
        f"{null['z']:.1f}" if null else "–",
        f"{null['selected']['p']:.3f}" if null else "–",
        f"{r['coherence']['unsteered']:.0f} → {r['coherence']['plus']:.0f}",
        largest,
    ]
    return [f"`{paths.trait}`", *figures, f"*{r['verdict']}*", r["why"]]


def markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _interval(found: dict | None) -> str:
    return f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]" if found else "–"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(TableOptions) or "")
