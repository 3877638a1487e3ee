"""One vector that is learnt: where it starts, how its learning goes, and what it becomes."""

import base64
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from traitscope.utils.files.journal import Journal


@dataclass(frozen=True)
class Start:
    """One vector to be learnt."""

    layer: int
    learning_rate: float
    seed: int
    mean_norm: float  # of the residual stream at the layer: the unit of a dose


@dataclass(frozen=True)
class Look:
    """How a vector stood at a validation."""

    start: Start
    step: int
    trained: float | None  # mean training loss since the last validation
    loss: float
    norm: float
    learning_rate: float  # of the step before it


@dataclass(frozen=True)
class Progress:
    """Where a training keeps how far it is, and who is told how it goes."""

    journal: Journal
    label: str = ""
    watch: Callable[[list[Look]], None] = lambda looks: None


@dataclass
class Course:
    """How the learning of one vector went."""

    losses: list[tuple[int, float | None, float]] = field(default_factory=list)  # step, training, validation
    tokens_seen: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    worse: int = 0  # validations since the best
    ended: str = ""  # why it ended before the last step

    def look(self, step: int, trained: float | None, loss: float, patience: int) -> bool:
        """Note a validation; return whether it is the best so far."""
        self.losses.append((step, trained, loss))
        if not math.isfinite(loss):
            self.ended = f"the loss was not finite at step {step}"
            return False
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.worse = step, loss, 0
            return True
        self.worse += 1
        if patience and self.worse >= patience:
            self.ended = f"no lower loss in {patience} validations"
        return False


@dataclass(frozen=True, eq=False)
class Learned:
    """A vector as it was learnt."""

    start: Start
    values: Tensor  # [d_model], float32, on the CPU
    course: Course
    plain_loss: float  # of the unsteered model on the validation texts
    settings: dict[str, Any]  # how it was learnt


def course_as_json(course: Course) -> dict[str, Any]:
    """Return a course with null in place of what is not finite, which JSON does not know."""
    losses = [[step, finite(trained), finite(loss)] for step, trained, loss in course.losses]
    return asdict(course) | {"losses": losses, "best_loss": finite(course.best_loss)}


def read_course(kept: dict[str, Any]) -> Course:
    """Return the course that `course_as_json` kept."""
    losses = [(step, trained, math.nan if loss is None else loss) for step, trained, loss in kept["losses"]]
    best = math.inf if kept["best_loss"] is None else kept["best_loss"]
    return Course(**(kept | {"losses": losses, "best_loss": best}))


def finite(value: float | None) -> float | None:
    """Return a number, or None in place of one that is not finite."""
    return value if value is not None and math.isfinite(value) else None


def pack(tensor: Tensor) -> str:
    """Return a tensor as text, float32."""
    return base64.b64encode(tensor.float().cpu().numpy().tobytes()).decode()


def unpack(text: str, shape: tuple[int, int]) -> Tensor:
    """Return the tensor that `pack` kept."""
    return torch.tensor(np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(shape))
