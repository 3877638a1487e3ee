"""Stage 0: will each scenario elicit the side it stands for?"""

import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from extraction.trait_files import dataset_files
from extraction.traits import read_trait
from extraction.vetting import Thresholds, rate_per_side, store_scores
from utils.experiment import stage_main
from utils.judge import JudgeOptions, load_judge
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage


def vet_scenarios(paths: TraitPaths, *, judge: JudgeOptions, thresholds: Thresholds) -> dict:
    """Judge every scenario of both sides: will this prompt elicit the side it stands for?"""
    dataset = read_trait(paths)
    grader = load_judge(judge, dataset.rubric)
    scores = grader.score_examples()
    rows = [{"side": e.side, "index": i, "group": e.group, "text": e.text} for i, e in enumerate(dataset.rubric.examples)]
    pairs = list(zip(dataset.rubric.examples, scores, strict=True))
    failed = {side: [e.group + 1 for e, s in pairs if e.side == side and not thresholds.passes(s, side)] for side in SIDES}
    vetted_at = {**asdict(thresholds), "failed_lines": failed}  # as of these thresholds; whoever uses the scores applies its own
    used = store_scores(paths.scenario_scores, {"vetted_at": vetted_at, "rows": rows}, scores, grader, judge.max_unjudged)
    rates = rate_per_side([(e.side, s) for e, s in pairs], thresholds)
    accuracy = {"judge accuracy": a} if (a := grader.identity.get("cross_validated_accuracy")) else {}
    return {"scenarios": len(rows), **rates, **accuracy, **{f"failed {side} lines": _shorten(lines) for side, lines in failed.items()}, **used}


def _shorten(lines: list[int]) -> str:
    return " ".join(map(str, lines[:6])) + (f" … ({len(lines)}, all in scenario_scores.json)" if len(lines) > 6 else "") or "none"


STAGE = Stage(
    name="0_vet_scenarios",
    run=vet_scenarios,
    inputs=lambda paths, params: dataset_files(paths),
    outputs=lambda paths, params: [paths.scenario_scores],
    cosmetic=("pos_threshold", "neg_threshold"),
)

if __name__ == "__main__":
    stage_main(STAGE)
