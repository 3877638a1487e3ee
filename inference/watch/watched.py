"""Which vectors are watched."""

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
        UserError: there is none, or one of them is missing.
    """
    source = ExperimentPaths(options.vectors_from or experiment)
    traits = options.traits or tuple(list_traits(source))
    if not traits:
        advice = (
            f"run extraction/run_pipeline.py --experiment {source.experiment}, or name another with "
            "--vectors-from"
        )
        raise UserError(f"{source.dir} has no vectors; {advice}")

    owners = [TraitPaths(source.experiment, trait) for trait in dict.fromkeys(traits)]
    return [
        read_vector(paths, key, why, paths.within(experiment))
        for paths in owners
        for key, why in choose_keys(paths, options.layers, options.method)
    ]
