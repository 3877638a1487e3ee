"""What a model does when it is prompted, steered or left alone: a table of texts with scores, and what they show.

For example:

    python inference/roll_out.py --experiment demo --traits behavioral/formality --arms plain,prompted,mean_diff --score judge,coherence
"""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.inference.rolling.asking import choose_asked
from traitscope.inference.rolling.closing import report
from traitscope.inference.rolling.scoring import Scoring, check_kinds, score_all
from traitscope.inference.rolling.variants import ArmOptions, Variant, list_variants
from traitscope.inference.rolling.writing import (
    RolloutSampling,
    keep_good,
    missing_rows,
    plan_rows,
    setting_of,
    write_missing,
)
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import sweep_temporaries
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import JudgeOptions
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.rollouts import Rollouts, read_rollouts, write_rollouts
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class RolloutOptions:
    """Roll out what is missing, score what is not scored, and make the tables of all that there is."""

    experiment: str = flag(help="Experiment whose model answers and whose vectors steer it.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))
    questions: str = flag(
        "test",
        'test, dev or all of stage 5\'s questions, or a file: one question a line, or JSON with a list "questions".',
    )
    limit: int = flag(0, "Ask the first questions only; 0 asks all.")
    score: tuple[str, ...] = flag(
        (), "judge (the trait), coherence, classifier: each scores what it has not scored yet."
    )
    wait: bool = flag(False, "Wait for another process that rolls out the same trait.")

    heading = "What to run on"


@dataclass(frozen=True)
class _Run:
    """What all traits of a run share."""

    options: RolloutOptions
    arms: ArmOptions
    sampling: RolloutSampling
    model: ModelOptions
    judging: JudgeOptions
    thresholds: Thresholds


def roll_out(
    options: RolloutOptions,
    arms: ArmOptions,
    sampling: RolloutSampling,
    model: ModelOptions,
    judging: JudgeOptions,
    thresholds: Thresholds,
) -> None:
    """Roll out every trait; one that fails leaves the others going.

    Raises:
        UserError: a flag is wrong, or a trait failed.
    """
    sampling.check()
    check_kinds(options.score)
    judging.check()
    run = _Run(options, arms, sampling, model, judging, thresholds)
    each = Each([TraitPaths(options.experiment, trait) for trait in dict.fromkeys(options.traits)])
    each.do(partial(_roll_out_trait, run))
    each.finish()


def _roll_out_trait(run: _Run, paths: TraitPaths) -> None:
    busy = f"another process rolls out {paths.trait} in {paths.experiment}"
    dataset = read_trait(paths)
    variants = list_variants(paths, dataset, run.arms)

    with hold(paths.rollouts_lock, busy, wait=run.options.wait):
        sweep_temporaries(paths.rollouts)
        before = read_rollouts(paths)
        load = _loader(run.model, variants)
        found, written = _complete(run, paths, dataset, variants, before, load)
        scoring = Scoring(paths, dataset, run.judging, run.thresholds, load)
        found, problems = score_all(scoring, found, run.options.score)
        print(report(paths, found, written, scoring.used), flush=True)
    if problems:
        raise UserError("; ".join(problems))


def _complete(
    run: _Run,
    paths: TraitPaths,
    dataset: TraitDataset,
    variants: list[Variant],
    before: Rollouts,
    load: Callable[[], LM],
) -> tuple[Rollouts, int]:
    """Generate what is missing; return all rows, and how many are new."""
    if not variants:
        if not before.rows.num_rows:
            raise UserError(
                f"{paths.trait}: nothing was rolled out yet; name --arms plain,prompted,mean_diff"
            )
        return before, 0

    setting = setting_of(run.model, run.sampling)
    asked = choose_asked(paths, dataset, run.options.questions, run.options.limit)
    planned = plan_rows(variants, asked, run.sampling.rollouts, setting)
    kept = keep_good(paths, before, planned, setting)
    missing = missing_rows(kept, planned)

    gone = before.rows.num_rows - kept.rows.num_rows
    if gone:
        print(
            f"note: {paths.trait}: {gone} rows of another model, vector or sampling are replaced", flush=True
        )
    if gone and not missing:
        write_rollouts(paths, kept)
    found = write_missing(paths, kept, missing, load, run.sampling, setting)
    paths.rollouts_journal.unlink(missing_ok=True)
    return found, len(missing)


def _loader(model: ModelOptions, variants: list[Variant]) -> Callable[[], LM]:
    """Return what loads the model when it is first needed, and refuses vectors that do not fit it."""
    loaded: list[LM] = []

    def load() -> LM:
        if not loaded:
            lm = load_lm(model)
            vectors = {v.vector.sha256: v.vector for v in variants if v.vector}
            notes = {note for vector in vectors.values() if (note := vector.require_fit(lm))}
            for note in sorted(notes):
                print(note, flush=True)
            loaded.append(lm)
        return loaded[0]

    return load


if __name__ == "__main__":
    command(roll_out)
