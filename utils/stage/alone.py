"""One numbered stage as a command of its own."""

import inspect
from functools import partial
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.stage.command import Command
from traitscope.utils.stage.experiment import RunOptions, keep_settings, resolve_settings
from traitscope.utils.stage.flags import Flag
from traitscope.utils.stage.stage import How, Stage, run_stage


def stage_command(stage: Stage) -> Command:
    """Return the command that runs one stage, for one trait or several."""

    def run(options: RunOptions, how: How, given: dict[str, Any]) -> None:
        instead = next((name for name in stage.instead if given.get(name)), "")
        stated = {name: value for name, value in given.items() if name in stage.flags}
        targets = options.targets
        paths = ExperimentPaths(options.experiment)
        settings = resolve_settings(paths, stage.flags, stated)

        keep = partial(keep_settings, paths, stage.flags, settings)
        failures = run_stage(stage, targets, settings, how, instead=instead, keep=partial(keep, is_done=True))
        if not instead:
            keep()
        if failures:
            raise UserError(f"{len(failures)} of {len(targets)} traits failed: {', '.join(failures)}")

    return Command(run, lambda: stage_flags(stage), inspect.getmodule(stage.run).__doc__ or "")


def stage_flags(stage: Stage) -> dict[str, Flag]:
    """Return the flags of a stage's command, beside those of every run."""
    switches = {
        name: Flag(name, bool, False, other.help, is_cosmetic=True) for name, other in stage.instead.items()
    }
    return stage.flags | switches
