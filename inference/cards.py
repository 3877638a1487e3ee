"""Which vectors are watched."""

from dataclasses import dataclass

from utils.errors import UserError
from utils.paths import ExperimentPaths, TraitPaths
from utils.vectors import Card, choose_cells, load_card, traits_with_vectors


@dataclass(frozen=True)
class CardOptions:
    """Which vectors are projected on.

    Args:
        traits: Traits, separated by commas; by default all that have vectors.
        layers: best, best+5, 16, 5-20, all or several separated by commas; best is where steering works, else the best held-out AUROC.
        method: Method of the vectors; by default the best layer's.
        vectors_from: Experiment whose vectors are used, such as a base model's on its fine-tune; by default this one.
    """

    traits: tuple[str, ...] = ()
    layers: str = "best"
    method: str = ""
    vectors_from: str = ""


def read_cards(experiment: str, options: CardOptions) -> list[Card]:
    """Read every vector that the options ask for.

    Raises:
        UserError: there is none, or one of them is missing.
    """
    source = ExperimentPaths(options.vectors_from or experiment)
    traits = options.traits or tuple(traits_with_vectors(source))
    if not traits:
        raise UserError(f"{source.dir} has no vectors; run extraction/run_pipeline.py --experiment {source.experiment}, or name another with --vectors-from")
    owners = [TraitPaths(source.experiment, trait) for trait in dict.fromkeys(traits)]
    return [load_card(paths, *cell) for paths in owners for cell in choose_cells(paths, options.layers, options.method)]
