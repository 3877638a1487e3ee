"""Dose search on the dev questions: which method, layer and dose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from analysis.intervals import t_statistic
from analysis.steering.arms import Arm, ArmResult, push_dose
from utils.hooks import Push

CLEAR_T = 5.0  # an odd part this many standard errors from zero, over the dev questions, is clear
FINALISTS = 6  # cells that also get the −vector on dev


@dataclass(frozen=True)
class Cell:
    """One candidate: a vector and how strongly it is added."""

    method: str
    layer: int
    dose: float
    vector: Tensor
    residual_norm: float  # mean ‖h‖ at the layer in the steered model
    sign: int = 1  # −1 for a trait that the researcher wants less of

    @property
    def name(self) -> str:
        return f"{self.method} layer {self.layer} dose {self.dose:g}"

    @property
    def coefficient(self) -> float:
        return self.push().coefficient

    def push(self, sign: int = 1) -> Push:
        """Return the push that adds `sign` times the vector."""
        return push_dose(self.vector, self.layer, self.sign * sign * self.dose, self.residual_norm)

    def arm(self, prefix: str, sign: int = 1) -> Arm:
        return Arm(f"{prefix} {self.name}", (self.push(sign),))


def effect_of(result: ArmResult, unsteered: ArmResult, sign: int) -> np.ndarray:
    """Return the paired change of the trait score per question, in points, for questions scored in both arms."""
    change = sign * (result.trait_values - unsteered.trait_values)
    return change[~np.isnan(change)]


def odd_part(plus: ArmResult, minus: ArmResult, sign: int) -> np.ndarray:
    """Return (effect(+v) − effect(−v)) / 2 per question: what a push does because of its direction, not because of its force."""
    odd = sign * (plus.trait_values - minus.trait_values) / 2
    return odd[~np.isnan(odd)]


def pick_finalists(cells: Sequence[Cell], results: Sequence[ArmResult], unsteered: ArmResult, gate: float) -> list[Cell]:
    """Return the coherent cells with the clearest effect, best first; if none is coherent, the most coherent one."""
    coherent = [(t_statistic(effect_of(r, unsteered, c.sign)), i) for i, (c, r) in enumerate(zip(cells, results, strict=True)) if r.mean_coherence >= gate]
    if not coherent:
        return [cells[int(np.argmax([r.mean_coherence for r in results]))]]
    return [cells[i] for _, i in sorted(coherent, key=lambda pair: (-pair[0], pair[1]))[:FINALISTS]]


def pick_cell(finalists: Sequence[Cell], plus: Sequence[ArmResult], minus: Sequence[ArmResult], gate: float) -> Cell:
    """Return the smallest dose whose odd part is clear on dev, or where none is, the clearest one.

    What random directions do grows faster with the dose than what a trait vector does, and at large doses the score saturates: so the
    smallest dose that shows the effect is the most convincing. Finalists whose −vector breaks the text come last: an odd part made of one
    broken side says little.
    """

    def rank(candidate: tuple[Cell, ArmResult, ArmResult]) -> tuple:
        cell, up, down = candidate
        t = t_statistic(odd_part(up, down, cell.sign))
        return down.mean_coherence >= gate, t >= CLEAR_T, -cell.dose if t >= CLEAR_T else 0.0, t

    return max(zip(finalists, plus, minus, strict=True), key=rank)[0]
