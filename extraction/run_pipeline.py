"""The whole pipeline: every stage for every trait, stage by stage, so that each model loads once."""

import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from extraction.summary import render_example, render_table, summarise, write_summary
from utils.cli import run_cli
from utils.errors import UserError
from utils.experiment import parse_traits, resolve_settings
from utils.flags import Flag, flags_of
from utils.paths import ROOT, ExperimentPaths, TraitPaths
from utils.stage import Stage, run_stage, why_run

NAMES = ("0_vet_scenarios", "1_generate_responses", "2_vet_responses", "3_capture_activations", "4_fit_vectors", "5_steer_evaluate")
VETTING = {0, 2}
STEERING = 5


@dataclass(frozen=True)
class Step:
    """A stage with its settings and the experiment it writes into."""

    stage: Stage
    experiment: str
    settings: dict[str, Any]


def load_stage(name: str) -> Stage:
    """Return a numbered stage; its file cannot be imported by an ordinary statement."""
    return importlib.import_module(f"extraction.{name}").STAGE


def run_pipeline(
    *,
    experiment: str,
    trait: str = "",
    traits: tuple[str, ...] = (),
    steer_experiment: str = "",
    steer_model: str = "",
    stages: str = "0-5",
    only_stage: int = -1,
    force: bool = False,
    dry_run: bool = False,
    no_steering: bool = False,
) -> None:
    """Vet scenarios, generate, vet responses, capture activations, fit vectors and steer-evaluate, for every trait; what is up to date is skipped.

    Args:
        experiment: Name of the folder under experiments/; names such as gemma-2-2b-it also choose the model.
        trait: A trait, as category/name.
        traits: Several traits, separated by commas.
        steer_experiment: Experiment whose model is steered with this one's vectors, and which receives the results.
        steer_model: Model to steer, where it is not the one that made the vectors.
        stages: Stages to run, such as 1-3 or 0,4.
        only_stage: One stage to run, 0 to 5.
        force: Run even where everything is up to date, and forget partial progress.
        dry_run: Print what would run and why, and change nothing.
        no_steering: Leave out stage 5.
    """
    raise NotImplementedError  # a declaration of flags: `main` receives their values


def all_flags() -> dict[str, Flag]:
    """Return the pipeline's own flags and every stage's."""
    stage_flags = [load_stage(name).flags for name in reversed(NAMES)]
    return flags_of(run_pipeline) | {name: flag for flags in stage_flags for name, flag in flags.items()}


def main(**given: Any) -> None:
    """Run the pipeline with the flags given.

    Raises:
        UserError: a flag is wrong, or a trait failed (after the others went on to the end).
    """
    own = {name: given.get(name, flag.default) for name, flag in flags_of(run_pipeline).items()}
    names = parse_traits(own["trait"], own["traits"])
    steps = plan_steps(own, {k: v for k, v in given.items() if k not in own})
    targets = [TraitPaths(own["experiment"], name) for name in names]
    if own["dry_run"]:
        print_plan(steps, targets)
        return
    failures = run_steps(steps, targets, force=own["force"])
    report(steps, targets, own)
    if failures:
        lines = [f"  {name}: failed at {stage}: {message}" for name, (stage, message) in failures.items()]
        raise UserError("\n".join([f"{len(failures)} of {len(names)} traits failed; mend what is said, and run the same command again", *lines]))


def plan_steps(own: dict[str, Any], given: dict[str, Any]) -> list[Step]:
    """Return the stages to run, in order, each with its settings."""
    stages = [load_stage(name) for name in NAMES]
    stage_flags = {name: flag for stage in stages for name, flag in stage.flags.items()}
    keep = not own["dry_run"]
    settings = resolve_settings(ExperimentPaths(own["experiment"]), stage_flags, given, keep=keep)
    chosen = parse_stages(own["stages"], own["only_stage"])
    if settings.get("no_vet"):
        chosen -= VETTING
    if own["no_steering"]:
        chosen -= {STEERING}
    steps = [Step(stages[i], own["experiment"], settings) for i in sorted(chosen - {STEERING})]
    if STEERING in chosen:
        steps.append(_steering_step(stages[STEERING], own, given, settings, keep))
    return steps


def _steering_step(stage: Stage, own: dict[str, Any], given: dict[str, Any], settings: dict[str, Any], keep: bool) -> Step:
    """Stage 5 may belong to another experiment, with a model and a config of its own."""
    model = {"model": own["steer_model"]} if own["steer_model"] else {}
    if not own["steer_experiment"]:
        return Step(stage, own["experiment"], settings | model)
    flags = {k: v for k, v in given.items() if k in stage.flags and k != "model"} | model
    theirs = resolve_settings(ExperimentPaths(own["steer_experiment"]), stage.flags, flags, keep=keep)
    return Step(stage, own["steer_experiment"], theirs | {"vectors_from": own["experiment"]})


def parse_stages(spec: str, only: int) -> set[int]:
    """Return stage numbers from --stages (1-3, 0,4) or --only-stage."""
    text = str(only) if only >= 0 else spec
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.strip().isdigit() and (last or first).strip().isdigit()):
            raise UserError(f"--stages {text!r}: write 1-3, 4 or 0,2")
        chosen |= set(range(int(first), int(last or first) + 1))
    if not chosen or not chosen <= set(range(len(NAMES))):
        raise UserError(f"--stages {text!r}: stages go from 0 to {len(NAMES) - 1}")
    return chosen


def print_plan(steps: list[Step], targets: list[TraitPaths]) -> None:
    """Print, for every trait and stage, whether it would run and why."""
    for paths in targets:
        rerun: set[str] = set()
        for step in steps:
            here = paths.within(step.experiment)
            params = step.stage.params(step.settings)
            reason = why_run(step.stage, here, params)
            upstream = sorted({w for path in step.stage.inputs(here, params) if (w := here.writer(path)) in rerun})
            if reason:
                print(f"[{step.stage.name}] {paths.trait}: would run ({reason})")
            elif upstream:
                print(f"[{step.stage.name}] {paths.trait}: downstream, runs if {', '.join(upstream)} changes what it reads")
            else:
                print(f"[{step.stage.name}] {paths.trait}: up to date")
            if reason or upstream:
                rerun.add(step.stage.name)


def run_steps(steps: list[Step], targets: list[TraitPaths], *, force: bool) -> dict[str, tuple[str, str]]:
    """Run stage by stage; a trait that fails is left out of later stages. Returns {trait: (stage, message)} of those."""
    failures: dict[str, tuple[str, str]] = {}
    for step in steps:
        going = [paths.within(step.experiment) for paths in targets if paths.trait not in failures]
        failed = run_stage(step.stage, going, step.settings, force=force)
        failures |= {name: (step.stage.name, message) for name, message in failed.items()}
    return failures


def report(steps: list[Step], targets: list[TraitPaths], own: dict[str, Any]) -> None:
    """Print the table and the examples, and write the summary files."""
    settings = load_stage("2_vet_responses").params(steps[0].settings if steps else {})
    thresholds = (settings["pos_threshold"], settings["neg_threshold"])
    steered = own["steer_experiment"] or own["experiment"]
    rows = [summarise(paths, paths.within(steered), thresholds) for paths in targets if paths.dir.exists()]
    if not rows:
        return
    paths = ExperimentPaths(own["experiment"])
    write_summary(paths, rows)
    print("\n" + render_table(rows) + "\n")
    print("\n\n".join(example for row in rows if (example := render_example(row))))
    print(f"\nsummary: {paths.summary('json').relative_to(ROOT)}, {paths.summary('csv').relative_to(ROOT)}")


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(run_pipeline) or "")
