"""The whole pipeline: every stage for every trait, stage by stage, so that each model loads once.

    python extraction/run_pipeline.py --experiment demo --traits behavioral/formality,epistemic/optimism

What is up to date is skipped; after an edit, exactly the stages that read what was edited run again.
"""

import importlib
import runpy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.extraction.report.summary import render_example, render_table, summarise_all
from traitscope.extraction.training.stage import require_own_texts, training_flags, training_stage
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import FIT, STAGES, ExperimentPaths, TraitPaths
from traitscope.utils.judge import JudgeOptions, prepare_judge
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import METHOD_OF
from traitscope.utils.stage.command import Command, command
from traitscope.utils.stage.experiment import RunOptions, keep_settings, resolve_settings
from traitscope.utils.stage.flags import Flag, flag, pick
from traitscope.utils.stage.stage import FORCED, How, Stage, run_stage, why_run

VETTING = {0, 2}
FITTING, STEERING = 4, 5


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its settings and the experiment it writes into."""

    stage: Stage
    experiment: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class PipelineOptions(RunOptions):
    """Vet scenarios, generate, vet responses, capture activations, fit vectors and steer-evaluate, for
    every trait.
    """

    steer_experiment: str = flag(
        "", "Experiment whose model is steered with this one's vectors, and which receives the results."
    )
    steer_model: str = flag("", "Model to steer, where it is not the one that made the vectors.")
    stages: str = flag("0-5", "Stages to run, such as 1-3, 4 or 0,4.", also=("only_stage",))
    dry_run: bool = flag(False, "Print what would run and why, and change nothing.")
    no_steering: bool = flag(False, "Leave out stage 5.")


def load_stage(name: str) -> Stage:
    """Return a numbered stage; its file cannot be imported by an ordinary statement."""
    return importlib.import_module(f"traitscope.extraction.{name}").STAGE


def setting_flags() -> dict[str, Flag]:
    """Return every stage's flags; one that several share is cosmetic only if it is so in all of them."""
    flags: dict[str, Flag] = {}
    for own_flags in (training_flags(), *(load_stage(name).flags for name in STAGES)):
        for name, own in own_flags.items():
            flags[name] = replace(own, is_cosmetic=own.is_cosmetic and flags.get(name, own).is_cosmetic)
    return flags


def run_pipeline(options: PipelineOptions, how: How, given: dict[str, Any]) -> None:
    """Run the pipeline.

    Args:
        given: The stages' flags, as they were typed.

    Raises:
        UserError: a flag is wrong, or a trait failed (after the others went on to the end).
    """
    targets = options.targets
    steps = plan_stages(options, given)
    if options.dry_run:
        print_plan(steps, targets, how)
        return

    failures = run_stages(steps, targets, how)
    problems = [f"  {name}: failed at {stage}: {message}" for name, (stage, message) in failures.items()]
    unread: dict[str, str] = {}
    try:
        unread = report(steps, [paths for paths in targets if paths.trait not in failures], options)
    except UserError as error:  # what failed before must still be said
        problems.append(f"  no summary: {error}")
    problems += [f"  {name}: its results cannot be read: {message}" for name, message in unread.items()]
    if problems:
        advice = "mend what is said, and run the same command again"
        failed = len(failures.keys() | unread.keys())
        raise UserError("\n".join([f"{failed} of {len(targets)} traits failed; {advice}", *problems]))


def plan_stages(options: PipelineOptions, given: dict[str, Any]) -> list[PlannedStage]:
    """Return the stages to run, in order, each with its settings."""
    stages = [load_stage(name) for name in STAGES]
    chosen = parse_stages(options.stages)
    paths = ExperimentPaths(options.experiment)
    settings = resolve_settings(paths, setting_flags(), given)
    if unknown := sorted(settings.keys() - setting_flags().keys()):
        known = "the settings are the stages' flags, with underscores"
        raise UserError(f"{paths.config}: unknown setting {unknown[0]!r}; {known}")

    if settings.get("no_vet"):
        chosen -= VETTING
    if options.no_steering:
        chosen -= {STEERING}
    steps = [PlannedStage(stages[i], options.experiment, settings) for i in sorted(chosen - {STEERING})]
    if FITTING in chosen:
        asked = [name for name, method in METHOD_OF.items() if method in settings.get("methods", ())]
        if asked:
            require_own_texts(settings, options.targets)
        steps += [PlannedStage(training_stage(name), options.experiment, settings) for name in asked]
    if STEERING in chosen:
        steps.append(_plan_steering(stages[STEERING], options, given, settings))
    return steps


