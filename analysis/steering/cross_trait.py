"""What does each trait's vector do to the other traits? Steer with every one, judge for all."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import numpy as np
import pandas as pd
import torch

from analysis.intervals import bootstrap_mean
from analysis.steering.arms import Arm, ArmResult, generate_arms
from analysis.steering.questions import split_questions
from analysis.steering.search import odd_part
from extraction.traits import read_trait
from extraction.vectors import load_vectors
from utils.artifacts import read_json, write_json
from utils.cli import run_cli
from utils.errors import UserError
from utils.experiment import resolve_settings
from utils.flags import Flag, option_flags, pick
from utils.generation import Sampling, Work
from utils.hooks import Push
from utils.judge import Answer, JudgeOptions, load_judge
from utils.model import LM, ModelOptions, load_lm
from utils.paths import ExperimentPaths, TraitPaths


@dataclass(frozen=True)
class CrossOptions:
    """Steer with each trait's vector, at the cell that stage 5 chose, and judge the answers for every trait; the vectors' cosines beside it.

    Args:
        experiment: Experiment whose stage 5 has completed for these traits.
        traits: Traits, separated by commas.
        subset: Questions per trait, from its test part.
    """

    experiment: str
    traits: tuple[str, ...]
    subset: int = 10


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(CrossOptions) | option_flags(ModelOptions) | option_flags(Sampling) | option_flags(JudgeOptions)


def main(**given: Any) -> None:
    """Steer, judge, print and store.

    Raises:
        UserError: a trait has no completed stage 5.
    """
    options = pick(CrossOptions, given)
    paths = ExperimentPaths(options.experiment)
    flags = option_flags(ModelOptions) | option_flags(Sampling) | option_flags(JudgeOptions)
    settings = resolve_settings(paths, flags, {k: v for k, v in given.items() if k in flags})
    traits = [TraitPaths(options.experiment, trait) for trait in options.traits]
    cells = {t.trait: chosen_push(t) for t in traits}
    lm = load_lm(pick(ModelOptions, settings))
    matrix = {t.trait: effects_on(t, cells, lm, pick(Sampling, settings), pick(JudgeOptions, settings), options.subset) for t in traits}
    cosines = {a: {b: cosine(cells[a], TraitPaths(options.experiment, b), chosen_key(TraitPaths(options.experiment, a))) for b in cells} for a in cells}
    effects = {a: {b: matrix[b][a] for b in cells} for a in cells}  # [steered with][judged for]
    write_json(paths.cross_trait, {"made_by": {"model": lm.identity, "judge": settings["judge"]}, "odd_parts": effects, "cosines": cosines})
    print(render(effects, cosines) + f"\n{paths.cross_trait.relative_to(paths.root)}")


def chosen_key(paths: TraitPaths) -> tuple[str, int]:
    """Return the method and layer that stage 5 chose.

    Raises:
        UserError: it has not completed, or chose several layers.
    """
    if not paths.manifest("5_steer_evaluate").exists():
        raise UserError(f"{paths.trait} has no completed 5_steer_evaluate in {paths.experiment}; run it first")
    chosen = read_json(paths.steering_results)["chosen"]
    if isinstance(chosen["layer"], list) or chosen["operation"] != "add":
        raise UserError(f"{paths.trait}: the matrix is of vectors added at one layer; stage 5 chose {chosen['operation']} at {chosen['layer']}")
    if chosen["gate_trait"] or chosen["positions"] != "all":
        raise UserError(f"{paths.trait}: the matrix is of vectors added everywhere; stage 5 was run with a gate or on the response only")
    return chosen["method"], chosen["layer"]


def chosen_push(paths: TraitPaths) -> Push:
    """Return the push of the cell that stage 5 chose."""
    key, results = chosen_key(paths), read_json(paths.steering_results)
    source = paths.within(results["made_by"]["vectors"]["experiment"])
    # towards more of the trait, whether or not that is wanted, so that the matrix and the cosines speak of the same direction
    return Push(key[1], load_vectors(source, [key], tuple(results["chosen"]["with_traits"]))[key], results["wanted"] * results["chosen"]["coefficient"])


def effects_on(target: TraitPaths, pushes: dict[str, Push], lm: LM, sampling: Sampling, judge: JudgeOptions, subset: int) -> dict[str, dict | None]:
    """Return {steered trait: odd part on the target's score} over the target's test questions."""
    dataset = read_trait(target)
    _, questions = split_questions(dataset.questions, subset)
    signs = [(name, sign) for name in pushes for sign in (1, -1)]
    arms = [Arm(f"{name} {sign}", (replace(pushes[name], coefficient=sign * pushes[name].coefficient),)) for name, sign in signs]
    results = generate_arms(lm, arms, questions, sampling, positions="all", work=Work(label=f"cross {target.trait}"))
    scores = iter(load_judge(judge, dataset.rubric).score_responses([Answer(q, text) for r in results for q, text in zip(questions, r.responses, strict=True)]))
    for result in results:
        result.trait = [next(scores) for _ in questions]
    return {name: _interval(results[2 * i : 2 * i + 2]) for i, name in enumerate(pushes)}


def _interval(pair: Sequence[ArmResult]) -> dict | None:
    odd = odd_part(pair[0], pair[1], 1)
    if len(odd) < 2:
        return None
    mean, low, high = (round(x, 4) for x in bootstrap_mean(odd))
    return {"mean": mean, "low": low, "high": high, "n": len(odd)}


def cosine(push: Push, other: TraitPaths, key: tuple[str, int]) -> float | None:
    """Return the cosine of a push's vector with another trait's vector of the same method and layer; None where there is none."""
    if not other.vector(*key).exists():
        return None
    vector = load_vectors(other, [key])[key]
    return round(float(torch.nn.functional.cosine_similarity(push.vector, vector, dim=0)), 4)


def render(effects: dict, cosines: dict) -> str:
    """Return both matrices for a terminal; a star marks an effect whose interval does not hold 0."""

    def cell(found: dict | None) -> str:
        return "–" if found is None else f"{found['mean']:+.1f}{'*' if found['low'] > 0 or found['high'] < 0 else ''}"

    table = pd.DataFrame({b: {a: cell(effects[a][b]) for a in effects} for b in effects})
    angles = pd.DataFrame({b: {a: np.nan if cosines[a][b] is None else cosines[a][b] for a in cosines} for b in cosines})
    return f"odd part in points, steered with (row) and judged for (column)\n{table.to_string()}\n\ncosine at the row's method and layer\n{angles.to_string()}"


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(CrossOptions) or "")
