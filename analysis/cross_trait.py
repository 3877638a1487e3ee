"""What does each trait's vector do to the other traits? Steer with every one, judge for all.

For example:

    python analysis/cross_trait.py --experiment demo --traits behavioral/formality,epistemic/optimism
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import numpy as np
import pandas as pd
import torch

from traitscope.analysis.steering.arms import Arm, ArmResult, generate_arms
from traitscope.analysis.steering.search import odd_part
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.judge import Answer, JudgeOptions, load_judge
from traitscope.utils.measures.directions import combine
from traitscope.utils.measures.intervals import interval_of
from traitscope.utils.model.generation import Sampling, Work
from traitscope.utils.model.hooks import Push
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.choice import parse_weight
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.questions import choose_questions, read_pool
from traitscope.utils.records.vectors import Vector, read_vector
from traitscope.utils.records.verdict import require_verdict
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class CrossOptions:
    """Steer with each trait's vector, at the cell that stage 5 chose, and judge the answers for every
    trait; the vectors' cosines beside it.
    """

    experiment: str = flag(help="Experiment whose stage 5 has completed for these traits.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))
    subset: int = flag(10, "Questions per trait, from its test part.")


def cross_trait(
    options: CrossOptions, model: ModelOptions, sampling: Sampling, judging: JudgeOptions
) -> None:
    """Steer, judge, print and store.

    Raises:
        UserError: a trait has no completed stage 5.
    """
    paths = ExperimentPaths(options.experiment)
    traits = [TraitPaths(options.experiment, trait) for trait in options.traits]
    steered = {t.trait: chosen_vector(t) for t in traits}
    pushes = {name: push for name, (push, _) in steered.items()}

    lm = load_lm(model)
    for note in dict.fromkeys(note for _, vector in steered.values() if (note := vector.require_fit(lm))):
        print(note, flush=True)
    matrix = {t.trait: effects_on(t, pushes, lm, sampling, judging, options.subset) for t in traits}
    cosines = {
        a: {t.trait: cosine(push, t, vector.about.key) for t in traits}
        for a, (push, vector) in steered.items()
    }
    effects = {a: {b: matrix[b][a] for b in pushes} for a in pushes}  # [steered with][judged for]

    made_by = {"model": lm.identity, "judge": judging.judge}
    write_json(paths.cross_trait, {"made_by": made_by, "odd_parts": effects, "cosines": cosines})
    print(render(effects, cosines) + f"\n{paths.cross_trait.relative_to(paths.root)}")


def chosen_vector(paths: TraitPaths) -> tuple[Push, Vector]:
    """Return the push of the cell that stage 5 chose, and its vector.

    Raises:
        UserError: stage 5 has not completed, or did not add one vector everywhere at one layer.
    """
    found = require_verdict(paths)
    chosen = found.chosen
    if chosen.key is None or chosen.operation != "add":
        what = f"stage 5 chose {chosen.operation} at {chosen.layer}"
        raise UserError(f"{paths.trait}: the matrix is of vectors added at one layer; {what}")
    if chosen.gate_trait or chosen.positions != "all":
        raise UserError(
            f"{paths.trait}: the matrix is of vectors added everywhere; stage 5 was run with a gate or on "
            "the response only"
        )

    source = paths.within(found.vectors_from)
    vector = read_vector(source, chosen.key)
    others = [
        (weight, read_vector(TraitPaths(source.experiment, trait, source.root), chosen.key).tensor)
        for trait, weight in map(parse_weight, chosen.with_traits)
    ]
    main = combine(vector.tensor, others) if others else vector.tensor
    # towards more of the trait, whether or not that is wanted, so that the matrix and the cosines speak of
    # the same direction
    return Push(vector.layer, main, found.wanted * cast(float, chosen.coefficient)), vector


def effects_on(
    target: TraitPaths,
    pushes: dict[str, Push],
    lm: LM,
    sampling: Sampling,
    judging: JudgeOptions,
    subset: int,
) -> dict[str, dict | None]:
    """Return {steered trait: odd part on the target's score} over the target's test questions."""
    dataset = read_trait(target)
    questions = choose_questions(dataset, read_pool(target.root), subset).test
    signs = [(name, sign) for name in pushes for sign in (1, -1)]
    arms = [
        Arm(f"{name} {sign}", (replace(pushes[name], coefficient=sign * pushes[name].coefficient),))
        for name, sign in signs
    ]
    results = generate_arms(
        lm, arms, questions, sampling, positions="all", work=Work(label=f"cross {target.trait}")
    )
    answers = [Answer(q, text) for r in results for q, text in zip(questions, r.responses, strict=True)]
    scores = iter(load_judge(judging, dataset.rubric, target.spending).score_responses(answers))
    for result in results:
        result.trait = [next(scores) for _ in questions]

    return {name: _interval(results[2 * i : 2 * i + 2]) for i, name in enumerate(pushes)}


def _interval(pair: Sequence[ArmResult]) -> dict | None:
    return interval_of(odd_part(pair[0], pair[1], 1))


def cosine(push: Push, other: TraitPaths, key: tuple[str, int]) -> float | None:
    """Return the cosine of a push's vector with another trait's vector of the same method and layer; None
    where there is none.
    """
    if not other.vector(*key).exists():
        return None
    vector = read_vector(other, key)
    return round(float(torch.nn.functional.cosine_similarity(push.vector, vector.tensor, dim=0)), 4)


def render(effects: dict, cosines: dict) -> str:
    """Return both matrices for a terminal. What a random direction would do there is not known, so no effect is
    marked as more than chance.
    """

    def cell(found: dict | None) -> str:
        return "–" if found is None else f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]"

    table = pd.DataFrame({b: {a: cell(effects[a][b]) for a in effects} for b in effects})
    angles = pd.DataFrame(
        {b: {a: np.nan if cosines[a][b] is None else cosines[a][b] for a in cosines} for b in cosines}
    )
    return (
        f"odd part in points [95 %], steered with (row) and judged for (column)\n{table.to_string()}\n\ncosine at "
        f"the row's method and layer\n{angles.to_string()}"
    )


if __name__ == "__main__":
    command(cross_trait)
