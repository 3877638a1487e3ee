"""What there is: experiments, and each trait's figures and freshness."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from extraction.summary import summarise
from extraction.vetting import Thresholds
from utils.errors import UserError, first_line
from utils.experiment import resolve_settings
from utils.flags import option_flags, pick
from utils.paths import ExperimentPaths, TraitPaths
from utils.stage import read_manifest
from visualization.artifacts import MALFORMED, NotThereError, Store
from visualization.freshness import StageState, stage_states


class Interval(BaseModel):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


class Separation(BaseModel):
    """How well a vector separates the two sides, with 95 % intervals."""

    auroc: float
    auroc_low: float
    auroc_high: float
    cohens_d: float
    cohens_d_low: float | None = None
    cohens_d_high: float | None = None
    n_pos: int
    n_neg: int


class HeldOut(Separation):
    """The best vector by held-out AUROC."""

    method: str
    layer: int
    best_of: int


class Example(BaseModel):
    """One question's answers: the question with the median signal."""

    question: str
    unsteered: str
    plus: str
    minus: str | None = None


class TraitSummary(BaseModel):
    """One trait's results as they stand on disk; null for what no completed stage has left there."""

    trait: str
    scenario_pass_rate: float | None
    response_pass_rate: float | None
    vectors: int
    held_out: HeldOut | None
    method: str | None
    layer: int | list[int] | None
    dose: float | None
    effect: Interval | None
    odd_part: Interval | None
    z: float | None
    p: float | None
    coherence_before: float | None
    coherence_after: float | None
    verdict: str | None
    why: str | None
    example: Example | None


class TraitCard(BaseModel):
    """A trait of an experiment: how its stages stand and what they found, or why that cannot be read."""

    trait: str
    stages: list[StageState]
    summary: TraitSummary | None
    problem: str = ""


class ExperimentItem(BaseModel):
    """An experiment in the list of all."""

    name: str
    model: str | None
    judge: str | None
    traits: list[str]
    updated: str | None  # ISO 8601, when its last stage finished


class ExperimentCard(ExperimentItem):
    """An experiment with its traits."""

    config: dict[str, Any]
    cards: list[TraitCard]


class Config(BaseModel):
    """config.json: the settings that the experiment keeps."""

    model_config = {"extra": "allow"}
    model: str | None = None
    judge: str | None = None


def router(store: Store) -> APIRouter:
    """Return the routes of the overview."""
    routes = APIRouter(tags=["overview"])

    @routes.get("/experiments")
    def list_experiments() -> list[ExperimentItem]:
        """Every experiment."""
        return [_item(store, store.experiment(name)) for name in store.experiments()]

    @routes.get("/experiments/{experiment}")
    def show_experiment(experiment: str) -> ExperimentCard:
        """One experiment: its settings, and per trait the figures and the freshness of every stage."""
        paths = store.experiment(experiment)
        cards = [_card(store, TraitPaths(experiment, trait, store.root), thresholds_of(paths)) for trait in paths.traits]
        return ExperimentCard(**_item(store, paths).model_dump(), config=_config(store, paths).model_dump(exclude_unset=True), cards=cards)

    @routes.get("/experiments/{experiment}/card")
    def show_card(experiment: str, trait: str) -> TraitCard:
        """One trait of an experiment, without the cost of the others."""
        paths = store.experiment(experiment)
        if trait not in paths.traits:
            raise NotThereError(f"{experiment!r} has no results for a trait {trait!r}")
        return _card(store, TraitPaths(experiment, trait, store.root), thresholds_of(paths))

    return routes


def thresholds_of(paths: ExperimentPaths) -> Thresholds:
    """Return where a score counts as passed in an experiment."""
    return pick(Thresholds, resolve_settings(paths, option_flags(Thresholds), {}))


def _config(store: Store, paths: ExperimentPaths) -> Config:
    return store.read(paths.config, Config) if paths.config.exists() else Config()


def _item(store: Store, paths: ExperimentPaths) -> ExperimentItem:
    config = _config(store, paths)
    manifests = [read_manifest(path) for path in paths.dir.glob("extraction/**/stages/*.json") if store.is_inside(path)]
    finished = [done["finished"] for done in manifests if isinstance(done, dict) and isinstance(done.get("finished"), str)]
    judge = config.judge or next((j for done in manifests if isinstance(done, dict) and (j := done["params"].get("judge"))), None)
    return ExperimentItem(name=paths.experiment, model=config.model, judge=judge, traits=paths.traits, updated=max(finished, default=None))


def _card(store: Store, paths: TraitPaths, thresholds: Thresholds) -> TraitCard:
    """Return a trait's card; one damaged trait must not cost the sight of the others."""
    try:
        store.check_links(paths)
        return TraitCard(trait=paths.trait, stages=stage_states(paths), summary=TraitSummary.model_validate(summarise(paths, paths, thresholds)))
    except UserError as error:
        problem = str(error)
    except MALFORMED as error:
        problem = f"a file of {paths.trait} is not what its stage writes ({first_line(error)}); run the stage again with --force"
    return TraitCard(trait=paths.trait, stages=[], summary=None, problem=store.relative(problem))
