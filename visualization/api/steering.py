"""What stage 5 left of a trait: the search, the verdict, the null, and every text that was written."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.utils.files.paths import STEER, TraitPaths
from traitscope.utils.judge import Rubric
from traitscope.utils.judge.prompts import COHERENCE, SCENARIO, SYSTEM, TRAIT, prompt_id
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.verdict import Verdict, WrittenText, read_texts, require_verdict
from traitscope.visualization.library import Library, NotThereError, readable_trait

IDS = {"prompt_ids", "response_ids"}  # of a text: no page shows them


class SideBySide(BaseModel):
    """An arm's answers beside the unsteered ones, by question."""

    arms: list[str]  # every arm of the part
    arm: str
    unsteered: list[WrittenText]
    steered: list[WrittenText]


class Prompt(BaseModel):
    """What a judge was asked, word for word."""

    kind: str
    id: str
    text: str | None  # null where the wording is no longer the one that was asked


class Judging(BaseModel):
    """What the judge went by."""

    definition: str
    eval_prompt: str | None
    direction: str
    judge: dict[str, Any]
    coherence_judge: dict[str, Any]
    prompts: list[Prompt]


def router(library: Library) -> APIRouter:
    """Return the routes of the steering view."""
    routes = APIRouter(prefix="/experiments/{experiment}/steering", tags=["steering"])

    @routes.get("")
    def show_steering(experiment: str, trait: str) -> Verdict:
        """Return the search on dev, and the verdict on test."""
        paths = _steered(library, experiment, trait)
        with readable_trait(paths):
            return require_verdict(paths)

    @routes.get(
        "/texts", response_model_exclude={part: {"__all__": IDS} for part in ("unsteered", "steered")}
    )
    def show_texts(experiment: str, trait: str, part: Literal["dev", "test"], arm: str) -> SideBySide:
        """Return one arm's answers beside the unsteered ones, in the order of the questions."""
        paths = _steered(library, experiment, trait)
        with readable_trait(paths):
            rows = read_texts(paths, part)
        arms = list(dict.fromkeys(row.arm for row in rows))
        if arm not in arms:
            raise NotThereError(f"no arm {arm!r} among the texts of {part}")
        unsteered, steered = ([row for row in rows if row.arm == name] for name in ("unsteered", arm))
        return SideBySide(arms=arms, arm=arm, unsteered=unsteered, steered=steered)

    @routes.get("/judging")
    def show_judging(experiment: str, trait: str) -> Judging:
        """Return the trait's definition, its own judge prompt, and what the judge was asked."""
        paths = _steered(library, experiment, trait)
        with readable_trait(paths):
            return _judging(paths)

    return routes


def _judging(paths: TraitPaths) -> Judging:
    results, dataset = require_verdict(paths), read_trait(paths)
    asked = results.judge.get("prompts") or {}
    rubric = dataset.rubric

    return Judging(
        definition=rubric.definition,
        eval_prompt=rubric.eval_prompt,
        direction=dataset.direction,
        judge=results.judge,
        coherence_judge=results.coherence_judge,
        prompts=[Prompt(kind=kind, id=name, text=_wording(name, rubric)) for kind, name in asked.items()],
    )


def _steered(library: Library, experiment: str, trait: str) -> TraitPaths:
    paths = library.trait(experiment, trait)
    if not paths.has_completed(STEER):
        raise NotThereError(f"{trait} has no completed {STEER} in {experiment}")
    return paths


def _wording(name: str, rubric: Rubric) -> str | None:
    """Return the text of a judge's prompt by its name, if it still reads as it did."""
    built_in = {
        prompt_id(kind, text): f"{SYSTEM}\n\n{text}"
        for kind, text in (("trait", TRAIT), ("scenario", SCENARIO), ("coherence", COHERENCE))
    }
    own = {prompt_id("eval_prompt", rubric.eval_prompt): rubric.eval_prompt} if rubric.eval_prompt else {}
    return (built_in | own).get(name)
