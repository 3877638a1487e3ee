"""Stage 2: does each response show the trait's side it was asked for?

For example:

    python extraction/2_vet_responses.py --experiment demo --traits behavioral/formality
"""

import runpy
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.utils.files.paths import SIDES, VET_RESPONSES, TraitPaths
from traitscope.utils.judge import JudgeOptions, load_judge
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.responses import answers_of, read_responses
from traitscope.utils.records.scores import Thresholds, rate_per_side, write_response_scores
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.stage import Stage


def vet_responses(paths: TraitPaths, *, judging: JudgeOptions, thresholds: Thresholds) -> dict:
    """Judge every response for the trait. Scores are stored; thresholds are applied where scores are used."""
    dataset, responses = read_trait(paths), read_responses(paths)
    judge = load_judge(judging, dataset.rubric, paths.spending)
    scores = judge.score_responses(answers_of(dataset, responses))
    used = write_response_scores(paths, responses, scores, judge, judging.max_unjudged)

    rates = rate_per_side([(r.side, s) for r, s in zip(responses, scores, strict=True)], thresholds)
    return {"responses": len(responses), **rates, "unscored": sum(s.value is None for s in scores), **used}


STAGE = Stage(
    name=VET_RESPONSES,
    version=2,
    run=vet_responses,
    inputs=lambda paths, params: [*dataset_files(paths), *(paths.responses(side) for side in SIDES)],
    outputs=lambda paths, params: [paths.response_scores],
    cosmetic=("pos_threshold", "neg_threshold"),
)

if __name__ == "__main__":
    command(stage_command(STAGE))
