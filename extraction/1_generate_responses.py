"""Stage 1: let the model continue the scenarios, or answer the questions, of both sides.

For example:

    python extraction/1_generate_responses.py --experiment demo --traits behavioral/formality
"""

import runpy
from pathlib import Path
from typing import Annotated

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.files.paths import GENERATE, SIDES, TraitPaths
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.generation import Completion, Row, Sampling, Work, generate
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.dataset import Item, read_trait
from traitscope.utils.records.dataset_files import prompt_files
from traitscope.utils.records.responses import Response, write_responses
from traitscope.utils.records.scores import Thresholds, failed_scenarios
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.stage import Stage


def generate_responses(
    paths: TraitPaths,
    *,
    model: ModelOptions,
    sampling: Sampling,
    thresholds: Thresholds,
    rollouts: Annotated[int, "Responses per prompt; more than one needs a temperature above 0."] = 1,
    seed: Annotated[int, "With a temperature, fixes every row's text."] = 0,
    drop_failed_scenarios: Annotated[bool, "Leave out the scenarios that failed stage 0."] = False,
) -> dict:
    """Generate a response to every prompt of both sides; a trait that comes with its answers only has
    them tokenised.
    """
    if rollouts > 1 and sampling.temperature == 0:
        raise UserError("--rollouts above 1 needs --temperature above 0: greedy rollouts are all the same")

    items = read_trait(paths).items
    dropped = failed_scenarios(paths, thresholds) if drop_failed_scenarios else set()
    kept = [item for item in items if item.example not in dropped]
    asked = [(item, rollout) for item in kept for rollout in range(1 if item.response else rollouts)]

    lm = load_lm(model)
    rows = [Row(encode(lm, item.prompt), _row_seed(seed, item, rollout)) for item, rollout in asked]
    work = Work(Journal(paths.journal(GENERATE)), f"{GENERATE} {paths.trait}")
    to_write = [row for row, (item, _) in zip(rows, asked, strict=True) if item.response is None]
    completions = generate(lm, to_write, sampling, work=work)
    written = iter(completions)

    responses = [
        _response(lm, item, rollout, row.prompt_ids, _given(lm, item) or next(written))
        for row, (item, rollout) in zip(rows, asked, strict=True)
    ]
    write_responses(
        paths, responses, {"stage": GENERATE, "model": lm.identity, "scenarios_dropped": len(dropped)}
    )

    sides = {f"{side} responses": sum(r.side == side for r in responses) for side in SIDES}
    return sides | {
        "finished": sum(r.is_finished for r in responses),
        "empty": sum(not r.response_ids for r in responses),
        **_unanswered(completions),
    }


def _unanswered(completions: list[Completion]) -> dict:
    """Return how many texts ended in the middle of a thought, where there are any."""
    count = sum(bool(c.thought) and not c.ids for c in completions)
    return {"thoughts without an answer (raise --max-new-tokens)": count} if count else {}


def _row_seed(seed: int, item: Item, rollout: int) -> int:
    return int(key_of(seed, item.side, item.pair, rollout), 16) % 2**31


def _given(lm: LM, item: Item) -> Completion | None:
    return Completion(encode_text(lm, item.response), True) if item.response is not None else None


def _response(lm: LM, item: Item, rollout: int, prompt_ids: list[int], completion: Completion) -> Response:
    text = item.response or lm.tokenizer.decode(completion.ids, skip_special_tokens=True)
    key = f"{item.side}:{item.pair}:{rollout}"
    about = (key, item.side, item.pair, item.group, rollout, item.prompt, text)
    return Response(*about, prompt_ids + completion.thought, completion.ids, completion.is_finished)


def _inputs(paths: TraitPaths, params: dict) -> list[Path]:
    return [*prompt_files(paths), *([paths.scenario_scores] if params["drop_failed_scenarios"] else [])]


STAGE = Stage(
    name=GENERATE,
    run=generate_responses,
    inputs=_inputs,
    outputs=lambda paths, params: [paths.responses(side) for side in SIDES],
    only_with={
        "seed": "temperature",
        "pos_threshold": "drop_failed_scenarios",
        "neg_threshold": "drop_failed_scenarios",
    },
)

if __name__ == "__main__":
    command(stage_command(STAGE))
