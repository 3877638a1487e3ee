"""What an experiment found for its traits, as a Markdown table: how well each shows, reads and steers,
and whether it is usable.

For example:

    python extraction/trait_table.py --experiment demo
"""

import runpy
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.extraction.report.summary import best_auroc, summarise
from traitscope.extraction.report.words import fall_of, interval, percent
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import FIT, VET_RESPONSES, ExperimentPaths, TraitPaths
from traitscope.utils.judge.reliability import LEAST
from traitscope.utils.records.scores import Thresholds, rate_per_side, read_scores
from traitscope.utils.records.verdict import Verdict, read_verdict
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag

READING = (
    "trait",
    "scenarios pass",
    "pos pass",
    "neg pass",
    "judge accuracy",
    "best held-out AUROC [95 %] of how many",
    "Cohen's d [95 %]",
    "held out",
    "usable for reading",
)
STEERING = (
    "trait",
    "cell",
    "effect [95 %]",
    "odd part [95 %]",
    "z",
    "p",
    "coherence",
    "largest coherent dose",
    "verdict",
    "why",
)
FEW = 6  # held-out responses of a side


@dataclass(frozen=True)
class TableOptions:
    """Print a Markdown table of an experiment's traits: how well each shows, reads and steers, and
    whether it is usable.
    """

    experiment: str = flag(help="Experiment whose results are shown.")
    traits: tuple[str, ...] = flag(
        (), "Traits, separated by commas; by default all that have results.", also=("trait",)
    )
    steering: bool = flag(False, "Print what stage 5 found instead of what stages 0 to 4 found.")


def trait_table(options: TableOptions, thresholds: Thresholds) -> None:
    """Print the table.

    Raises:
        UserError: there is nothing to show, or, after the table, a trait's files cannot be read.
    """
    paths = ExperimentPaths(options.experiment)
    traits = [TraitPaths(options.experiment, name) for name in options.traits or paths.traits]
    if not traits:
        raise UserError(f"{paths.dir} has no results; run extraction/run_pipeline.py first")

    each = Each(traits)
    rows = each.do(lambda t: steering_row(t) if options.steering else reading_row(t, thresholds))
    print(markdown(STEERING if options.steering else READING, [row for row in rows if row]))
    each.finish()


def reading_row(paths: TraitPaths, thresholds: Thresholds) -> list[str] | None:
    """Return one trait's figures of stages 0 to 4; None before stage 2."""
    if not paths.has_completed(VET_RESPONSES):
        return None

    row, vetted = summarise(paths, paths, thresholds), read_scores(paths, "responses")
    rates = rate_per_side(vetted.sided, thresholds)
    accuracy = vetted.judge.get("cross_validated_accuracy")
    held = row["held_out"]
    figures = [
        percent(row["scenario_pass_rate"]),
        percent(rates["pos pass rate"]),
        percent(rates["neg pass rate"]),
        "–" if accuracy is None else f"{accuracy:.2f}",
        best_auroc(held),
        f"{held['cohens_d']:.1f} [{held['cohens_d_low']:.1f}, {held['cohens_d_high']:.1f}]" if held else "–",
        f"{held['n_pos']} + {held['n_neg']}" if held else "–",
    ]
    said = usable(held, accuracy) if paths.has_completed(FIT) else f"not yet: {FIT} has not completed"
    return [f"`{paths.trait}`", *figures, said]


def usable(held: dict | None, accuracy: float | None) -> str:
    """Say in a few words whether a trait's vectors can be trusted for reading on this model with this
    judge.
    """
    if held is None:
        return "no: too few responses show a side"
    if accuracy is not None and accuracy < LEAST:
        return "no: the judge is near chance"
    if min(held["n_pos"], held["n_neg"]) < FEW:
        return "unclear: few held-out responses"

    return "yes" if held["auroc_low"] > 0.6 else "weak" if held["auroc_low"] > 0.5 else "no: it may be chance"


def steering_row(paths: TraitPaths) -> list[str] | None:
    """Return one trait's figures of stage 5; None before it has completed."""
    found = read_verdict(paths)
    return _steering_cells(paths.trait, found) if found else None


def _steering_cells(trait: str, found: Verdict) -> list[str]:
    chosen, null, strongest = found.chosen, found.random, found.strongest
    figures = [
        f"{chosen.method} {chosen.layer} × {chosen.dose:.2g}",
        interval(found.effect),
        interval(found.odd_part),
        f"{null.z:.1f}" if null and null.z is not None else "–",
        "–" if found.rests_on is None else f"{found.rests_on:.3f}",
        fall_of(found.coherence.get("unsteered"), found.coherence.get("plus")),
        f"{strongest.dose:.2g}: {interval(strongest.effect)}" if strongest else "the same",
    ]

    return [f"`{trait}`", *figures, f"*{found.verdict}*", found.why]


def markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


if __name__ == "__main__":
    command(trait_table)
