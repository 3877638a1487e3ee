"""Responses on disk: one row per response, with the token ids that were fed and written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import digest, read_json, write_json
from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.judge import Answer
from traitscope.utils.model.encode import Prompt, text_of
from traitscope.utils.records.dataset import TraitDataset


@dataclass(frozen=True)
class Response:
    """One response: the columns of responses/{side}.json."""

    key: str  # side:pair:rollout, unique in the trait
    side: str
    pair: int
    group: int
    rollout: int
    prompt: Prompt
    response: str  # for people; the ids are the record
    prompt_ids: list[int]  # with what a reasoning model thought before its answer, at their end
    response_ids: list[int]
    is_finished: bool  # the model ended the text itself


def write_responses(paths: TraitPaths, responses: Sequence[Response], made_by: dict) -> None:
    """Write both sides' files."""
    for side in SIDES:
        write_json(
            paths.responses(side),
            {"made_by": made_by, "rows": [asdict(r) for r in responses if r.side == side]},
        )


def response_digests(paths: TraitPaths) -> dict[str, str | None]:
    """Return the digests of both files: what later data say they come from."""
    return {side: digest(paths.responses(side)) for side in SIDES}


def read_origin(paths: TraitPaths) -> dict:
    """Return the identity of the model that wrote the responses."""
    return read_json(paths.responses("pos")).get("made_by", {}).get("model", {})


def read_responses(paths: TraitPaths) -> list[Response]:
    """Read both sides.

    Raises:
        UserError: a file is missing, damaged or empty.
    """
    responses: list[Response] = []
    for side in SIDES:
        content = read_json(paths.responses(side))
        try:
            rows = [Response(**row) for row in content["rows"]]
        except (TypeError, KeyError) as error:
            raise UserError(
                f"{paths.responses(side)} is not a response file ({error}); run 1_generate_responses with "
                "--force"
            ) from None
        if not rows:
            raise UserError(
                f"{paths.responses(side)} has no responses; check the {side} side of {paths.trait}, then "
                "run 1_generate_responses"
            )
        responses += rows

    return responses


def answers_of(dataset: TraitDataset, responses: list[Response]) -> list[Answer]:
    """Return responses as a judge sees them, each with the family of the dataset's text that its prompt
    belongs to.
    """
    families = {
        (item.side, item.pair): dataset.rubric.examples[item.example].family for item in dataset.items
    }
    return [Answer(text_of(r.prompt), r.response, families.get((r.side, r.pair))) for r in responses]
