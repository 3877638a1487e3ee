"""Stage 0: will each scenario elicit the side it stands for?

For example:

    python extraction/0_vet_scenarios.py --experiment demo --traits behavioral/formality
"""

import runpy
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.utils.files.paths import SIDES, VET_SCENARIOS, TraitPaths
from traitscope.utils.judge import JudgeOptions, load_judge
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.scores import Thresholds, rate_per_side, write_scenario_scores
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.stage import Stage


def vet_scenarios(paths: TraitPaths, *, judging: JudgeOptions, thresholds: Thresholds) -> dict:
    """Judge every scenario of both sides: will this prompt elicit the side it stands for?"""
    dataset = read_trait(paths)
    examples = dataset.rubric.examples
    judge = load_judge(judging, dataset.rubric, paths.spending)
    scores = judge.score_examples()

    pairs = list(zip(examples, scores, strict=True))
    failed = {
        side: [e.line + 1 for e, s in pairs if e.side == side and not thresholds.passes(s, side)]
        for side in SIDES
    }
    # as of these thresholds; whoever uses the scores applies its own
    vetted_at = {**asdict(thresholds), "failed_lines": failed}
    used = write_scenario_scores(paths, examples, scores, judge, judging.max_unjudged, vetted_at)

    rates = rate_per_side([(e.side, s) for e, s in pairs], thresholds)
    accuracy = {"judge accuracy": a} if (a := judge.identity.get("cross_validated_accuracy")) else {}
    lines = {f"failed {side} lines": _shorten(lines) for side, lines in failed.items()}
    return {"scenarios": len(pairs), **rates, **accuracy, **lines, **used}


def _shorten(lines: list[int]) -> str:
    more = f" … ({len(lines)}, all in scenario_scores.json)" if len(lines) > 6 else ""
    return " ".join(map(str, lines[:6])) + more or "none"


STAGE = Stage(
    name=VET_SCENARIOS,
    version=2,
    run=vet_scenarios,
    inputs=lambda paths, params: dataset_files(paths),
    outputs=lambda paths, params: [paths.scenario_scores],
    cosmetic=("pos_threshold", "neg_threshold"),
)

if __name__ == "__main__":
    command(stage_command(STAGE))
