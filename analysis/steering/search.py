"""Dose search on the dev questions: every treatment climbs its own doses, all of them together in shared
batches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.treatments import Treatment
from traitscope.utils.errors import UserError
from traitscope.utils.measures.intervals import t_statistic
from traitscope.utils.model.hooks import Push
from traitscope.utils.records.vectors import dose_of
from traitscope.utils.stage.flags import flag

CLEAR_T = 5.0  # an odd part this many standard errors from zero, over the dev questions, is clear
FINALISTS = 6  # cells that also get the −vector on dev
SAME_DOSE = 0.03  # doses closer than this (natural log) are one cell
CONVERGED = 0.15  # coherent and broken doses closer than this (natural log) end a track
KEEP = 4  # tracks that successive halving never drops below
DOSES = (0.005, 2.0)  # beyond these a push does nothing, or replaces the residual stream
CARRIED = 0.5  # share of the last step that --momentum adds to the next


@dataclass(frozen=True)
class Search:
    """How the dose is searched for."""

    doses: tuple[float, ...] = flag((), "Fixed doses for every layer and method, instead of the search.")
    coefficients: tuple[float, ...] = flag(
        (),
        (
            "Fixed raw coefficients on the vectors as saved, instead of the search; 0 is the unsteered arm, "
            "always there."
        ),
    )
    search_steps: int = flag(4, "Rounds of the adaptive search.")
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

    def arm(self, prefix: str, sign: int = 1) -> Arm:
        return Arm(f"{prefix} {self.name}", self.pushes(sign))


Measure = Callable[[Sequence[Arm]], list[ArmResult]]


@dataclass
class Track:
    """One treatment's way through the doses."""

    treatment: Treatment
    tried: list[tuple[Cell, ArmResult]] = field(default_factory=list)

    def next_dose(self, search: Search, gate: float) -> float | None:
        """Return the dose to try next; None when there is nothing more to learn."""
        if not self.treatment.has_opposite:
            return None if self.tried else 1.0

        coherent = sorted(cell.dose for cell, result in self.tried if result.mean_coherence >= gate)
        broken = sorted(cell.dose for cell, result in self.tried if result.mean_coherence < gate)
        if not self.tried:
            dose = search.start_mult
        elif not broken:
            dose = coherent[-1] * math.exp(_step_up(coherent, search))
        elif not coherent:
            dose = broken[0] * search.down_mult
        else:
            top, low = coherent[-1], next((d for d in broken if d > coherent[-1]), broken[-1])
            shorter = low * search.down_mult
            dose = shorter if top * math.exp(SAME_DOSE) < shorter else math.sqrt(top * low)
            if math.log(low / top) < CONVERGED:
                return None

        return dose if DOSES[0] <= dose <= DOSES[1] and not self.knows(dose) else None

    def knows(self, dose: float) -> bool:
        return any(abs(math.log(dose / cell.dose)) < SAME_DOSE for cell, _ in self.tried)

    def promise(self, unsteered: ArmResult, gate: float) -> float:
        """Return the clearest effect among its coherent cells."""
        found = [
            t_statistic(effect_of(r, unsteered, c.sign)) for c, r in self.tried if r.mean_coherence >= gate
        ]
        return max(found, default=-math.inf)


def _step_up(coherent: list[float], search: Search) -> float:
    step = math.log(search.up_mult)
    if search.momentum and len(coherent) > 1:
        step += CARRIED * math.log(coherent[-1] / coherent[-2])
    return step


