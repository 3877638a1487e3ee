"""What stage 5 left of a trait: the search, the verdict, the null, and every text that was written."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from extraction.traits import read_trait
from utils.judge import Rubric
from utils.judge.prompts import COHERENCE, SCENARIO, SYSTEM, TRAIT, prompt_id
from utils.paths import TraitPaths
from visualization.api.overview import Interval
from visualization.artifacts import NotThereError, Store

Layer = int | list[int]  # a list for several layers steered at once


class Cell(BaseModel):
    """One method, place and dose that was tried on dev, with its scores in points (0 to 100)."""

    cell: str = ""
    method: str
    layer: Layer
    dose: float
    coefficient: float | list[float]
    operation: str = "add"
    n: int
    effect: float | None
    effect_low: float | None = None
    effect_high: float | None = None
    odd_part: float | None
    coherence: float | None


class Chosen(BaseModel):
    """The cell that the dev questions chose."""

    method: str
    layer: Layer
    dose: float
    coefficient: float | list[float]
    positions: str
    operation: str = "add"


class Null(BaseModel):
    """The random directions' odd parts, and where the vector stands among them."""

    n: int
    spread: float
    range: tuple[float, float]
    z: float
    p: float
    odd_parts: list[float]
    selected: dict[str, float] | None = None


class Strongest(BaseModel):
    """The largest dose that kept the text coherent, where it is not the chosen one."""

    method: str
    layer: Layer
    dose: float
    effect: Interval | None
    odd_part: Interval | None


class Results(BaseModel):
    """Stage 5's results."""

    trait: str
    chosen: Chosen
    wanted: int = 1
    verdict: str
    why: str
    n_questions: int
    effect: Interval | None
    effect_minus: Interval | None
    odd_part: Interval | None
    permutation_p: float | None = None
    random: Null | None
    shuffled_labels_odd_part: Interval | None
    system_prompt_effect: Interval | None
    coherence: dict[str, float | None]
    strongest: Strongest | None = None
    judge: dict[str, Any]
    coherence_judge: dict[str, Any]
    made_by: dict[str, Any]
    residual_norms: list[float]
    questions: dict[str, list[str]]
    dev: list[Cell]


class Given(BaseModel):
    """A score as it was given."""

    value: float | None
    state: str
    detail: str = ""


class WrittenText(BaseModel):
    """One answer with its scores."""

    arm: str
    question: str
    system_prompt: str = ""
    response: str
    trait: Given
    coherence: Given | None


class TextFile(BaseModel):
    """Every text of a part."""

    rows: list[WrittenText]


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


def router(store: Store) -> APIRouter:
    """Return the routes of the steering view."""
    routes = APIRouter(prefix="/experiments/{experiment}/steering", tags=["steering"])

    @routes.get("")
    def show_steering(experiment: str, trait: str) -> Results:
        """The search on dev, and the verdict on test."""
        return store.read(_steered(store, experiment, trait).steering_results, Results)

    @routes.get("/texts")
    def show_texts(experiment: str, trait: str, part: Literal["dev", "test"], arm: str) -> SideBySide:
        """One arm's answers beside the unsteered ones, in the order of the questions."""
        rows = store.read(_steered(store, experiment, trait).steering_responses(part), TextFile).rows
        arms = list(dict.fromkeys(row.arm for row in rows))
        if arm not in arms:
            raise NotThereError(f"no arm {arm!r} among the texts of {part}")
        unsteered, steered = ([row for row in rows if row.arm == name] for name in ("unsteered", arm))
        return SideBySide(arms=arms, arm=arm, unsteered=unsteered, steered=steered)

    @routes.get("/judging")
    def show_judging(experiment: str, trait: str) -> Judging:
        """The trait's definition, its own judge prompt, and what the judge was asked."""
        paths = _steered(store, experiment, trait)
        results, dataset = store.read(paths.steering_results, Results), read_trait(paths)
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

    return routes


def _steered(store: Store, experiment: str, trait: str) -> TraitPaths:
    paths = store.trait(experiment, trait)
    if not paths.manifest("5_steer_evaluate").exists():
        raise NotThereError(f"{trait} has no completed 5_steer_evaluate in {experiment}")
    return paths


def _wording(name: str, rubric: Rubric) -> str | None:
    """Return the text of a judge's prompt by its name, if it still reads as it did."""
    built_in = {prompt_id(kind, text): f"{SYSTEM}\n\n{text}" for kind, text in (("trait", TRAIT), ("scenario", SCENARIO), ("coherence", COHERENCE))}
    own = {prompt_id("eval_prompt", rubric.eval_prompt): rubric.eval_prompt} if rubric.eval_prompt else {}
    return (built_in | own).get(name)
