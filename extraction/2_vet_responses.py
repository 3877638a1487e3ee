"""Stage 2: does each response show the trait's side it was asked for?"""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from extraction.responses import read_responses
from extraction.traits import dataset_files, read_trait
from extraction.vetting import rate_per_side, require_usable
from utils.artifacts import write_json
from utils.experiment import stage_main
from utils.judge import Answer, JudgeOptions, count_states, load_judge, passes
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage


def vet_responses(paths: TraitPaths, *, judge: JudgeOptions, pos_threshold: float = 60.0, neg_threshold: float = 40.0, min_usable: int = 10) -> dict:
    """Judge every response for the trait. Scores are stored; thresholds are applied where scores are used.

    Args:
        pos_threshold: A positive response is usable at this score or above; moving it judges nothing again.
        neg_threshold: A negative response is usable at this score or below.
        min_usable: Usable responses per side below which the trait stops.
    """
    dataset, responses = read_trait(paths), read_responses(paths)
    grader = load_judge(judge, dataset.rubric)
    scores = grader.score_responses([Answer(r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"], r.response) for r in responses])
    rows = [{"key": r.key, "side": r.side, **s.as_json()} for r, s in zip(responses, scores, strict=True)]
    write_json(paths.response_scores, {"judge": grader.identity, "states": count_states(scores), "rows": rows})
    usable = [r.side for r, s in zip(responses, scores, strict=True) if passes(s, r.side, pos_threshold, neg_threshold)]
    require_usable(paths.trait, usable, min_usable)
    unscored = sum(s.value is None for s in scores)
    return {
        "responses": len(rows),
        **rate_per_side([(r.side, s) for r, s in zip(responses, scores, strict=True)], pos_threshold, neg_threshold),
        "unscored": unscored,
    }


STAGE = Stage(
    name="2_vet_responses",
    run=vet_responses,
    inputs=lambda paths, params: [*dataset_files(paths), *(paths.responses(side) for side in SIDES)],
    outputs=lambda paths, params: [paths.response_scores],
    cosmetic=("pos_threshold", "neg_threshold", "min_usable"),
)

if __name__ == "__main__":
    stage_main(STAGE)
