"""Which vectors are watched."""

import sys
from dataclasses import dataclass

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.records.choice import choose_keys
from traitscope.utils.records.vectors import Vector, list_traits, read_vector
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class WatchOptions:
    """Which vectors are projected on."""

    traits: tuple[str, ...] = flag(
        (), "Traits, separated by commas; by default all that have vectors.", also=("trait",)
    )
    layers: str = flag(
        "best",
        "best, best+5, 16, 5-20, all or several separated by commas; "
        "best is where steering works, else the best held-out AUROC.",
    )
    method: str = flag("", "Method of the vectors; by default the best layer's.")
    vectors_from: str = flag(
        "", "Experiment whose vectors are used, such as a base model's on its fine-tune; by default this one."
    )

    heading = "Vectors"


def read_watched(experiment: str, options: WatchOptions) -> list[Vector]:
    """Read every vector that the options ask for; a dose of it is in units of what stage 5 measured in
    this experiment.

    Raises:
        UserError: there is none, or one of a trait that was named is missing or damaged. Where no trait was named,
            such a trait is left out, and that is said.
    """
    source = ExperimentPaths(options.vectors_from or experiment)
    traits = options.traits or tuple(list_traits(source))
    if not traits:
        advice = (
            f"run extraction/run_pipeline.py --experiment {source.experiment}, or name another with "
            "--vectors-from"
        )
        raise UserError(f"{source.dir} has no vectors; {advice}")

    found: list[Vector] = []
    for paths in (TraitPaths(source.experiment, trait) for trait in dict.fromkeys(traits)):
        try:
            found += [
                read_vector(paths, key, why, paths.within(experiment))
                for key, why in choose_keys(paths, options.layers, options.method)
            ]
        except UserError as error:
            if options.traits:  # it was asked for
                raise
            print(f"note: {paths.trait} is left out: {error}", file=sys.stderr, flush=True)

    if not found:
        raise UserError(f"no trait of {source.experiment} has a vector that can be read; see the notes above")
    return found
