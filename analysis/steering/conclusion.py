"""The verdict on the test questions: does the direction itself, and not the force of the push, change
what the model writes?
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from traitscope.analysis.steering.arms import ArmResult
from traitscope.analysis.steering.search import Cell, effect_of, signal_of
from traitscope.utils.measures.intervals import (
    allow_for_selection,
    compare_with_null,
    mean_interval,
    permutation_p,
)
from traitscope.utils.records.verdict import BREAKS, NOT_PROVEN, WORKS

Z_MIN = 2.0  # the signal must stand this many spreads of the random directions' from zero …
P_MAX = 0.05  # … beat enough of them by rank, and stand out from the best of as many as it was chosen from

# the same direction added and subtracted; without the second where nothing is subtracted
Pair = tuple[ArmResult, ArmResult | None]


@dataclass(frozen=True)
class Evidence:
    """Every arm of the test, on the same questions with the same seeds."""

    unsteered: ArmResult
    vector: Pair
    randoms: Sequence[Pair]
    shuffled: Sequence[Pair]  # vectors fitted on shuffled labels, at the finalists' layers
    system_prompt: ArmResult
    n_candidates: float = 1.0  # how many independent treatments the vector was chosen from
    strongest: Pair | None = None  # the largest coherent dose, where it is not the chosen one
    extra: dict = field(default_factory=dict)  # figures measured beside


def reach_verdict(cell: Cell, trial: Evidence, gate: float) -> dict:
    """Compare the vector with nothing, with its opposite, with random and shuffled directions, and with a
    system prompt.

    Effects are changes of the trait score in points (0–100), paired by question, with 95 %
    intervals over questions. The signal is the odd part, (effect(+v) − effect(−v)) / 2, or the effect itself
    where nothing is added and so nothing can be subtracted.

    Args:
        gate: Mean coherence below which the text counts as broken.
    """
    plus, minus = trial.vector
    effect = effect_of(plus, trial.unsteered, cell.sign)
    signal = signal_of(plus, minus, trial.unsteered, cell.sign)
    numbers = {
        "n_questions": len(signal),
        "effect": _interval(effect),
        "effect_minus": _interval(effect_of(minus, trial.unsteered, cell.sign)) if minus else None,
        "odd_part": _interval(signal),
        "permutation_p": permutation_p(signal) if len(signal) else None,
        "wrong_way_share": _round(float((signal < 0).mean())) if len(signal) else None,
        "slopes": slopes(signal, cell.dose),
        "random": _null(signal, trial, cell.sign),
        "random_one_sided": _one_sided(effect, trial, cell.sign),
        "shuffled_labels_odd_part": _strongest_of(trial.shuffled, trial.unsteered, cell.sign),
        "system_prompt_effect": _interval(effect_of(trial.system_prompt, trial.unsteered, cell.sign)),
        "unsteered_score": _mean(trial.unsteered.trait_values),
        "states": {name: r.states for name, r in _named_arms(trial).items()},
        "coherence": {
            "unsteered": _coherence(trial.unsteered),
            "plus": _coherence(plus),
            "minus": _coherence(minus),
        },
        "strongest": _strongest(trial, cell.sign),
        **trial.extra,
    }
    verdict, why = conclude(numbers, gate)

    return {"verdict": verdict, "why": why} | numbers


def conclude(numbers: dict, gate: float) -> tuple[str, str]:
    """Return the one word and its reason, from the numbers alone."""
    for objection in (_text_breaks, _nothing_moves, _opposite_breaks, _nulls_do_as_much):
        if found := objection(numbers, gate):
            return found

    effect, odd, null, coherence = (numbers[k] for k in ("effect", "odd_part", "random", "coherence"))
    beats = f"z = {null['z']:.1f} against {null['n']} random directions"
    said = f"effect {effect['mean']:+.1f} points, odd part {odd['mean']:+.1f}, {beats}"
    one_sided = numbers["random_one_sided"]
    reached = f"{one_sided['reach_it']} of {one_sided['n']} one-sided random pushes reach the effect"
    also = f"; {reached}" if one_sided["reach_it"] else ""
    return WORKS, f"{said}, coherence {coherence['plus']:.0f}{also}"


Objection = tuple[str, str] | None  # a verdict and its reason


def _text_breaks(numbers: dict, gate: float) -> Objection:
    coherence = numbers["coherence"]
    if coherence["plus"] is None:
        return NOT_PROVEN, "the coherence of the steered answers could not be judged"
    if coherence["plus"] < gate:
        fall = f"coherence falls from {coherence['unsteered']:.0f} to {coherence['plus']:.0f}"
        return BREAKS, f"{fall}, below the gate of {gate:.0f}"
    return None


def _nothing_moves(numbers: dict, gate: float) -> Objection:
    effect, odd = numbers["effect"], numbers["odd_part"]
    if effect is None or odd is None or numbers["random"] is None:
        return NOT_PROVEN, "too few answers could be judged"
    if effect["low"] <= 0:
        interval = f"{effect['low']:+.1f} to {effect['high']:+.1f}"
        return NOT_PROVEN, f"the effect's interval, {interval}, is not above 0"
    if odd["low"] <= 0:
        interval = f"{odd['low']:+.1f} to {odd['high']:+.1f}"
        return NOT_PROVEN, f"the odd part, {odd['mean']:+.1f}, is not above 0 for sure: interval {interval}"
    return None


def _opposite_breaks(numbers: dict, gate: float) -> Objection:
    minus = numbers["coherence"]["minus"]
    if minus is None or minus >= gate:
        return None
    what = f"the opposite vector breaks the text (coherence {minus:.0f})"
    return NOT_PROVEN, f"{what}, so that the odd part may be damage"


def _nulls_do_as_much(numbers: dict, gate: float) -> Objection:
    odd, null, shuffled = (numbers[k] for k in ("odd_part", "random", "shuffled_labels_odd_part"))
    chance = null["selected"]
    if 1 / (1 + null["n"]) > P_MAX:
        few = f"{null['n']} random directions are too few to say more (z = {null['z']:.1f})"
        return NOT_PROVEN, f"{few}; take 19 or more"
    if null["z"] < Z_MIN or null["p"] > P_MAX:
        figures = f"z = {null['z']:.1f}, p = {null['p']:.3f} against {null['n']} of them"
        return NOT_PROVEN, f"random directions do as much: {figures}"
    if chance["p"] > P_MAX:
        figures = f"z = {null['z']:.1f}, p = {chance['p']:.3f}"
        return NOT_PROVEN, f"the best of {chance['of']:.1f} random directions might do as much: {figures}"
    if shuffled is not None and abs(shuffled["mean"]) >= odd["mean"]:
        figures = f"{shuffled['mean']:+.1f} against {odd['mean']:+.1f}"
        return NOT_PROVEN, f"a vector fitted on shuffled labels does as much: {figures}"
    return None


def slopes(signal: np.ndarray, dose: float) -> dict | None:
    """Return the questions' slopes of the trait score over −dose, 0, +dose, in points per 0.1 of dose:
    quartiles and the share below zero.
    """
    if not len(signal):
        return None

    low, median, high = np.quantile(signal / dose / 10, [0.25, 0.5, 0.75])
    return {
        "lower_quartile": _round(low),
        "median": _round(median),
        "upper_quartile": _round(high),
        "share_negative": _round(float((signal < 0).mean())),
    }


def median_example(trial: Evidence, questions: Sequence[str], sign: int) -> dict:
    """Return one question's answers side by side: the question whose signal is the median one, neither
    the best nor the worst.
    """
    plus, minus = trial.vector
    reference = minus or trial.unsteered
    signal = np.nan_to_num(sign * (plus.trait_values - reference.trait_values))
    i = int(np.argsort(signal, kind="stable")[len(signal) // 2])

    return {
        "question": questions[i],
        "unsteered": trial.unsteered.responses[i],
        "plus": plus.responses[i],
        "minus": minus.responses[i] if minus else None,
    }


def _null(signal: np.ndarray, trial: Evidence, sign: int) -> dict | None:
    parts = np.array(
        [part.mean() for pair in trial.randoms if len(part := signal_of(*pair, trial.unsteered, sign))]
    )
    if not len(signal) or not len(parts):
        return None

    value = float(signal.mean())
    null = compare_with_null(value, parts)
    selected = {
        "of": _round(trial.n_candidates),
        "p": _round(allow_for_selection(null["z"], null["n"], trial.n_candidates)),
    }
    return null | {
        "selected": selected,
        "spread": _round(null["spread"]),
        "range": [_round(x) for x in null["range"]],
        "z": _round(null["z"]),
        "odd_parts": [_round(float(x)) for x in parts],
    }


def _one_sided(effect: np.ndarray, trial: Evidence, sign: int) -> dict | None:
    """Return how many single random pushes, either way, move the score as much as the vector: damage
    included, so this proves nothing by itself.
    """
    pushes = [
        part.mean()
        for pair in trial.randoms
        for arm in pair
        if arm and len(part := effect_of(arm, trial.unsteered, sign))
    ]
    if not len(effect) or not pushes:
        return None

    return {
        "n": len(pushes),
        "lowest": _round(min(pushes)),
        "highest": _round(max(pushes)),
        "reach_it": int(sum(p >= effect.mean() for p in pushes)),
    }


def _strongest_of(pairs: Sequence[Pair], unsteered: ArmResult, sign: int) -> dict | None:
    """Return the largest of several signals: a vector that was chosen is compared with the best of its
    rivals.
    """
    found = [interval for pair in pairs if (interval := _interval(signal_of(*pair, unsteered, sign)))]
    return max(found, key=lambda f: abs(f["mean"])) | {"best_of": len(found)} if found else None


def _strongest(trial: Evidence, sign: int) -> dict | None:
    if trial.strongest is None:
        return None
    plus, minus = trial.strongest
    figures = {
        "effect": _interval(effect_of(plus, trial.unsteered, sign)),
        "odd_part": _interval(signal_of(plus, minus, trial.unsteered, sign)),
    }
    return figures | {"coherence": {"plus": _coherence(plus), "minus": _coherence(minus)}}


def _named_arms(trial: Evidence) -> dict[str, ArmResult]:
    plus, minus = trial.vector
    named = {"unsteered": trial.unsteered, "plus": plus, "minus": minus, "system_prompt": trial.system_prompt}
    rest = [trial.strongest] if trial.strongest else []
    return {k: r for k, r in named.items() if r} | {
        r.arm.name: r for pair in (*rest, *trial.shuffled, *trial.randoms) for r in pair if r
    }


def _coherence(result: ArmResult | None) -> float | None:
    return (
        _round(result.mean_coherence)
        if result and any(s.value is not None for s in result.coherence)
        else None
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return _round(float(known.mean())) if len(known) else None


def _interval(values: np.ndarray) -> dict | None:
    if len(values) < 2:
        return None
    mean, low, high = mean_interval(values)
    return {"mean": _round(mean), "low": _round(low), "high": _round(high), "n": len(values)}


def _round(value: float) -> float:
    return round(float(value), 4)
