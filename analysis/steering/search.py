"""What is searched: the options, the cells, and what a cell does to the score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.treatments import Treatment
from traitscope.utils.errors import UserError
from traitscope.utils.model.hooks import Push
from traitscope.utils.stage.flags import flag

DOSES = (0.005, 2.0)  # beyond these a push does nothing, or replaces the residual stream


ChooseBy = Literal["separation", "depth", "steering"]


@dataclass(frozen=True)
class Search:
    """Where and how strongly is steered, and how that is found."""

    choose_by: ChooseBy = flag(
        "depth",
        (
            "How method and layer are chosen among --method and --layers: separation (what separates held-out "
            "responses best), depth (the first method, nearest to 55 % of the layers), or steering (by what they do on "
            "dev; every random direction then chooses too, which costs many times as many texts)."
        ),
    )
    doses: tuple[float, ...] = flag((), "Fixed doses, instead of the search.")
    coefficients: tuple[float, ...] = flag(
        (),
        (
            "Fixed raw coefficients on the vectors as saved, instead of the search; 0 is the unsteered arm, "
            "always there."
        ),
    )
    search_steps: int = flag(3, "Doses that the adaptive search tries.")
    start_mult: float = flag(
        0.1, "First dose: this multiple of the layer's mean residual norm in the steered model."
    )
    up_mult: float = flag(2.0, "Factor on the dose while the text stays coherent.")
    down_mult: float = flag(0.5, "Factor on the dose when the text breaks.")
    momentum: bool = flag(False, "Let each step up carry on half of the one before.")

    heading = "Dose search"
    is_setting = True  # a key of config.json

    def check(self) -> None:
        """Raise UserError for a value that means nothing."""
        if self.search_steps < 1 or self.start_mult <= 0 or self.up_mult <= 1 or not 0 < self.down_mult < 1:
            raise UserError(
                "--search-steps is 1 or more, --start-mult above 0, --up-mult above 1, --down-mult between "
                "0 and 1"
            )
        if not DOSES[0] <= self.start_mult <= DOSES[1]:
            raise UserError(f"--start-mult is from {DOSES[0]:g} to {DOSES[1]:g}")
        if (
            any(d <= 0 for d in self.doses)
            or any(c < 0 for c in self.coefficients)
            or (self.coefficients and not any(self.coefficients))
        ):
            raise UserError(
                "--doses and --coefficients are positive (0 is the unsteered arm): the opposite is always "
                "measured beside"
            )
        if self.doses and self.coefficients:
            raise UserError("--doses and --coefficients exclude each other")


@dataclass(frozen=True, eq=False)
class Cell:
    """One candidate: a treatment and how strong it is."""

    treatment: Treatment
    dose: float

    @property
    def name(self) -> str:
        return f"{self.treatment.name} dose {self.dose:g}"

    @property
    def sign(self) -> int:
        return self.treatment.sign

    @property
    def coefficients(self) -> list[float]:
        return [p.coefficient for p in self.pushes()]

    def pushes(self, sign: int = 1) -> tuple[Push, ...]:
        return self.treatment.pushes(sign * self.dose)

    def arm(self, prefix: str, sign: int = 1, *, graded: bool = True) -> Arm:
        return Arm(f"{prefix} {self.name}", self.pushes(sign), grades_coherence=graded)


Measure = Callable[[Sequence[Arm]], list[ArmResult]]


def effect_of(result: ArmResult, unsteered: ArmResult, sign: int, *, keep: bool = False) -> np.ndarray:
    """Return the paired change of the trait score per question, in points, for questions scored in both
    arms; with `keep` for all, NaN where one was not scored.
    """
    change = sign * (result.trait_values - unsteered.trait_values)
    return change if keep else change[~np.isnan(change)]


def odd_part(plus: ArmResult, minus: ArmResult, sign: int, *, keep: bool = False) -> np.ndarray:
    """Return (effect(+v) − effect(−v)) / 2 per question: what a push does because of its direction, not
    because of its force.
    """
    odd = sign * (plus.trait_values - minus.trait_values) / 2
    return odd if keep else odd[~np.isnan(odd)]


def signal_of(
    plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult, sign: int, *, keep: bool = False
) -> np.ndarray:
    """Return what is tested, per question: the odd part, or the effect of what has no opposite."""
    if minus is None:
        return effect_of(plus, unsteered, sign, keep=keep)
    return odd_part(plus, minus, sign, keep=keep)
