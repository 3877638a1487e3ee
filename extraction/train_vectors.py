"""Train vectors by gradient descent through the frozen model, as methods beside those of stage 4.

For example:

    python extraction/train_vectors.py --experiment demo --traits behavioral/formality --objective nll
    python extraction/train_vectors.py --experiment demo --traits behavioral/formality --from texts.jsonl
"""

import runpy
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from dataclasses import dataclass

from traitscope.extraction.training.stage import require_own_texts, training_flags, training_stage
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.records.trained import OBJECTIVES
from traitscope.utils.stage.command import Command, command
from traitscope.utils.stage.experiment import RunOptions, keep_settings, resolve_settings
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.stage import FORCED, How, Stage, run_stage, why_run


@dataclass(frozen=True)
class TrainingRun(RunOptions):
    """Train vectors for several traits, with one load of the model."""

    objective: tuple[str, ...] = flag(
        ("nll",), f"What training lowers: {', '.join(OBJECTIVES)}.", also=("objectives",)
    )
    dry_run: bool = flag(False, "Print what would be trained and why, and change nothing.")


def train(options: TrainingRun, how: How, given: dict[str, Any]) -> None:
    """Train what is not up to date; a trait that fails leaves the others going.

    Raises:
        UserError: a flag is wrong, or a trait failed.
    """
    stages = [training_stage(name) for name in options.objective]
    paths = ExperimentPaths(options.experiment)
    settings = resolve_settings(paths, training_flags(), given)
    require_own_texts(settings, options.targets)
    if options.dry_run:
        _print_plan(stages, options, settings, how)
        return

    keep = partial(keep_settings, paths, training_flags(), settings)
    failures: dict[str, str] = {}
    for stage in stages:
        failures |= run_stage(stage, options.targets, settings, how, keep=partial(keep, is_done=True))
    if failures:
        raise UserError(f"{len(failures)} of {len(options.targets)} traits failed: {', '.join(failures)}")


def _print_plan(stages: list[Stage], options: TrainingRun, settings: dict[str, Any], how: How) -> None:
    for stage in stages:
        params = stage.params(settings)
        for paths in options.targets:
            reason = FORCED if how.force else why_run(stage, paths, params, verify=how.verify)
            print(f"[{stage.name}] {paths.trait}: {f'would train ({reason})' if reason else 'up to date'}")


COMMAND = Command(train, others=training_flags)

if __name__ == "__main__":
    command(COMMAND)
