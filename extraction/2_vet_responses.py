"""Stage 2: does each response show the trait's side it was asked for?"""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with
from extraction.responses import answers_of, read_responses, response_digests
from extraction.trait_files import dataset_files
from extraction.traits import read_trait
from extraction.vetting import Thresholds, rate_per_side, store_scores
from utils.experiment import stage_main
from utils.judge import JudgeOptions, load_judge
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage


def vet_responses(paths: TraitPaths, *, judge: JudgeOptions, thresholds: Thresholds) -> dict:
    """Judge every response for the trait. Scores are stored; thresholds are applied where scores are used."""
    dataset, responses = read_trait(paths), read_responses(paths)
    grader = load_judge(judge, dataset.rubric)
    scores = grader.score_responses(answers_of(dataset, responses))
    rows = [{"key": r.key, "side": r.side} for r in responses]
    content = {"responses_sha256": response_digests(paths), "rows": rows}
    used = store_scores(paths.response_scores, content, scores, grader, judge.max_unjudged)
    rates = rate_per_side([(r.side, s) for r, s in zip(responses, scores, strict=True)], thresholds)
    return {"responses": len(rows), **rates, "unscored": sum(s.value is None for s in scores), **used}


STAGE = Stage(
    name="2_vet_responses",
    run=vet_responses,
    inputs=lambda paths, params: [*dataset_files(paths), *(paths.responses(side) for side in SIDES)],
    outputs=lambda paths, params: [paths.response_scores],
    cosmetic=("pos_threshold", "neg_threshold"),
)

if __name__ == "__main__":
    stage_main(STAGE)
