"""The dose, on the dev questions: the chosen treatment climbs while its text holds, and the dose is taken at
which it stands furthest above what random directions do there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from traitscope.analysis.steering.arms import ArmResult
from traitscope.analysis.steering.search import DOSES, Cell, Measure, Search, effect_of, odd_part, signal_of
from traitscope.analysis.steering.treatments import Treatment
from traitscope.utils.errors import UserError
from traitscope.utils.records.vectors import dose_of

SAME_DOSE = 0.03  # doses closer than this (natural log) are one cell
CONVERGED = 0.15  # coherent and broken doses closer than this (natural log) end a track
CARRIED = 0.5  # share of the last step that --momentum adds to the next
DEV_PAIRS = 4  # random ± pairs that say on dev how much chance does at a dose
DEV_QUESTIONS = 6  # of the dev questions, for those pairs
# points: the spread of random directions on the embedded model, 4 at dose 0.1 to 12 at 0.2; worth two directions
USUAL_SPREAD, USUAL_DOSE, WORTH_OF_USUAL = 5.0, 0.2, 2
RISE = (1.0, 2.0)  # power of the dose with which a random direction's effect grows
LEAST_SPREAD = 0.5  # points: the width of what a score cannot tell apart


@dataclass(frozen=True)
class Tried:
    """A cell and dev's answers under it, under its opposite where it has one, and what chance does there."""

    cell: Cell
    plus: ArmResult
    minus: ArmResult | None
    spread: float | None = None  # root mean square of a few random directions' signals, in points

    def holds(self, gate: float) -> bool:
        """Whether the text is coherent, on both sides; it is not where no answer could be graded."""
        return all(arm.mean_coherence >= gate for arm in (self.plus, self.minus) if arm)

    def surely_holds(self, gate: float) -> bool:
        """Whether the text is likely to hold on other questions as well."""
        return all(arm.sure_coherence >= gate for arm in (self.plus, self.minus) if arm)

    def may_break(self, gate: float) -> bool:
        """Whether the text of a side may well be below the gate on other questions."""
        return any(arm.sure_coherence < gate for arm in (self.plus, self.minus) if arm)


@dataclass
class Track:
    """One treatment's way through the doses."""

    treatment: Treatment
    tried: list[Tried] = field(default_factory=list)

    def next_dose(self, search: Search, gate: float) -> float | None:
        """Return the dose to try next; None when there is nothing more to learn."""
        if not self.treatment.has_opposite:
            return None if self.tried else 1.0

        coherent = sorted(t.cell.dose for t in self.tried if t.surely_holds(gate))
        broken = sorted(t.cell.dose for t in self.tried if t.may_break(gate))
        if not self.tried:
            dose = search.start_mult
        elif not coherent and not broken:
            return None
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
        return any(abs(math.log(dose / tried.cell.dose)) < SAME_DOSE for tried in self.tried)


def _step_up(coherent: list[float], search: Search) -> float:
    step = math.log(search.up_mult)
    if search.momentum and len(coherent) > 1:
        step += CARRIED * math.log(coherent[-1] / coherent[-2])
    return step


def climb(treatment: Treatment, search: Search, measure: Measure, gate: float) -> list[Tried]:
    """Try doses of a treatment on dev, each with its opposite, and return every cell tried."""
    if search.doses or search.coefficients:
        return try_cells([Cell(treatment, dose) for dose in fixed_doses(treatment, search)], measure)

    track = Track(treatment)
    for _ in range(search.search_steps):
        dose = track.next_dose(search, gate)
        if dose is None:
            break
        track.tried += try_cells([Cell(treatment, dose)], measure)

    return track.tried


def try_cells(cells: Sequence[Cell], measure: Measure, *, graded: bool = True) -> list[Tried]:
    """Run cells on dev, each with its opposite where it has one.

    Args:
        graded: Whether coherence is asked for; of null directions it is not.
    """
    ups = [cell.arm("plus", graded=graded) for cell in cells]
    downs = [cell.arm("minus", -1, graded=graded) for cell in cells if cell.treatment.has_opposite]
    results = iter(measure([*ups, *downs]))

    plus = [next(results) for _ in ups]
    minus = [next(results) if cell.treatment.has_opposite else None for cell in cells]
    return [Tried(*found) for found in zip(cells, plus, minus, strict=True)]


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


def weigh_chance(
    tried: Sequence[Tried], nulls: Sequence[Treatment], measure: Measure, gate: float
) -> list[Tried]:
    """Add to every dose at which the text holds what a few random directions do there on dev.

    Four directions say little at one dose. Their effects grow steadily with the dose, so all doses together
    determine the spread of each. Where there is no choice of a dose, as of what has no opposite, nothing is
    asked.
    """
    held = [t for t in tried if t.holds(gate)]
    if len(held) < 2:
        return list(tried)

    cells = [Cell(null, t.cell.dose) for t in held for null in nulls]
    pairs = iter(try_cells(cells, measure, graded=False))
    signals = [[odd_part(p.plus, p.minus, 1) for p in (next(pairs) for _ in nulls) if p.minus] for _ in held]
    spreads = dict(zip(map(id, held), _fit_spreads([t.cell.dose for t in held], signals), strict=True))
    return [replace(t, spread=spreads.get(id(t))) for t in tried]


