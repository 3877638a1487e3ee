"""Do two judges agree? Compares them, or one of them with people's labels, on the stored responses of a
trait.

For example:

    python analysis/judge_agreement.py --experiment demo --traits behavioral/formality --against local:embedded
"""

import random
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import numpy as np
import pandas as pd

from traitscope.analysis.judging.agreement import BANDS, compare_scores
from traitscope.analysis.judging.labels import COLUMNS, read_labels
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.paths import SIDES, ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.judge import JudgeOptions, count_states, load_judge
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.responses import Response, answers_of, read_responses
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class AgreementOptions:
    """Compare two judges, or a judge and people, on the responses that stage 1 left: rank correlation,
    mean difference, agreement at the thresholds.
    """

    experiment: str = flag(help="Experiment whose responses are judged.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))
    against: str = flag("", "The second judge; --judge is the first.")
    labels: str = flag(
        "",
        "CSV with the columns trait, key and score (0 to 100), labelled by hand, in place of a second judge.",
    )
    write_labels: str = flag("", "Write such a CSV with texts to label and empty scores, and stop.")
    sample: int = flag(
        0, "Texts per trait that are compared or written out, evenly over both sides; 0 takes all."
    )


def judge_agreement(options: AgreementOptions, judging: JudgeOptions, thresholds: Thresholds) -> None:
    """Compare, print and store.

    Raises:
        UserError: a trait, a judge or a file of labels is wrong.
    """
    if options.sample < 0:
        raise UserError("--sample is 0 (all texts) or more")
    if sum(map(bool, (options.against, options.labels, options.write_labels))) != 1:
        raise UserError("pass one of --against JUDGE, --labels FILE and --write-labels FILE")

    paths = ExperimentPaths(options.experiment)
    each = Each([TraitPaths(options.experiment, trait) for trait in options.traits])
    work = each.do(lambda trait: _read(trait, options.sample))
    if options.write_labels and work:
        write_text(Path(options.write_labels), _label_table(work).to_csv(index=False))
        print(
            f"{sum(len(rows) for _, rows in work)} texts to label: {options.write_labels}; fill in score (0 "
            "to 100), then pass it with --labels"
        )
        each.finish()
        return

    labels = read_labels(Path(options.labels)) if options.labels else {}

    for dataset, rows in work:
        first = _judge(judging, dataset, rows, paths)
        if options.labels:
            second = _look_up(labels, options.labels, dataset, rows)
        else:
            second = _judge(replace(judging, judge=options.against), dataset, rows, paths)
        names = judging.judge, options.against or Path(options.labels).stem
        _report(paths, names, (first, second), dataset, rows, thresholds)
    each.finish()


def _read(paths: TraitPaths, sample: int) -> tuple[TraitDataset, list[Response]]:
    dataset, rows = read_trait(paths), read_responses(paths)
    if not sample or sample >= len(rows):
        return dataset, rows

    sides = [[r for r in rows if r.side == side] for side in SIDES]
    rng = random.Random(0)
    sizes = ((sample + 1) // 2, sample // 2)
    return dataset, [
        r
        for part, n in zip(sides, sizes, strict=True)
        for r in sorted(rng.sample(part, min(len(part), n)), key=lambda r: r.key)
    ]


Scored = tuple[np.ndarray, dict]  # scores [n], NaN where there is none, and where they come from


def _report(
    paths: ExperimentPaths,
    names: tuple[str, str],
    scored: tuple[Scored, Scored],
    dataset: TraitDataset,
    rows: list[Response],
    thresholds: Thresholds,
) -> None:
    (first, about_first), (second, about_second) = scored
    figures = compare_scores(
        first, second, np.array([r.group for r in rows]), thresholds.neg_threshold, thresholds.pos_threshold
    )

    target = paths.judge_agreement(dataset.trait, *names)
    write_json(target, {"trait": dataset.trait, "first": about_first, "second": about_second, **figures})
    print(render(dataset.trait, names, figures) + f"\n  {target.relative_to(paths.root)}")


def _look_up(
    labels: dict[tuple[str, str], float], file: str, dataset: TraitDataset, rows: list[Response]
) -> Scored:
    values = np.array([labels.get((dataset.trait, r.key), np.nan) for r in rows])
    if np.isnan(values).all():
        raise UserError(
            f"{file} has no score for a stored response of {dataset.trait}; write a file to fill in with "
            "--write-labels"
        )
    about = {"labels": Path(file).name, "sha256": digest(Path(file))}  # not where it lies on this machine
    return values, about | {"labelled": int((~np.isnan(values)).sum())}


def _judge(
    options: JudgeOptions, dataset: TraitDataset, rows: Sequence[Response], paths: ExperimentPaths
) -> Scored:
    judge = load_judge(options, dataset.rubric, paths.spending)
    scores = judge.score_responses(answers_of(dataset, list(rows)))
    used = {"usage": judge.usage.as_json()} if judge.usage else {}

    return np.array([np.nan if s.value is None else s.value for s in scores]), judge.identity | {
        "states": count_states(scores),
        **used,
    }


def _label_table(work: list[tuple[TraitDataset, list[Response]]]) -> pd.DataFrame:
    texts = [
        (d.trait, r.key, "", a.prompt, a.response)
        for d, rows in work
        for r, a in zip(rows, answers_of(d, rows), strict=True)
    ]
    return pd.DataFrame(texts, columns=list(COLUMNS))


def render(trait: str, names: tuple[str, str], figures: dict) -> str:
    """Return one trait's comparison for a terminal."""
    lines = [
        f"{trait}: {names[0]} against {names[1]}, {figures['n']} of {figures['n_asked']} texts scored by both"
    ]
    for name in ("rank_correlation", "mean_difference", "mean_absolute_difference", "same_band", "kappa"):
        found = figures[name]
        said = (
            f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" if found else "not defined"
        )
        lines.append(f"  {name.replace('_', ' '):26}{said}")

    table = pd.DataFrame(
        figures["confusion"]["counts"],
        index=[f"{names[0]} {b}" for b in BANDS],
        columns=[f"{names[1]} {b}" for b in BANDS],
    )
    return "\n".join([*lines, *("  " + line for line in table.to_string().splitlines())])


if __name__ == "__main__":
    command(judge_agreement)
