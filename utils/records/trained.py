"""How a trained method came about: what was tried, how each try went, and which vectors were kept."""

from typing import Any, Self

from pydantic import model_validator

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

METHOD_OF = {  # objective → the method whose vectors it makes; the last is no training, but one difference
    "nll": "trained_nll",
    "pref": "trained_pref",
    "distill": "trained_distill",
    "delta": "prompt_delta",
}
OBJECTIVES, METHODS = tuple(METHOD_OF), tuple(METHOD_OF.values())


class Tried(Shaped):
    """One vector that was learnt: a layer, a learning rate and a seed."""

    layer: int
    learning_rate: float
    seed: int
    is_kept: bool
    norm: float  # ‖v‖ as it was learnt; in units of the layer's mean residual norm it is the dose
    dose: float
    best_step: int
    best_loss: float | None  # on the validation texts; None where it was never finite
    tokens_seen: int  # response tokens, each as often as it was seen
    ended: str  # why it ended before the last step
    losses: list[
        tuple[int, float | None, float | None]
    ]  # step, training loss since the last one, validation loss


class Training(Shaped):
    """The columns of training/{method}.json."""

    trait: str
    method: str
    objective: str
    made_by: dict[str, Any]
    options: dict[str, Any]
    texts: dict[str, int]  # how many texts and response tokens were learnt, validated on and left over
    source: dict[str, Any] = {}  # of texts of a file: which, its digest, and what became of its lines
    plain_loss: float | None  # of the unsteered model on the validation texts; None where nothing was lowered
    layers: list[int]  # that it has a vector for, ascending
    tried: list[Tried]
    seeds_agree: dict[str, list[float]] = {}  # layer → cosines between the seeds' vectors, of the kept rate

    @model_validator(mode="after")
    def _keeps_one_a_layer(self) -> Self:
        kept = sorted(vector.layer for vector in self.tried if vector.is_kept)
        assert kept == self.layers or not self.tried, "not one kept vector a layer"
        return self


def write_training(paths: TraitPaths, training: Training) -> None:
    """Write how a method was trained."""
    write_json(paths.training(training.method), training.model_dump())


def read_training(paths: TraitPaths, method: str) -> Training:
    """Read how a method was trained.

    Raises:
        UserError: the file is missing, not what training writes, or of another trait or method.
    """
    file = paths.training(method)
    found = read_shaped(file, Training)
    require_own(file, trait=(found.trait, paths.trait), method=(found.method, method))
    return found


def list_trainings(paths: TraitPaths) -> dict[str, Training]:
    """Return {method: how it was trained} of every method that was, in the order of their objectives.

    Raises:
        UserError: a file is not what training writes, or of another trait or method.
    """
    return {method: read_training(paths, method) for method in METHODS if is_there(paths.training(method))}


def command_to_train(paths: TraitPaths) -> str:
    """Return the command that trains a trait's vectors."""
    return f"python extraction/train_vectors.py --experiment {paths.experiment} --traits {paths.trait}"
