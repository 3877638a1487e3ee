"""Stage 1: let the model continue the scenarios, or answer the questions, of both sides."""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from extraction.responses import Response, write_responses
from extraction.trait_files import prompt_files
from extraction.traits import Item, read_trait
from extraction.vetting import Thresholds, failed_scenarios
from utils.errors import UserError
from utils.experiment import stage_main
from utils.generation import Completion, Row, Sampling, Work, generate
from utils.journal import Journal, key_of
from utils.model import LM, ModelOptions, encode, encode_text, load_lm
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage

NAME = "1_generate_responses"


def generate_responses(
    paths: TraitPaths,
    *,
    lm: ModelOptions,
    sampling: Sampling,
    thresholds: Thresholds,
    rollouts: int = 1,
    seed: int = 0,
    drop_failed_scenarios: bool = False,
) -> dict:
    """Generate a response to every prompt of both sides; a trait that comes with its answers only has them tokenised.

    Args:
        rollouts: Responses per prompt; more than one needs a temperature above 0.
        seed: With a temperature, fixes every row's text.
        drop_failed_scenarios: Leave out the scenarios that failed stage 0.
    """
    if rollouts > 1 and sampling.temperature == 0:
        raise UserError("--rollouts above 1 needs --temperature above 0: greedy rollouts are all the same")
    items = read_trait(paths).items
    dropped = failed_scenarios(paths, thresholds) if drop_failed_scenarios else set()
    asked = [(item, rollout) for item in items if item.example not in dropped for rollout in range(1 if item.response else rollouts)]
    model = load_lm(lm)
    journal = Journal(paths.journal(NAME))
    rows = [Row(encode(model, item.prompt), int(key_of(seed, item.side, item.pair, rollout), 16) % 2**31) for item, rollout in asked]
    work = Work(journal, f"{NAME} {paths.trait}")
    written = iter(generate(model, [row for row, (item, _) in zip(rows, asked, strict=True) if item.response is None], sampling, work=work))
    responses = [
        _response(model, item, rollout, row.prompt_ids, _given(model, item) or next(written)) for row, (item, rollout) in zip(rows, asked, strict=True)
    ]
    write_responses(paths, responses, {"stage": NAME, "model": model.identity, "scenarios_dropped": len(dropped)})
    sides = {f"{side} responses": sum(r.side == side for r in responses) for side in SIDES}
    return sides | {"finished": sum(r.is_finished for r in responses), "empty": sum(not r.response_ids for r in responses)}


def _given(model: LM, item: Item) -> Completion | None:
    return Completion(encode_text(model, item.response), True) if item.response is not None else None


def _response(model: LM, item: Item, rollout: int, prompt_ids: list[int], completion: Completion) -> Response:
    text = item.response or model.tokenizer.decode(completion.ids, skip_special_tokens=True)
    key = f"{item.side}:{item.pair}:{rollout}"
    return Response(key, item.side, item.pair, item.group, rollout, item.prompt, text, prompt_ids, completion.ids, completion.is_finished)


STAGE = Stage(
    name=NAME,
    run=generate_responses,
    inputs=lambda paths, params: [*prompt_files(paths), *([paths.scenario_scores] if params["drop_failed_scenarios"] else [])],
    outputs=lambda paths, params: [paths.responses(side) for side in SIDES],
    only_with={"seed": "temperature", "pos_threshold": "drop_failed_scenarios", "neg_threshold": "drop_failed_scenarios"},
)

if __name__ == "__main__":
    stage_main(STAGE)
