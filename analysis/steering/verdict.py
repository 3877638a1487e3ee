"""The verdict on the test questions: does the direction itself, and not the force of the push, change what the model writes?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.intervals import bootstrap_mean, compare_with_null
from analysis.steering.arms import ArmResult
from analysis.steering.search import Cell, effect_of, odd_part

WORKS, NOT_PROVEN, BREAKS = "works", "not proven", "breaks the text"
Z_MIN = 2.0  # the odd part must stand this many spreads of the random directions' odd parts from zero …
P_MAX = 0.05  # … and beat enough of them by rank: with 20 pairs, all of them

Pair = tuple[ArmResult, ArmResult]  # the same direction added and subtracted


@dataclass(frozen=True)
class Trial:
    """Every arm of the test, on the same questions with the same seeds."""

    unsteered: ArmResult
    vector: Pair
    randoms: Sequence[Pair]
    shuffled: Pair
    system_prompt: ArmResult


def reach_verdict(cell: Cell, trial: Trial, gate: float) -> dict:
    """Compare the vector with nothing, with its opposite, with random and shuffled directions, and with a system prompt.

    Effects are changes of the trait score in points (0–100), paired by question, with 95 % bootstrap intervals over questions.

    Args:
        gate: Mean coherence below which the text counts as broken.
    """
    plus, minus = trial.vector
    effect = effect_of(plus, trial.unsteered, cell.sign)
    odd = odd_part(plus, minus, cell.sign)
    numbers = {
        "n_questions": len(odd),
        "effect": _interval(effect),
        "effect_minus": _interval(effect_of(minus, trial.unsteered, cell.sign)),
        "odd_part": _interval(odd),
        "wrong_way_share": _round(float((odd < 0).mean())) if len(odd) else None,
        "random": _null(odd, trial.randoms, cell.sign),
        "random_one_sided": _one_sided(effect, trial, cell.sign),
        "shuffled_labels_odd_part": _interval(odd_part(*trial.shuffled, cell.sign)),
        "system_prompt_effect": _interval(effect_of(trial.system_prompt, trial.unsteered, cell.sign)),
        "unsteered_score": _mean(trial.unsteered.trait_values),
        "states": {name: r.states for name, r in _named_arms(trial).items()},
        "coherence": {"unsteered": _round(trial.unsteered.mean_coherence), "plus": _round(plus.mean_coherence), "minus": _round(minus.mean_coherence)},
    }
    verdict, why = conclude(numbers, gate)
    return {"verdict": verdict, "why": why} | numbers


def conclude(numbers: dict, gate: float) -> tuple[str, str]:
    """Return the one word and its reason, from the numbers alone."""
    coherence, effect, odd, null, shuffled = (numbers[k] for k in ("coherence", "effect", "odd_part", "random", "shuffled_labels_odd_part"))
    if coherence["plus"] < gate:
        return BREAKS, f"coherence falls from {coherence['unsteered']:.0f} to {coherence['plus']:.0f}, below the gate of {gate:.0f}"
    if effect is None or odd is None or null is None:
        return NOT_PROVEN, "too few answers could be judged"
    if effect["low"] <= 0:
        return NOT_PROVEN, f"the effect's interval {effect['low']:+.1f} to {effect['high']:+.1f} includes no change"
    if odd["low"] <= 0:
        return NOT_PROVEN, f"the vector and its opposite do the same: odd part {odd['mean']:+.1f}, interval {odd['low']:+.1f} to {odd['high']:+.1f}"
    if coherence["minus"] < gate:
        return NOT_PROVEN, f"the opposite vector breaks the text (coherence {coherence['minus']:.0f}), so that the odd part may be damage"
    if null["z"] < Z_MIN or null["p"] > P_MAX:
        return NOT_PROVEN, f"random directions do as much: z = {null['z']:.1f}, p = {null['p']:.3f} against {null['n']} ± pairs"
    if shuffled is not None and abs(shuffled["mean"]) >= odd["mean"]:
        return NOT_PROVEN, f"a vector fitted on shuffled labels does as much: odd part {shuffled['mean']:+.1f} against {odd['mean']:+.1f}"
    beats = f"z = {null['z']:.1f} against {null['n']} ± random pairs"
    one_sided = numbers["random_one_sided"]
    also = f"; {one_sided['reach_it']} of {one_sided['n']} one-sided random pushes reach the effect" if one_sided["reach_it"] else ""
    return WORKS, f"effect {effect['mean']:+.1f} points, odd part {odd['mean']:+.1f}, {beats}, coherence {coherence['plus']:.0f}{also}"


def median_example(trial: Trial, questions: Sequence[str], sign: int) -> dict:
    """Return one question's answers side by side: the question whose odd part is the median one, neither the best nor the worst."""
    plus, minus = trial.vector
    odd = np.nan_to_num(sign * (plus.trait_values - minus.trait_values) / 2)
    i = int(np.argsort(odd, kind="stable")[len(odd) // 2])
    return {"question": questions[i], "unsteered": trial.unsteered.responses[i], "plus": plus.responses[i], "minus": minus.responses[i]}


def _null(odd: np.ndarray, randoms: Sequence[Pair], sign: int) -> dict | None:
    parts = [part.mean() for pair in randoms if len(part := odd_part(*pair, sign))]
    if not len(odd) or not parts:
        return None
    null = compare_with_null(float(odd.mean()), np.array(parts))
    return null | {
        "spread": _round(null["spread"]),
        "range": [_round(x) for x in null["range"]],
        "z": _round(null["z"]),
        "odd_parts": [_round(float(x)) for x in parts],
    }


def _one_sided(effect: np.ndarray, trial: Trial, sign: int) -> dict | None:
    """How many single random pushes, either way, move the score as much as the vector: damage included, so this proves nothing by itself."""
    pushes = [part.mean() for pair in trial.randoms for arm in pair if len(part := effect_of(arm, trial.unsteered, sign))]
    if not len(effect) or not pushes:
        return None
    return {"n": len(pushes), "lowest": _round(min(pushes)), "highest": _round(max(pushes)), "reach_it": int(sum(p >= effect.mean() for p in pushes))}


def _named_arms(trial: Trial) -> dict[str, ArmResult]:
    plus, minus = trial.vector
    named = {"unsteered": trial.unsteered, "plus": plus, "minus": minus, "system_prompt": trial.system_prompt}
    return named | {r.arm.name: r for pair in (trial.shuffled, *trial.randoms) for r in pair}


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return _round(float(known.mean())) if len(known) else None


def _interval(values: np.ndarray) -> dict | None:
    if len(values) < 2:
        return None
    mean, low, high = bootstrap_mean(values)
    return {"mean": _round(mean), "low": _round(low), "high": _round(high), "n": len(values)}


def _round(value: float) -> float:
    return round(float(value), 4)