def _plan_steering(
    stage: Stage, options: PipelineOptions, given: dict[str, Any], settings: dict[str, Any]
) -> PlannedStage:
    """Plan stage 5, which may belong to another experiment, with a model and a config of its own."""
    model = {"model": options.steer_model, "revision": ""} if options.steer_model else {}
    if not options.steer_experiment:
        return PlannedStage(stage, options.experiment, settings | model)

    flags = {k: v for k, v in given.items() if k in stage.flags and k not in ("model", "revision")} | model
    theirs = resolve_settings(ExperimentPaths(options.steer_experiment), stage.flags, flags)
    return PlannedStage(stage, options.steer_experiment, theirs | {"vectors_from": options.experiment})


def parse_stages(spec: str) -> set[int]:
    """Return stage numbers from a spec such as 1-3, 4 or 0,2."""
    chosen: set[int] = set()
    for part in spec.split(","):
        first, _, last = part.partition("-")
        if not (first.strip().isdigit() and (last or first).strip().isdigit()):
            raise UserError(f"stages {spec!r}: write 1-3, 4 or 0,2")
        chosen |= set(range(int(first), int(last or first) + 1))

    if not chosen or not chosen <= set(range(len(STAGES))):
        raise UserError(f"stages {spec!r}: stages go from 0 to {len(STAGES) - 1}")
    return chosen


def print_plan(steps: list[PlannedStage], targets: list[TraitPaths], how: How) -> None:
    """Print, for every trait and stage, whether it would run and why."""
    for paths in targets:
        rerun: set[str] = set()
        for step in steps:
            plan, runs = _foresee(step, paths.within(step.experiment), rerun, how)
            print(f"[{step.stage.name}] {paths.trait}: {plan}")
            # training writes among stage 4's vectors
            written = {step.stage.name, FIT} if step.stage.name.startswith("train_") else {step.stage.name}
            rerun |= written if runs else set()


def _foresee(step: PlannedStage, paths: TraitPaths, rerun: set[str], how: How) -> tuple[str, bool]:
    """Return what a stage would do, in words, and whether it may write something new."""
    try:
        params = step.stage.params(step.settings)
        if reason := FORCED if how.force else why_run(step.stage, paths, params, verify=how.verify):
            return f"would run ({reason})", True
        upstream = sorted(
            {w for path in step.stage.inputs(paths, params) if (w := paths.writer(path)) in rerun}
        )
    except (UserError, OSError) as error:
        return f"would fail: {error}", False
    return (
        (f"downstream, runs if {', '.join(upstream)} changes what it reads", True)
        if upstream
        else ("up to date", False)
    )


def run_stages(steps: list[PlannedStage], targets: list[TraitPaths], how: How) -> dict[str, tuple[str, str]]:
    """Run stage by stage; a trait that fails is left out of later stages. Returns {trait: (stage,
    message)} of those.
    """
    failures: dict[str, tuple[str, str]] = {}
    _meet_judges(steps, targets, how)

    for step in steps:
        going = [paths.within(step.experiment) for paths in targets if paths.trait not in failures]
        keep = partial(keep_settings, ExperimentPaths(step.experiment), setting_flags(), step.settings)
        failed = run_stage(step.stage, going, step.settings, how, keep=partial(keep, is_done=True))
        keep()
        failures |= {name: (step.stage.name, message) for name, message in failed.items()}

    return failures


def _meet_judges(steps: list[PlannedStage], targets: list[TraitPaths], how: How) -> None:
    """Find out before any model is loaded whether the judges that will be needed can be asked."""
    for step in steps:
        if "judge" in step.stage.flags:
            params = step.stage.params(step.settings)
            if how.force or any(
                _has_reason(step.stage, paths.within(step.experiment), params, how) for paths in targets
            ):
                prepare_judge(pick(JudgeOptions, params), ExperimentPaths(step.experiment).spending)


def _has_reason(stage: Stage, paths: TraitPaths, params: dict[str, Any], how: How) -> bool:
    try:
        return why_run(stage, paths, params, verify=how.verify) is not None
    except Exception:  # the trait's own failure, told when its turn comes
        return False


def report(steps: list[PlannedStage], targets: list[TraitPaths], options: PipelineOptions) -> dict[str, str]:
    """Print the table and the examples of these traits, and write the summary files, of all traits of the
    experiment. Returns {trait: one line} of those whose results cannot be read.
    """
    paths = ExperimentPaths(options.experiment)
    thresholds = pick(Thresholds, steps[0].settings if steps else {})
    found = summarise_all(paths, options.steer_experiment, thresholds) if paths.traits else {}
    rows = [found[t.trait] for t in targets if t.trait in found and "problem" not in found[t.trait]]

    if rows:
        print("\n" + render_table(rows) + "\n")
        print("\n\n".join(example for row in rows if (example := render_example(row))))
        files = [paths.summary(ending).relative_to(paths.root) for ending in ("json", "csv")]
        print(f"\nsummary: {', '.join(map(str, files))}")

    asked = [found[t.trait] for t in targets if t.trait in found]
    return {row["trait"]: row["problem"] for row in asked if "problem" in row}


COMMAND = Command(run_pipeline, others=setting_flags)

if __name__ == "__main__":
    command(COMMAND)
