"""Every method's vector of a trait side by side: length, likeness, and what the model's text costs under each.

For example:

    python analysis/compare_vectors.py --experiment demo --traits behavioral/formality
    python analysis/compare_vectors.py --experiment demo --traits behavioral/formality --methods mean_diff,trained_nll --layers 17 --dose 0.2
"""

import runpy
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


from traitscope.analysis.comparing.stage import COMPARE
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.records.compared_vectors import read_compared
from traitscope.utils.stage.command import Command, command
from traitscope.utils.stage.experiment import RunOptions, resolve_settings
from traitscope.utils.stage.flags import Flag
from traitscope.utils.stage.stage import How, run_stage

SHOWN = {  # column → what stands above it
    "layer": "layer",
    "method": "method",
    "norm_as_dose": "‖v‖",
    "auroc": "AUROC",
    "loss_unsteered": "unsteered",
    "loss_prompted": "prompted",
    "loss_told": "told",
    "loss_plus": "+v",
    "loss_minus": "−v",
    "loss_random": "random",
    "noise_100": "noise",
    "kl": "KL",
    "kl_random": "KL random",
}


def compare_vectors(options: RunOptions, how: How, given: dict[str, Any]) -> None:
    """Compare every trait's vectors where that is not up to date, and print them; a trait that fails leaves the others
    going.

    Raises:
        UserError: a flag is wrong, or a trait failed.
    """
    settings = resolve_settings(ExperimentPaths(options.experiment), compare_flags(), given)
    failures = run_stage(COMPARE, options.targets, settings, how)
    for paths in options.targets:
        if paths.trait not in failures:
            print(render(paths))
    if failures:
        raise UserError(f"{len(failures)} of {len(options.targets)} traits failed: {', '.join(failures)}")


def render(paths: TraitPaths) -> str:
    """Return a trait's table for a terminal: losses in nats per token of held-out positive responses."""
    record, tables = read_compared(paths.compared_vectors, paths.trait)
    shown = tables["vectors"][list(SHOWN)].rename(columns=SHOWN)
    text = shown.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:.3f}")
    where = paths.relative(paths.compared_vectors)
    notes = [f"note: {note}" for note in record.notes]
    return "\n".join([f"{paths.trait}, dose {record.options['compare_dose']:g}: {where}", text, *notes])


def compare_flags() -> dict[str, Flag]:
    """Return the flags of the comparison."""
    return COMPARE.flags


COMMAND = Command(compare_vectors, others=compare_flags)

if __name__ == "__main__":
    command(COMMAND)
