"""Captured prompt sets: the prompts, every token's projections, and the same tokens read by another model."""

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import InferencePaths, check_name
from traitscope.utils.records.comparisons import VectorName, list_compared, list_groups
from traitscope.utils.records.courses import read_dynamics
from traitscope.utils.records.readings import Projections, read_own_projections
from traitscope.utils.records.recorded import Record, read_index, read_recorded
from traitscope.visualization.api.curves import Compared, Course, CourseQuery, make_comparison, make_course
from traitscope.visualization.library import Library, NotThereError
from traitscope.visualization.recall import read_prompts, readable_set, recall_comparison


class PromptSetItem(BaseModel):
    """A captured prompt set in the list of all: what it is, or why that cannot be read."""

    name: str
    description: str = ""
    prompts: int = 0
    problem: str = ""


class ShownPrompt(BaseModel):
    """One prompt with its response, as texts."""

    id: str
    prompt: str | list[dict[str, str]]
    response: str
    is_finished: bool
    n_tokens: int
    metadata: dict[str, Any]
    values: dict[str, str]  # of the fields by which prompts can be told apart, as texts


class Split(BaseModel):
    """A comparison of two groups that compare_groups left."""

    by: str
    how: str
    groups: dict[str, list[str]]


class PromptsPage(BaseModel):
    """A prompt set, with what it can be split by and compared with."""

    name: str
    description: str
    prompts: list[ShownPrompt]
    fields: dict[str, dict[str, int]]  # field → how many prompts have each value
    splits: list[Split]
    others: list[str]  # experiments whose model read the same tokens


class CoursePage(BaseModel):
    """A prompt and its response, token by token."""

    id: str
    tokens: list[str]
    prompt_tokens: int
    turns: list[dict[str, Any]]
    vectors: list[VectorName]
    courses: list[Course]


class ComparisonPage(BaseModel):
    """Two models on the same tokens."""

    experiment: str
    other: str
    over: str
    n_prompts: int
    vectors: list[Compared]


def router(library: Library) -> APIRouter:
    """Return the routes of the trait dynamics view."""
    routes = APIRouter(prefix="/experiments/{experiment}", tags=["dynamics"])

    @routes.get("/prompt-sets")
    def list_prompt_sets(experiment: str) -> list[PromptSetItem]:
        """Return every prompt set that was captured."""
        return [_listed(library, experiment, name) for name in library.prompt_sets(experiment)]

    @routes.get("/prompts")
    def show_prompts(experiment: str, prompt_set: str) -> PromptsPage:
        """Return every recorded prompt with its response."""
        return _prompts_page(library.prompt_set(experiment, prompt_set))

    @routes.get("/course")
    def show_course(experiment: str, prompt_set: str, how: Annotated[CourseQuery, Query()]) -> CoursePage:
        """Return one prompt and its response, token by token, on several traits' vectors."""
        paths = library.prompt_set(experiment, prompt_set)
        record, scores = _read(paths, how.prompt)
        shown = [
            s for s, is_shown in zip(scores, how.choose([s.origin for s in scores]), strict=True) if is_shown
        ]

        for scored in shown:  # the trait becomes the name of a file
            check_name("trait", scored.origin["trait"], range(2, 6))
        with readable_set(paths):
            text = {name: getattr(record, name) for name in ("id", "tokens", "prompt_tokens", "turns")}
            return CoursePage(
                **text,
                vectors=[VectorName(**s.origin) for s in scores],
                courses=[make_course(record, s, how, read_dynamics(paths, s.origin["trait"])) for s in shown],
            )

    @routes.get("/comparison")
    def show_comparison(
        experiment: str, prompt_set: str, other: str, how: Annotated[CourseQuery, Query()]
    ) -> ComparisonPage:
        """Return how another model's projections of the same tokens differ."""
        paths = library.prompt_set(experiment, prompt_set)
        if other not in list_compared(paths):
            raise NotThereError(f"{experiment!r} and {other!r} have not been compared on {prompt_set!r}")

        record, scores = _read(paths, how.prompt)
        found = recall_comparison(paths, other)

        with readable_set(paths):
            names = [row.model_dump(include={"trait", "method", "layer"}) for row in found.vectors]
            rows = [row for row, is_shown in zip(found.vectors, how.choose(names), strict=True) if is_shown]
            compared = [make_comparison(row, record, scores, how) for row in rows]
            return ComparisonPage(**found.model_dump(exclude={"vectors"}), vectors=compared)

    return routes


def _prompts_page(paths: InferencePaths) -> PromptsPage:
    prompts = read_prompts(paths)
    with readable_set(paths):
        fields = count_fields(prompts)
        listed = [
            p | {"values": {name: str(p["metadata"][name]) for name in fields if name in p["metadata"]}}
            for p in prompts
        ]

        return PromptsPage(
            **_item(paths).model_dump() | {"prompts": listed},
            fields=fields,
            splits=_splits(paths),
            others=list_compared(paths),
        )


def count_fields(prompts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how often each value of each field occurs, as texts; fields whose values hardly ever repeat
    are left out.
    """
    names = dict.fromkeys(name for p in prompts for name in p["metadata"])
    counts = {
        name: Counter(str(p["metadata"][name]) for p in prompts if name in p["metadata"]) for name in names
    }
    return {
        name: dict(sorted(c.items()))
        for name, c in counts.items()
        if 1 < len(c) <= max(2, min(40, sum(c.values()) // 2))
    }


def _listed(library: Library, experiment: str, name: str) -> PromptSetItem:
    """Return how a prompt set stands; one that is damaged must not cost the sight of the others."""
    try:
        return _item(library.prompt_set(experiment, name))
    except UserError as error:
        return PromptSetItem(name=name, problem=library.relative(str(error)))


def _item(paths: InferencePaths) -> PromptSetItem:
    with readable_set(paths):
        index = read_index(paths)
        return PromptSetItem(
            name=paths.prompt_set, description=index.prompt_set.description, prompts=len(index.prompts)
        )


def _splits(paths: InferencePaths) -> list[Split]:
    return [Split(by=groups.by, how=groups.how, groups=groups.groups) for groups in list_groups(paths)]


def _read(paths: InferencePaths, prompt: str) -> tuple[Record, list[Projections]]:
    if prompt not in {p["id"] for p in read_prompts(paths)}:
        raise NotThereError(f"{paths.prompt_set!r} has no response to a prompt {prompt!r}")

    with readable_set(paths):
        index = read_index(paths)
        record = read_recorded(paths, prompt, index)
        scores = read_own_projections(paths, record, index.reader)
    if any(len(s.raw) != len(record.ids) for s in scores):
        raise UserError(
            f"{paths.projections(prompt)} is of other tokens than the response; run "
            "inference/project_activations.py"
        )

    return record, scores
