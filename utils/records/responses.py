"""Responses on disk: one row per response, with the token ids that were fed and written."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.judge import Answer
from traitscope.utils.model.encode import Prompt, text_of
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.shaped import Shaped, read_shaped, require_distinct, require_own


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

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        assert self.key == f"{self.side}:{self.pair}:{self.rollout}", f"{self.key} is another row's key"
        return self


class ResponseFile(Shaped):
    """The columns of responses/{side}.json."""

    trait: str = ""
    side: str = ""
    made_by: dict[str, Any] = {}
    rows: list[Response]

    @model_validator(mode="after")
    def _is_of_one_side(self) -> Self:
        assert isinstance(self.made_by.get("model") or {}, dict), "made_by.model is no identity of a model"
        assert len({row.side for row in self.rows}) < 2, "rows of both sides"
        return self


def write_responses(paths: TraitPaths, responses: Sequence[Response], made_by: dict) -> None:
    """Write both sides' files."""
    for side in SIDES:
        write_json(
            paths.responses(side),
            {
                "trait": paths.trait,
                "side": side,
                "made_by": made_by,
                "rows": [asdict(r) for r in responses if r.side == side],
            },
        )


def response_digests(paths: TraitPaths) -> dict[str, str | None]:
    """Return the digests of both files: what later data say they come from."""
    return {side: digest(paths.responses(side)) for side in SIDES}


def read_origin(paths: TraitPaths) -> dict:
    """Return the identity of the model that wrote the responses."""
    return _read_side(paths, "pos").made_by.get("model") or {}


def read_responses(paths: TraitPaths) -> list[Response]:
    """Read both sides.

    Raises:
        UserError: a file is missing, damaged or empty.
    """
    responses: list[Response] = []
    for side in SIDES:
        rows = _read_side(paths, side).rows
        if not rows:
            raise UserError(
                f"{paths.responses(side)} has no responses; check the {side} side of {paths.trait}, then "
                "run 1_generate_responses"
            )
        responses += rows

    return responses


def _read_side(paths: TraitPaths, side: str) -> ResponseFile:
    file = paths.responses(side)
    found = read_shaped(file, ResponseFile)
    own = found.rows[0].side if found.rows else side
    require_own(file, trait=(found.trait, paths.trait), side=(found.side, side), rows_of_side=(own, side))
    require_distinct(file, [row.key for row in found.rows], "response")
    return found


def answers_of(dataset: TraitDataset, responses: list[Response]) -> list[Answer]:
    """Return responses as a judge sees them, each with the family of the dataset's text that its prompt
    belongs to.
    """
    families = {
        (item.side, item.pair): dataset.rubric.examples[item.example].family for item in dataset.items
    }
    return [Answer(text_of(r.prompt), r.response, families.get((r.side, r.pair))) for r in responses]
