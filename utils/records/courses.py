"""How traits move through recorded responses, as monitor_dynamics leaves it: dynamics/{trait}.json."""

from typing import Any

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.records.shaped import Shaped, read_shaped


class Figures(Shaped):
    """What is said of one course: of its centred scores, smoothed; tokens count from the first that is
    described.
    """

    mean: float
    last: float
    peak: float
    persistence: float
    fastest: float
    mean_velocity: float
    roughness: float
    commitment: int | None  # None too where noise might commit as clearly
    commitment_p: float | None = None  # against such noise
    peak_at: int
    fastest_at: int
    n_tokens: int


class PromptFigures(Figures):
    """The same, of one prompt."""

    id: str


class KnownPoint(Shaped):
    """Where a prompt set says that a trait should turn, and the change of its mean there."""

    where: str
    expect: str
    token: int
    change: float


class VectorCourses(Shaped):
    """One vector's figures, prompt by prompt."""

    origin: dict[str, Any]
    prompts: list[PromptFigures]


class Dynamics(Shaped):
    """The columns of dynamics/{trait}.json that anybody reads."""

    trait: str
    over: str
    window: int
    tolerance: float
    vectors: list[VectorCourses]

    def find(self, prompt: str, sha256: str) -> Figures | None:
        """Return a prompt's figures on a vector, known by its content; None where it was not described."""
        rows = [
            row for found in self.vectors if found.origin.get("sha256") == sha256 for row in found.prompts
        ]
        return next((row for row in rows if row.id == prompt), None)


def write_dynamics(paths: InferencePaths, content: dict[str, Any]) -> None:
    """Write a trait's dynamics."""
    Dynamics.model_validate(content)
    write_json(paths.dynamics(content["trait"]), content, indent=None)


def read_dynamics(paths: InferencePaths, trait: str) -> Dynamics | None:
    """Return a trait's dynamics; None where nobody described them.

    Raises:
        UserError: the file is not what monitor_dynamics writes.
    """
    file = paths.dynamics(trait)
    return read_shaped(file, Dynamics) if file.exists() else None
