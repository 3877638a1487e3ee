"""What the test showed: every arm on the same questions with the same seeds, and the figures on which the
verdict rests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from traitscope.analysis.steering.arms import ArmResult
from traitscope.analysis.steering.history import allow_for_looks
from traitscope.analysis.steering.search import Cell, effect_of, signal_of
from traitscope.utils.judge.reliability import Reliability
from traitscope.utils.measures.chance import compare_with_null
from traitscope.utils.measures.intervals import interval_of
from traitscope.utils.records.verdict import Reading

# the same direction added and subtracted; without the second where nothing is subtracted
Pair = tuple[ArmResult, ArmResult | None]


@dataclass(frozen=True)
class Evidence:
    """Every arm of the test, on the same questions with the same seeds."""

    unsteered: ArmResult
    vector: Pair
    randoms: Sequence[Pair]
    shuffled: Sequence[Pair]  # vectors fitted on shuffled labels, in the vector's place
    system_prompt: ArmResult
    strongest: Pair | None = None  # the largest coherent dose, where it is not the chosen one
    extra: dict = field(default_factory=dict)  # figures measured beside
    looks: int = 1  # tests of the trait, this one included
    reliability: Reliability | None = None  # of the judge; None where nothing measured it
    reading: Reading | None = None  # how well the vector separates held-out responses, where measured

    def arms(self) -> list[ArmResult]:
        """Return every arm once."""
        found: list[ArmResult] = []
        self.each(lambda arm: found.append(arm) or arm)  # type: ignore[func-returns-value]
        return found

    def each(self, change: Callable[[ArmResult], ArmResult]) -> "Evidence":
        """Return the same evidence with every arm changed."""

        def both(pair: Pair) -> Pair:
            return change(pair[0]), change(pair[1]) if pair[1] else None

        return replace(
            self,
            unsteered=change(self.unsteered),
            vector=both(self.vector),
            randoms=[both(pair) for pair in self.randoms],
            shuffled=[both(pair) for pair in self.shuffled],
            system_prompt=change(self.system_prompt),
            strongest=both(self.strongest) if self.strongest else None,
        )


def figures_of(cell: Cell, trial: Evidence) -> dict:
    """Return every figure of the test.

    Effects are changes of the trait score in points (0–100), paired by question, with 95 % intervals over
    questions. The signal is the odd part, (effect(+v) − effect(−v)) / 2, or the effect itself where nothing is
    added and so nothing can be subtracted. `p` is the rank among the random directions, allowing for the looks.
    """
    plus, minus = trial.vector
    effect = effect_of(plus, trial.unsteered, cell.sign)
    signal = signal_of(plus, minus, trial.unsteered, cell.sign)
    null = _null(signal, trial, cell)
    return {
        "n_questions": len(signal),
        "effect": interval_of(effect),
        "effect_minus": interval_of(effect_of(minus, trial.unsteered, cell.sign)) if minus else None,
        "odd_part": interval_of(signal),
        "wrong_way_share": _round(float((signal < 0).mean())) if len(signal) else None,
        "slopes": slopes(signal, cell.dose),
        "random": null,
        "looks": trial.looks,
        "p": _round(allow_for_looks(null["p"], trial.looks)) if null else None,
        "p_least": _round(allow_for_looks(null["p_least"], trial.looks)) if null else None,
        "judge_reliability": trial.reliability.as_json() if trial.reliability else None,
        "reading": trial.reading.model_dump(exclude_none=True) if trial.reading else None,
        "random_one_sided": _one_sided(effect, trial, cell.sign),
        "shuffled_labels_odd_part": _strongest_of(trial.shuffled, trial.unsteered, cell.sign),
        "system_prompt_effect": interval_of(effect_of(trial.system_prompt, trial.unsteered, cell.sign)),
        "unsteered_score": _mean(trial.unsteered.trait_values),
        "states": {name: r.states for name, r in _named_arms(trial).items()},
        "coherence": {
            "unsteered": known_coherence(trial.unsteered),
            "plus": known_coherence(plus),
            "minus": known_coherence(minus),
        },
        "strongest": _strongest(trial, cell.sign),
        **trial.extra,
    }


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


def _null(signal: np.ndarray, trial: Evidence, cell: Cell) -> dict | None:
    """Return the random directions' signals, and where the vector stands among them."""
    found = [signal_of(*pair, trial.unsteered, cell.sign) for pair in trial.randoms]
    means = np.array([part.mean() for part in found if len(part)])
    if not len(signal) or not len(means):
        return None

    null = compare_with_null(float(signal.mean()), means, has_sign=not cell.treatment.has_opposite)
    return null | {
        "spread": _round(null["spread"]),
        "range": [_round(x) for x in null["range"]],
        "z": None if null["z"] is None else _round(null["z"]),
        "odd_parts": [_round(float(x)) for x in means],
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
    """Return the largest of several signals: every rival counts."""
    found = [interval for pair in pairs if (interval := interval_of(signal_of(*pair, unsteered, sign)))]
    return max(found, key=lambda f: abs(f["mean"])) | {"best_of": len(found)} if found else None


def _strongest(trial: Evidence, sign: int) -> dict | None:
    if trial.strongest is None:
        return None
    plus, minus = trial.strongest
    figures = {
        "effect": interval_of(effect_of(plus, trial.unsteered, sign)),
        "odd_part": interval_of(signal_of(plus, minus, trial.unsteered, sign)),
    }
    return figures | {"coherence": {"plus": known_coherence(plus), "minus": known_coherence(minus)}}


def _named_arms(trial: Evidence) -> dict[str, ArmResult]:
    plus, minus = trial.vector
    named = {"unsteered": trial.unsteered, "plus": plus, "minus": minus, "system_prompt": trial.system_prompt}
    rest = [trial.strongest] if trial.strongest else []
    return {k: r for k, r in named.items() if r} | {
        r.arm.name: r for pair in (*rest, *trial.shuffled, *trial.randoms) for r in pair if r
    }


def known_coherence(result: ArmResult | None) -> float | None:
    """Return an arm's mean coherence; None where none of its texts was graded."""
    return _round(result.mean_coherence) if result and isfinite(result.mean_coherence) else None


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return _round(float(known.mean())) if len(known) else None


def _round(value: float) -> float:
    return round(float(value), 4)
