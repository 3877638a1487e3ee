"""What a model did when it was prompted, steered or left alone: figures per variant, and the texts."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.inference.rolling.tables import as_frame, as_records, per_variant
from traitscope.utils.records.rollouts import PLAIN, SCORES, Rollouts, read_rollouts
from traitscope.visualization.library import Library, NotThereError, readable

TEXT = ["variant", "question", "rollout", "system_prompt_text", "response", "is_finished", "words"]


class Figures(BaseModel):
    """One score of a variant: its mean over questions and its difference to plain, both with 95 % intervals, and how
    many texts are in which state. Null where nothing is known.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    difference_n: int
    scored: int
    refused: int
    unscored: int
    unasked: int


class VariantItem(BaseModel):
    """One thing that was done to the model."""

    variant: str
    arm: str
    method: str | None
    layer: int | None
    dose: float | None
    coefficient: float | None
    norm: float | None
    system_prompt: int | None
    questions: int
    rows: int
    words: float
    finished: float
    scores: dict[str, Figures]


class RolloutsPage(BaseModel):
    """A trait's rollouts; no variants where nothing was rolled out."""

    trait: str
    models: list[str]
    questions: int
    scored_by: dict[str, dict[str, Any]]
    variants: list[VariantItem]


class Scored(BaseModel):
    """A score, or why there is none; a state of null is a text that nobody was asked about."""

    value: float | None
    state: str | None


class RolloutText(BaseModel):
    """One text of a variant."""

    question: str
    rollout: int
    system_prompt: str | None
    response: str
    is_finished: bool
    words: int
    scores: dict[str, Scored]


class RolloutTexts(BaseModel):
    """A variant's texts, and those of plain."""

    variant: str
    texts: list[RolloutText]
    plain: list[RolloutText]


def router(library: Library) -> APIRouter:
    """Return the routes of the view of rollouts."""
    routes = APIRouter(prefix="/experiments/{experiment}/rollouts", tags=["rollouts"])

    def read(experiment: str, trait: str) -> Rollouts:
        paths = library.trait(experiment, trait)
        with readable(paths.rollouts, "roll out again"):
            return read_rollouts(paths)

    @routes.get("")
    def show_rollouts(experiment: str, trait: str) -> RolloutsPage:
        """Return what every variant did to a trait's scores."""
        found = read(experiment, trait)
        rows = as_frame(found)
        table = as_records(per_variant(rows)) if len(rows) else []
        return RolloutsPage(
            trait=trait,
            models=list(dict.fromkeys(rows["model"])),
            questions=int(rows["question"].nunique()),
            scored_by=found.scored_by,
            variants=[_item(row) for row in table],
        )

    @routes.get("/texts")
    def show_rolled_out(experiment: str, trait: str, variant: str) -> RolloutTexts:
        """Return a variant's texts with their scores, question by question, and those of plain."""
        found = read(experiment, trait)
        columns = [*TEXT, *(f"{name}_{what}" for name in SCORES for what in ("score", "state"))]
        names = found.column("variant")
        if variant not in names:
            raise NotThereError(f"no variant {variant!r} among the rollouts of {trait}")
        mine, plain = (found.take([name == wanted for name in names]) for wanted in (variant, PLAIN))
        texts, others = (
            [_text(row) for row in part.rows.select(columns).to_pylist()] for part in (mine, plain)
        )
        return RolloutTexts(variant=variant, texts=texts, plain=[] if variant == PLAIN else others)

    return routes


def _item(row: dict[str, Any]) -> VariantItem:
    scores = {name: _figures(row, name) for name in SCORES}
    return VariantItem.model_validate(row | {"scores": scores})


def _figures(known: dict[str, Any], name: str) -> Figures:
    rest = {field: known[f"{name}_{field}"] for field in Figures.model_fields if field != "mean"}
    return Figures(mean=known[name], **rest)


def _text(row: dict[str, Any]) -> RolloutText:
    scores = {name: Scored(value=row[f"{name}_score"], state=row[f"{name}_state"]) for name in SCORES}
    own = {name: row[name] for name in ("question", "rollout", "response", "is_finished", "words")}
    return RolloutText(**own, system_prompt=row["system_prompt_text"], scores=scores)
