"""Stage 5's protocol: find the place and the dose on dev, report on test."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import NamedTuple

import numpy as np

from traitscope.analysis.steering.arms import ArmResult, arm_rows
from traitscope.analysis.steering.conclusion import reach_verdict
from traitscope.analysis.steering.doses import (
    DEV_QUESTIONS,
    Tried,
    climb,
    pick_dose,
    pick_strongest,
    weigh_chance,
)
from traitscope.analysis.steering.evidence import Evidence, median_example
from traitscope.analysis.steering.history import FIRST, History
from traitscope.analysis.steering.nulls import plan_test, try_on_test
from traitscope.analysis.steering.place import draw_dev_nulls, find_place, reading_of
from traitscope.analysis.steering.search import Cell, Search, effect_of, signal_of
from traitscope.analysis.steering.setting import Bench, Candidates, Setting, surroundings
from traitscope.analysis.steering.treatments import Intervention
from traitscope.utils.measures.intervals import interval_of
from traitscope.utils.records.vectors import dose_of


class Found(NamedTuple):
    """An evaluation's results, and what they rest on."""

    results: dict  # what results.json says of it
    rows: dict[str, list[dict]]  # every text written, per part ("dev", "test")
    cell: Cell  # the chosen one
    trial: Evidence  # the test's arms


def evaluate(
    bench: Bench,
    candidates: Candidates,
    search: Search,
    intervention: Intervention,
    dev: Sequence[str],
    test: Sequence[str],
    history: History = FIRST,
) -> Found:
    """Choose a cell on the dev questions and judge it on the test questions."""
    unsteered = bench.open(dev)
    setting = Setting(
        bench, candidates, surroundings(bench, candidates, intervention), intervention, unsteered
    )
    protocol, gate = bench.protocol, setting.gate

    place = find_place(setting, search, lambda arms: bench.measure(arms, dev))
    climbed = climb(place.treatment, search, lambda arms: bench.measure(arms, dev), gate)
    few = dev[:DEV_QUESTIONS]
    nulls = draw_dev_nulls(setting, place.treatment)
    tried = weigh_chance(climbed, nulls, lambda arms: bench.measure(arms, few), gate)

    best = pick_dose(tried, unsteered, gate, protocol.min_effect)
    strongest = pick_strongest(tried, best, gate)
    trial, test_arms = try_on_test(setting, plan_test(setting, best.cell, strongest.cell, place.nulls), test)

    chosen = describe(best.cell)
    trial = replace(
        trial,
        looks=history.count(chosen),
        reliability=history.reliability,
        reading=reading_of(setting, place.treatment, search.choose_by),
    )
    climbed_names = {t.cell.name for t in tried}  # a cell that was tried to find the place, too, counts once
    everything = [*(t for t in place.tried if t.cell.name not in climbed_names), *tried]
    results = {
        "chosen": chosen
        | {
            "positions": protocol.positions,
            "chosen_by": search.choose_by,
            "is_largest_dose": best.cell.dose >= max(t.cell.dose for t in tried),
        },
        "wanted": best.cell.sign,
        "looked_at": [look.model_dump() for look in history.after(chosen)],
        **reach_verdict(best.cell, trial, gate, protocol.min_effect),
        "example": median_example(trial, test, best.cell.sign),
        "residual_norms": list(bench.norms()),
        "questions": {"dev": list(dev), "test": list(test)},
        "dev": [_curve_point(t, unsteered) for t in everything],
    }
    if results["strongest"]:
        results["strongest"] = describe(strongest.cell) | results["strongest"]

    tried_arms = [arm for t in everything for arm in (t.plus, t.minus) if arm]
    rows = {"dev": arm_rows([unsteered, *tried_arms], dev), "test": arm_rows(test_arms, test)}
    return Found(results, rows, best.cell, trial)


def describe(cell: Cell) -> dict:
    """Return a cell's place as results say it; one layer and coefficient, or lists of them."""
    layers, coefficients = cell.treatment.layers, [round(c, 6) for c in cell.coefficients]
    single = len(layers) == 1
    place = {
        "method": cell.treatment.method,
        "layer": layers[0] if single else layers,
        "dose": round(cell.dose, 6),
    }
    push = sum(
        dose_of(abs(c), s.norm, float(s.vector.norm()))
        for c, s in zip(cell.coefficients, cell.treatment.sites, strict=True)
    )
    added = {"relative_push": round(push, 6)} if cell.treatment.has_opposite else {}  # ‖c·v‖ / ‖h‖

    return (
        place
        | {"operation": cell.treatment.operation, "coefficient": coefficients[0] if single else coefficients}
        | added
    )


def _curve_point(tried: Tried, unsteered: ArmResult) -> dict:
    """Return one point of the dose–response curve."""
    cell = tried.cell
    spread = {} if tried.spread is None else {"random_spread": round(tried.spread, 4)}
    point = score_point(tried.plus, tried.minus, unsteered, cell.sign)
    return {"cell": cell.name} | describe(cell) | point | spread


def score_point(plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult, sign: int) -> dict:
    """Return what the judge says of one cell: trait score, effect with its interval, odd part where the
    opposite was run, and the coherence of the weaker side, by which a dose holds.
    """
    effect = effect_of(plus, unsteered, sign)
    signal = signal_of(plus, minus, unsteered, sign) if minus else None
    scores = plus.trait_values[~np.isnan(plus.trait_values)]
    found = interval_of(effect) or {}
    figures = {
        "trait_score": scores.mean() if len(scores) else None,
        "effect": effect.mean() if len(effect) else None,
        "effect_low": found.get("low"),
        "effect_high": found.get("high"),
    }
    figures |= {
        "odd_part": signal.mean() if signal is not None and len(signal) else None,
        "coherence": np.min([arm.mean_coherence for arm in (plus, minus) if arm]),
    }

    return {"n": len(effect)} | {
        name: None if value is None or not isfinite(value) else round(float(value), 4)
        for name, value in figures.items()
    }