def _fit_spreads(doses: Sequence[float], signals: Sequence[Sequence[np.ndarray]]) -> list[float]:
    """Return each dose's spread on the curve a · dose^b, 1 ≤ b ≤ 2, that fits best what the means of random
    directions' signals vary by, beyond the noise of the answers.

    Variances are fitted and not their logarithms: without the noise's share one may be below 0, and yet say how
    small it is. Each has the weight of its own precision, which is as its square. What four directions say is
    drawn towards what random directions usually do, which counts as two more.
    """
    scored = [[s for s in found if len(s) > 1] for found in signals]
    total = np.array([np.mean([s.mean() ** 2 for s in found]) if found else np.inf for found in scored])
    noise = np.array([np.mean([s.var(ddof=1) / len(s) for s in found]) if found else 0.0 for found in scored])
    weights = 1 / np.maximum(total, LEAST_SPREAD**2) ** 2
    own = np.where(np.isfinite(total), total - noise, 0.0)

    fits = []
    for power in np.linspace(*RISE, 6):
        shape = np.array(doses) ** (2 * power)
        fit = shape * ((weights * shape) @ own) / max(float((weights * shape) @ shape), 1e-30)
        fits.append((float(weights @ (own - fit) ** 2), fit))

    best, n = min(fits, key=lambda found: found[0])[1], max(map(len, scored), default=0)
    usual = (USUAL_SPREAD * (np.array(doses) / USUAL_DOSE) ** np.mean(RISE)) ** 2
    shrunk = (n * np.maximum(best, 0) + WORTH_OF_USUAL * usual) / (n + WORTH_OF_USUAL)
    return np.sqrt(np.maximum(shrunk, LEAST_SPREAD**2)).tolist()


def pick_dose(tried: Sequence[Tried], unsteered: ArmResult, gate: float, least: float) -> Tried:
    """Return the dose that is likeliest to pass on test, of those at which the text holds and the effect is worth
    having: whose signal stands furthest above the random directions' spread there, and above its own error.

    What random directions do grows faster with the dose than what a trait vector does, so the dose that is
    clearest by itself is not the one that proves most. Dev has few questions, so the signals are taken from the
    curve through all doses.

    A dose at which one side only just holds on dev may break on test. So one at which both are likely to hold on
    other questions comes first.

    Args:
        least: Points of the signal, below which a dose is taken only where none has more.
    """
    scored = [t for t in tried if len(signal_of(t.plus, t.minus, unsteered, t.cell.sign)) > 1]
    if not (held := [t for t in scored if t.holds(gate)]):
        return max(tried, key=lambda t: np.nan_to_num(t.plus.mean_coherence, nan=-1.0))

    signals = [signal_of(t.plus, t.minus, unsteered, t.cell.sign) for t in held]
    means, doses = np.array([_mean(x) for x in signals]), np.array([t.cell.dose for t in held])
    smooth = _curve(doses, means)
    effects = [_mean(effect_of(t.plus, unsteered, t.cell.sign)) for t in held]

    # an answer's noise does not depend on the dose
    error = max(float(np.mean([np.std(x) / math.sqrt(len(x) - 1) for x in signals])), LEAST_SPREAD)

    def merit(i: int) -> tuple:
        bar, is_worth = math.hypot(held[i].spread or 0.0, error), smooth[i] >= least and effects[i] > 0
        return is_worth and held[i].surely_holds(gate), is_worth, smooth[i] / bar, -held[i].cell.dose

    return held[max(range(len(held)), key=merit)]


def _curve(doses: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the signals on the curve a · dose^b that fits them best, ½ ≤ b ≤ 1: a trait vector's effect grows
    with the dose, and saturates.
    """
    shapes = [doses**b for b in np.linspace(0.5, 1, 6)]
    fits = [shape * (shape @ means) / (shape @ shape) for shape in shapes]
    return min(fits, key=lambda fit: float(np.square(fit - means).sum()))


def _mean(values: np.ndarray) -> float:
    """Return the mean, −∞ of nothing."""
    return float(values.mean()) if len(values) else -1e9


def pick_strongest(tried: Sequence[Tried], chosen: Tried, gate: float) -> Tried:
    """Return the largest dose at which dev saw both sides hold: the most striking, not the most
    convincing.
    """
    return max((t for t in tried if t.holds(gate)), key=lambda t: t.cell.dose, default=chosen)
