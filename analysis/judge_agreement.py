"""Do two judges agree? Compares them, or one of them with people's labels, on the stored responses of a
trait.

For example:

    python analysis/judge_agreement.py --experiment demo --traits behavioral/formality --against local:embedded
    python analysis/judge_agreement.py --experiment demo --traits behavioral/formality --against local:embedded --texts steering
"""

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
from traitscope.analysis.judging.texts import Source, StoredText, stored_texts, take_sample
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.judge import JudgeOptions, count_states, load_judge
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class AgreementOptions:
    """Compare two judges, or a judge and people, on the texts that an experiment holds: rank correlation,
    mean difference, agreement at the thresholds.
    """

    experiment: str = flag(help="Experiment whose texts are judged.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))
    texts: Source = flag(
        "responses",
        "responses: those of stage 1. steering: stage 5's answers to the test questions, arm by arm.",
    )
    against: str = flag("", "The second judge; --judge is the first.")
    labels: str = flag(
        "",
        "CSV with the columns trait, key and score (0 to 100), labelled by hand, in place of a second judge.",
    )
    write_labels: str = flag("", "Write such a CSV with texts to label and empty scores, and stop.")
    sample: int = flag(
        0, "Texts per trait that are compared or written out, evenly over the sides or arms; 0 takes all."
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
    work = each.do(lambda trait: _read(trait, options))
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
        figures = _compare((first[0], second[0]), rows, thresholds, options.texts)
        _report(paths, names, {"first": first[1], "second": second[1]}, dataset.trait, figures)
    each.finish()


def _read(paths: TraitPaths, options: AgreementOptions) -> tuple[TraitDataset, list[StoredText]]:
    dataset = read_trait(paths)
    return dataset, take_sample(stored_texts(paths, dataset, options.texts), options.sample)


Scored = tuple[np.ndarray, dict]  # scores [n], NaN where there is none, and where they come from


def _compare(
    scores: tuple[np.ndarray, np.ndarray], rows: Sequence[StoredText], thresholds: Thresholds, source: Source
) -> dict:
    """Return the figures of all texts and, of steered ones, of every arm."""
    groups, arms = np.array([r.group for r in rows]), np.array([r.arm for r in rows])
    bounds = thresholds.neg_threshold, thresholds.pos_threshold
    figures = {"texts": source, **compare_scores(*scores, groups, *bounds)}
    if source == "responses":
        return figures

    of_arm = {arm: arms == arm for arm in dict.fromkeys(arms.tolist())}
    return figures | {
        "arms": {
            arm: compare_scores(scores[0][mine], scores[1][mine], groups[mine], *bounds)
            for arm, mine in of_arm.items()
        }
    }


def _report(
    paths: ExperimentPaths, names: tuple[str, str], judges: dict[str, dict], trait: str, figures: dict
) -> None:
    target = paths.judge_agreement(trait, *names)
    if figures["texts"] != "responses":
        target = target.with_name(f"{target.stem}__{figures['texts']}.json")
    write_json(target, {"trait": trait, **judges, **figures})
    print(render(trait, names, figures) + f"\n  {target.relative_to(paths.root)}")


def _look_up(
    labels: dict[tuple[str, str], float], file: str, dataset: TraitDataset, rows: list[StoredText]
) -> Scored:
    values = np.array([labels.get((dataset.trait, r.key), np.nan) for r in rows])
    if np.isnan(values).all():
        raise UserError(
            f"{file} has no score for a stored text of {dataset.trait}; write a file to fill in with "
            "--write-labels"
        )
    about = {"labels": Path(file).name, "sha256": digest(Path(file))}  # not where it lies on this machine
    return values, about | {"labelled": int((~np.isnan(values)).sum())}


def _judge(
    options: JudgeOptions, dataset: TraitDataset, rows: Sequence[StoredText], paths: ExperimentPaths
) -> Scored:
    judge = load_judge(options, dataset.rubric, paths.spending)
    scores = judge.score_responses([r.answer for r in rows])
    used = {"usage": judge.usage.as_json()} if judge.usage else {}

    return np.array([np.nan if s.value is None else s.value for s in scores]), judge.identity | {
        "states": count_states(scores),
        **used,
    }


def _label_table(work: list[tuple[TraitDataset, list[StoredText]]]) -> pd.DataFrame:
    texts = [(d.trait, r.key, "", r.answer.prompt, r.answer.response) for d, rows in work for r in rows]
    return pd.DataFrame(texts, columns=list(COLUMNS))


def render(trait: str, names: tuple[str, str], figures: dict) -> str:
    """Return one trait's comparison for a terminal."""
    lines = [
        f"{trait}: {names[0]} against {names[1]}, {figures['n']} of {figures['n_asked']} texts scored by both"
    ]
    for name in ("rank_correlation", "mean_difference", "mean_absolute_difference", "same_band", "kappa"):
        lines.append(f"  {name.replace('_', ' '):26}{_with_interval(figures[name])}")

    table = pd.DataFrame(
        figures["confusion"]["counts"],
        index=[f"{names[0]} {b}" for b in BANDS],
        columns=[f"{names[1]} {b}" for b in BANDS],
    )
    lines += ["  " + line for line in table.to_string().splitlines()]
    return "\n".join([*lines, *map(_arm_line, figures.get("arms", {}).items())])


def _arm_line(arm: tuple[str, dict]) -> str:
    name, figures = arm
    kappa, rank = _with_interval(figures["kappa"]), _with_interval(figures["rank_correlation"])
    return f"  {name:26}kappa {kappa}, rank correlation {rank}, {figures['n']} texts"


def _with_interval(figure: dict | None) -> str:
    return (
        f"{figure['value']:+.2f} [{figure['low']:+.2f}, {figure['high']:+.2f}]" if figure else "not defined"
    )


if __name__ == "__main__":
    command(judge_agreement)
