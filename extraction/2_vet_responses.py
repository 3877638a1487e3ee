"""Stage 2: does each response show the trait's side it was asked for?"""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with
from extraction.responses import Response, read_responses, response_digests
from extraction.trait_files import dataset_files
from extraction.traits import TraitDataset, read_trait
from extraction.vetting import Thresholds, rate_per_side
from utils.artifacts import write_json
from utils.experiment import stage_main
from utils.judge import Answer, JudgeOptions, count_states, load_judge
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage


def vet_responses(paths: TraitPaths, *, judge: JudgeOptions, thresholds: Thresholds) -> dict:
    """Judge every response for the trait. Scores are stored; thresholds are applied where scores are used."""
    dataset, responses = read_trait(paths), read_responses(paths)
    grader = load_judge(judge, dataset.rubric)
    scores = grader.score_responses(_answers(dataset, responses))
    rows = [{"key": r.key, "side": r.side, **s.as_json()} for r, s in zip(responses, scores, strict=True)]
    header = {"judge": grader.identity, "responses_sha256": response_digests(paths), "states": count_states(scores)}
    write_json(paths.response_scores, header | {"rows": rows})
    rates = rate_per_side([(r.side, s) for r, s in zip(responses, scores, strict=True)], thresholds)
    return {"responses": len(rows), **rates, "unscored": sum(s.value is None for s in scores)}


def _answers(dataset: TraitDataset, responses: list[Response]) -> list[Answer]:
    groups = {(item.side, item.pair): dataset.rubric.examples[item.example].group for item in dataset.items}
    return [Answer(r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"], r.response, groups.get((r.side, r.pair))) for r in responses]


STAGE = Stage(
    name="2_vet_responses",
    run=vet_responses,
    inputs=lambda paths, params: [*dataset_files(paths), *(paths.responses(side) for side in SIDES)],
    outputs=lambda paths, params: [paths.response_scores],
    cosmetic=("pos_threshold", "neg_threshold"),
)

if __name__ == "__main__":
    stage_main(STAGE)
