"""Stage 5's protocol: search the dose on dev, report on test."""

from collections.abc import Mapping, Sequence

import numpy as np

from traitscope.analysis.steering.arms import Arm, ArmResult, arm_rows
from traitscope.analysis.steering.conclusion import median_example, reach_verdict
from traitscope.analysis.steering.nulls import plan_test, try_on_test
from traitscope.analysis.steering.search import (
    Cell,
    Finalist,
    Measure,
    Search,
    effect_of,
    explore,
    pick_cell,
    pick_finalists,
    pick_strongest,
    signal_of,
)
from traitscope.analysis.steering.setting import Bench, Candidates, Setting, surroundings
from traitscope.analysis.steering.treatments import Intervention, Treatment, compose
from traitscope.utils.measures.intervals import mean_interval
from traitscope.utils.records.vectors import dose_of


def evaluate(
    bench: Bench,
    candidates: Candidates,
    search: Search,
    intervention: Intervention,
    dev: Sequence[str],
    test: Sequence[str],
) -> tuple[dict, dict[str, list[dict]], Cell]:
    """Choose a cell on the dev questions and judge it on the test questions.

    Returns:
        The results, the rows of every text written, per part ("dev", "test"), and the chosen cell.
    """
    unsteered = bench.open(dev)
    setting = Setting(bench, candidates, surroundings(bench, candidates, intervention), intervention)
    tried, finalists = search_dev(setting, search, unsteered, dev)
    cell = pick_cell(finalists, unsteered, setting.gate)
    strongest = pick_strongest(tried, cell, setting.gate)
    trial, test_arms = try_on_test(setting, plan_test(setting, cell, strongest, finalists, tried), test)
    chosen = describe(cell) | {
        "positions": bench.protocol.positions,
        "is_largest_dose": cell.dose >= max(c.dose for c, _ in tried),
    }
    results = {
        "chosen": chosen,
        "wanted": cell.sign,
        **reach_verdict(cell, trial, setting.gate),
        "example": median_example(trial, test, cell.sign),
    }
    if results["strongest"]:
        results["strongest"] = describe(strongest) | results["strongest"]
    minus = {cell.name: down for cell, _, down in finalists}
    curve = [_curve_point(c, r, minus.get(c.name), unsteered) for c, r in tried]
    rows = {
        "dev": arm_rows([unsteered, *(r for _, r in tried), *(d for d in minus.values() if d)], dev),
        "test": arm_rows(test_arms, test),
    }

    return (
        results
        | {
            "residual_norms": list(bench.norms()),
            "questions": {"dev": list(dev), "test": list(test)},
            "dev": curve,
        },
        rows,
        cell,
    )


def search_dev(
    setting: Setting, search: Search, unsteered: ArmResult, dev: Sequence[str]
) -> tuple[list[tuple[Cell, ArmResult]], list[Finalist]]:
    """Try doses of every treatment, then the opposite of the best."""

    def measure(arms: Sequence[Arm]) -> list[ArmResult]:
        return setting.bench.measure(arms, dev)

    treatments = [
        setting.build(method, {layer: v}) for (method, layer), v in setting.candidates.vectors.items()
    ]
    if setting.intervention.multi_layer != "no":
        weights = (
            _own_effects(treatments, search, measure, unsteered)
            if setting.intervention.multi_layer == "weighted"
            else {}
        )
        treatments = _spread(setting, weights)
    tried = explore(treatments, search, measure, unsteered, setting.gate)
    best = pick_finalists(tried, unsteered, setting.gate)
    opposites = iter(measure([cell.arm("minus", -1) for cell, _ in best if cell.treatment.has_opposite]))
    return tried, [(cell, up, next(opposites) if cell.treatment.has_opposite else None) for cell, up in best]


def _own_effects(
    singles: Sequence[Treatment], search: Search, measure: Measure, unsteered: ArmResult
) -> dict[tuple[str, int], float]:
    """Return each layer's effect by itself on dev, where it is the wanted one: the weights of weighted
    multi-layer steering.
    """
    cells = [Cell(t, search.start_mult if t.has_opposite else 1.0) for t in singles]
    results = measure([cell.arm("alone") for cell in cells])
    effects = [effect_of(result, unsteered, cell.sign) for cell, result in zip(cells, results, strict=True)]

    return {
        (c.treatment.method, c.treatment.layers[0]): max(float(e.mean()), 0.0) if len(e) else 0.0
        for c, e in zip(cells, effects, strict=True)
    }


def _spread(setting: Setting, effects: Mapping[tuple[str, int], float]) -> list[Treatment]:
    """Return one treatment a method, over all its layers."""
    spread = []
    for method in dict.fromkeys(m for m, _ in setting.candidates.vectors):
        vectors = compose(
            setting.intervention.multi_layer,
            {layer: v for (m, layer), v in setting.candidates.vectors.items() if m == method},
        )
        weights = {layer: effects.get((method, layer), 1.0) for layer in vectors}
        total = sum(weights.values())
        shares = (
            {layer: w / total for layer, w in weights.items() if w > 0}
            if total
            else dict.fromkeys(vectors, 1 / len(vectors))
        )
        spread.append(setting.build(method, {layer: vectors[layer] for layer in shares}, shares))

    return spread


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


def _curve_point(cell: Cell, plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult) -> dict:
    """Return one point of the dose–response curve."""
    return {"cell": cell.name} | describe(cell) | score_point(plus, minus, unsteered, cell.sign)


def score_point(plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult, sign: int) -> dict:
    """Return what the judge says of one cell: trait score, effect with its interval, odd part where the
    opposite was run, coherence.
    """
    effect = effect_of(plus, unsteered, sign)
    signal = signal_of(plus, minus, unsteered, sign) if minus else None
    scores = plus.trait_values[~np.isnan(plus.trait_values)]
    low, high = mean_interval(effect)[1:] if len(effect) > 1 else (None, None)
    figures = {
        "trait_score": scores.mean() if len(scores) else None,
        "effect": effect.mean() if len(effect) else None,
        "effect_low": low,
        "effect_high": high,
    }
    figures |= {
        "odd_part": signal.mean() if signal is not None and len(signal) else None,
        "coherence": plus.mean_coherence,
    }

    return {"n": len(effect)} | {
        name: None if value is None else round(float(value), 4) for name, value in figures.items()
    }