def explore(
    treatments: Sequence[Treatment], search: Search, measure: Measure, unsteered: ArmResult, gate: float
) -> list[tuple[Cell, ArmResult]]:
    """Try doses of every treatment on dev, and return every cell tried with its result.

    After the second round the less promising half of the treatments is dropped each time (successive
    halving), down to four.
    """
    tracks = [Track(t) for t in treatments]
    if search.doses or search.coefficients:
        cells = [Cell(t, dose) for t in treatments for dose in fixed_doses(t, search)]
        return list(zip(cells, measure([cell.arm("plus") for cell in cells]), strict=True))

    alive = tracks

    for step in range(search.search_steps):
        asked = [
            (track, Cell(track.treatment, dose))
            for track in alive
            if (dose := track.next_dose(search, gate)) is not None
        ]
        if not asked:
            break
        for (track, cell), result in zip(
            asked, measure([cell.arm("plus") for _, cell in asked]), strict=True
        ):
            track.tried.append((cell, result))
        if step >= 1:
            alive = sorted(alive, key=lambda t: -t.promise(unsteered, gate))[
                : max(KEEP, (len(alive) + 1) // 2)
            ]

    return [pair for track in tracks for pair in track.tried]


def fixed_doses(treatment: Treatment, search: Search) -> list[float]:
    """Return the doses of a fixed grid; raw coefficients are turned into doses."""
    if not treatment.has_opposite:
        return [1.0]
    if search.doses:
        return _distinct(search.doses)
    if len(treatment.sites) > 1:
        raise UserError("--coefficients are for one layer at a time; with --multi-layer use --doses")

    site = treatment.sites[0]
    return _distinct([dose_of(c, site.norm, float(site.vector.norm())) for c in search.coefficients if c])


def _distinct(doses: Sequence[float]) -> list[float]:
    kept: list[float] = []
    for dose in doses:
        if all(abs(math.log(dose / other)) >= SAME_DOSE for other in kept):
            kept.append(dose)
    return kept


def effect_of(result: ArmResult, unsteered: ArmResult, sign: int) -> np.ndarray:
    """Return the paired change of the trait score per question, in points, for questions scored in both
    arms.
    """
    change = sign * (result.trait_values - unsteered.trait_values)
    return change[~np.isnan(change)]


def odd_part(plus: ArmResult, minus: ArmResult, sign: int) -> np.ndarray:
    """Return (effect(+v) − effect(−v)) / 2 per question: what a push does because of its direction, not
    because of its force.
    """
    odd = sign * (plus.trait_values - minus.trait_values) / 2
    return odd[~np.isnan(odd)]


def signal_of(plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult, sign: int) -> np.ndarray:
    """Return what is tested, per question: the odd part, or the effect of what has no opposite."""
    return effect_of(plus, unsteered, sign) if minus is None else odd_part(plus, minus, sign)


def pick_finalists(
    tried: Sequence[tuple[Cell, ArmResult]], unsteered: ArmResult, gate: float
) -> list[tuple[Cell, ArmResult]]:
    """Return the coherent cells with the clearest effect, best first; if none is coherent, the most
    coherent one.
    """
    coherent = [
        (t_statistic(effect_of(r, unsteered, c.sign)), i)
        for i, (c, r) in enumerate(tried)
        if r.mean_coherence >= gate
    ]
    if not coherent:
        return [tried[int(np.argmax([r.mean_coherence for _, r in tried]))]]

    return [tried[i] for _, i in sorted(coherent, key=lambda pair: (-pair[0], pair[1]))[:FINALISTS]]


# the cell, and dev's answers under it and under its opposite
Finalist = tuple[Cell, ArmResult, ArmResult | None]


def pick_cell(finalists: Sequence[Finalist], unsteered: ArmResult, gate: float) -> Cell:
    """Return the smallest dose whose odd part is clear on dev, or where none is, the clearest one.

    What random directions do grows faster with the dose than what a trait vector does, and at large doses the
    score saturates: so the smallest dose that shows the effect is the most convincing. Finalists whose
    −vector breaks the text come last: an odd part made of one broken side says little.
    """

    def rank(finalist: Finalist) -> tuple:
        cell, up, down = finalist
        t = t_statistic(signal_of(up, down, unsteered, cell.sign))
        return (
            down is None or down.mean_coherence >= gate,
            t >= CLEAR_T,
            -cell.dose if t >= CLEAR_T else 0.0,
            t,
        )

    return max(finalists, key=rank)[0]


def pick_strongest(tried: Sequence[tuple[Cell, ArmResult]], chosen: Cell, gate: float) -> Cell:
    """Return the largest coherent dose that dev has seen of the chosen treatment: the most striking, not
    the most convincing.
    """
    coherent = [c for c, r in tried if c.treatment is chosen.treatment and r.mean_coherence >= gate]
    return max(coherent, key=lambda c: c.dose, default=chosen)
