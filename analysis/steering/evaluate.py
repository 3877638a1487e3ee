"""Stage 5's protocol: search the dose on dev, report on test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from analysis.steering.arms import Arm, ArmResult, arm_rows, generate_arms, judge_arms, push_dose
from analysis.steering.search import Cell, effect_of, odd_part, pick_cell, pick_finalists
from analysis.steering.verdict import Trial, median_example, reach_verdict
from utils.capture import Reading, pool_activations, select_positions
from utils.directions import draw_directions
from utils.generation import Sampling, Work
from utils.hooks import Positions
from utils.judge import Coherence, Judge
from utils.model import LM


@dataclass(frozen=True)
class Protocol:
    """How steering is evaluated.

    Args:
        doses: Push lengths tried, as fractions of the layer's mean residual norm in the steered model.
        random_pairs: ± pairs of random directions that the vector must beat; p cannot fall below 1 / (1 + pairs), so fewer than 19 prove nothing.
        coherence_gate: Mean coherence below which a text counts as broken.
        positions: all, or response (from the last prompt token on).
        null_seed: Seed of the random directions and of the shuffled labels.
    """

    doses: tuple[float, ...] = (0.1, 0.2, 0.3)
    random_pairs: int = 20
    coherence_gate: float = 70.0
    positions: Positions = "all"
    null_seed: int = 0


@dataclass(frozen=True)
class Candidates:
    """What may be steered with, and where its nulls come from."""

    vectors: dict[tuple[str, int], Tensor]  # (method, layer) → [d_model]
    activations: Callable[[int], Tensor]  # layer → [n, d_model], whose covariance random directions are drawn from
    shuffled: Callable[[str, int], Tensor]  # (method, layer) → the vector that the same method fits to shuffled labels
    sign: int  # −1 for a trait that the researcher wants less of
    system_prompt: str  # asks the model for the trait in words


@dataclass(frozen=True)
class Bench:
    """The model and what its texts are measured with."""

    lm: LM
    judge: Judge
    sampling: Sampling
    protocol: Protocol
    work: Work
    max_unjudged: float = 0.05

    def run(self, arms: Sequence[Arm], questions: Sequence[str]) -> list[ArmResult]:
        return generate_arms(self.lm, arms, questions, self.sampling, positions=self.protocol.positions, work=self.work)


def evaluate(bench: Bench, candidates: Candidates, dev: Sequence[str], test: Sequence[str]) -> tuple[dict, dict[str, list[dict]]]:
    """Choose a cell on the dev questions and judge it on the test questions.

    Returns:
        The results, and the rows of every text written, per part ("dev", "test").
    """
    unsteered = bench.run([Arm("unsteered")], dev)[0]
    coherence = bench.judge.coherence(bench.lm, unsteered.texts)
    norms = residual_norms(bench.lm, unsteered)
    judge_arms([unsteered], dev, bench.judge, coherence, bench.max_unjudged)
    cell, curve, dev_arms = _search(bench, candidates, unsteered, coherence, norms, dev)
    trial, test_arms = _try(bench, candidates, cell, coherence, test)
    chosen = {"method": cell.method, "layer": cell.layer, "dose": cell.dose, "coefficient": cell.coefficient, "positions": bench.protocol.positions}
    chosen["is_largest_dose"] = cell.dose == max(bench.protocol.doses)  # then a larger one might have done more
    results = {"chosen": chosen, **reach_verdict(cell, trial, bench.protocol.coherence_gate), "example": median_example(trial, test, cell.sign)}
    used = {"usage": bench.judge.usage.as_json()} if bench.judge.usage else {}
    measured_by = {"judge": bench.judge.identity, **used, "coherence_judge": coherence.identity, "residual_norms": norms}
    rows = {"dev": arm_rows([unsteered, *dev_arms], dev), "test": arm_rows(test_arms, test)}
    return results | measured_by | {"questions": {"dev": list(dev), "test": list(test)}, "dev": curve}, rows


def residual_norms(lm: LM, unsteered: ArmResult) -> list[float]:
    """Return each layer's mean residual norm over the response tokens of unsteered texts: the unit of a dose."""
    chosen = [(p, r) for p, r in zip(unsteered.prompt_ids, unsteered.response_ids, strict=True) if r]
    readings = [Reading(p + r, select_positions("response[:]", len(p), len(r))) for p, r in chosen]
    return [round(float(x), 4) for x in pool_activations(lm, readings, label="residual norms").norms]


def _search(
    bench: Bench, candidates: Candidates, unsteered: ArmResult, coherence: Coherence, norms: list[float], dev: Sequence[str]
) -> tuple[Cell, list[dict], list[ArmResult]]:
    cells = [Cell(m, layer, dose, v, norms[layer], candidates.sign) for (m, layer), v in candidates.vectors.items() for dose in bench.protocol.doses]
    plus = bench.run([cell.arm("plus") for cell in cells], dev)
    judge_arms(plus, dev, bench.judge, coherence, bench.max_unjudged)
    finalists = pick_finalists(cells, plus, unsteered, bench.protocol.coherence_gate)
    minus = bench.run([cell.arm("minus", -1) for cell in finalists], dev)
    judge_arms(minus, dev, bench.judge, coherence, bench.max_unjudged)
    chosen = pick_cell(finalists, [plus[cells.index(c)] for c in finalists], minus, bench.protocol.coherence_gate)
    opposite = {c.name: m for c, m in zip(finalists, minus, strict=True)}
    curve = [_curve_point(c, p, opposite.get(c.name), unsteered) for c, p in zip(cells, plus, strict=True)]
    return chosen, curve, [*plus, *minus]


def _curve_point(cell: Cell, plus: ArmResult, minus: ArmResult | None, unsteered: ArmResult) -> dict:
    """One point of the dose–response curve."""
    effect, odd = effect_of(plus, unsteered, cell.sign), odd_part(plus, minus, cell.sign) if minus else None
    place = {"method": cell.method, "layer": cell.layer, "dose": cell.dose, "coefficient": round(cell.coefficient, 6), "n": len(effect)}
    means = {
        "effect": round(float(effect.mean()), 4) if len(effect) else None,
        "odd_part": round(float(odd.mean()), 4) if odd is not None and len(odd) else None,
    }
    return place | means | {"coherence": round(plus.mean_coherence, 4)}


def _try(bench: Bench, candidates: Candidates, cell: Cell, coherence: Coherence, test: Sequence[str]) -> tuple[Trial, list[ArmResult]]:
    randoms = draw_directions(candidates.activations(cell.layer), bench.protocol.random_pairs, bench.protocol.null_seed)
    nulls = [(f"random {i}", v, False) for i, v in enumerate(randoms)]
    pairs = [("vector", cell.vector, True), ("shuffled labels", candidates.shuffled(cell.method, cell.layer), True), *nulls]
    arms = [Arm("unsteered"), Arm("system prompt", system_prompt=candidates.system_prompt)]
    for name, vector, grades in pairs:
        for label, sign in (("plus", 1), ("minus", -1)):
            push = push_dose(vector, cell.layer, cell.sign * sign * cell.dose, cell.residual_norm)
            arms.append(Arm(f"{name} {label}", (push,), grades_coherence=grades))
    results = bench.run(arms, test)
    judge_arms(results, test, bench.judge, coherence, bench.max_unjudged)
    vector, shuffled, *random_pairs = zip(results[2::2], results[3::2], strict=True)
    return Trial(results[0], vector, random_pairs, shuffled, results[1]), results
