"""What there is: experiments, and each trait's figures and freshness."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.extraction.report.summary import summarise
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.shaped import read_shaped
from traitscope.utils.records.vectors import Separation
from traitscope.utils.records.verdict import AnswersBeside, Interval, Layers
from traitscope.utils.stage.experiment import resolve_settings
from traitscope.utils.stage.flags import option_flags, pick
from traitscope.utils.stage.manifest import read_manifest
from traitscope.visualization.freshness import StageState, stage_states
from traitscope.visualization.library import MALFORMED, Library, NotThereError, readable, readable_trait


class HeldOut(Separation):
    """The best vector by held-out AUROC."""

    method: str
    layer: int
    best_of: int


class TraitSummary(BaseModel):
    """One trait's results as they stand on disk; null for what no completed stage has left there."""

    trait: str
    scenario_pass_rate: float | None
    response_pass_rate: float | None
    vectors: int
    held_out: HeldOut | None
    method: str | None
    layer: Layers | None
    dose: float | None
    effect: Interval | None
    odd_part: Interval | None
    z: float | None
    p: float | None
    coherence_before: float | None
    coherence_after: float | None
    verdict: str | None
    why: str | None
    example: AnswersBeside | None


class TraitStatus(BaseModel):
    """A trait of an experiment: how its stages stand and what they found, or why that cannot be read."""

    trait: str
    stages: list[StageState]
    summary: TraitSummary | None
    problem: str = ""


class ExperimentItem(BaseModel):
    """An experiment in the list of all: what it is, or why that cannot be read."""

    name: str
    model: str | None = None
    judge: str | None = None
    traits: list[str] = []
    updated: str | None = None  # ISO 8601, when its last stage finished
    problem: str = ""


class ExperimentPage(ExperimentItem):
    """An experiment with its traits."""

    config: dict[str, Any] = {}
    cards: list[TraitStatus] = []


class Config(BaseModel):
    """config.json: the settings that the experiment keeps."""

    model_config = {"extra": "allow"}
    model: str | None = None
    judge: str | None = None


def router(library: Library) -> APIRouter:
    """Return the routes of the overview."""
    routes = APIRouter(tags=["overview"])

    @routes.get("/experiments")
    def list_experiments() -> list[ExperimentItem]:
        """Return every experiment."""
        return [_item(library, name) for name in library.experiments()]

    @routes.get("/experiments/{experiment}")
    def show_experiment(experiment: str) -> ExperimentPage:
        """Return one experiment: its settings, and per trait the figures and the freshness of every stage."""
        if experiment not in library.experiments():
            raise NotThereError(f"there is no experiment {experiment!r}")
        try:
            return _page(library, library.experiment(experiment))
        except UserError as error:
            return ExperimentPage(name=experiment, problem=library.relative(str(error)))

    @routes.get("/experiments/{experiment}/card")
    def show_status(experiment: str, trait: str) -> TraitStatus:
        """Return one trait of an experiment, without the cost of the others."""
        paths = library.experiment(experiment)
        if trait not in library.traits(paths):
            raise NotThereError(f"{experiment!r} has no results for a trait {trait!r}")
        return _status(library, paths, trait, thresholds_of(paths))

    return routes


def thresholds_of(paths: ExperimentPaths) -> Thresholds:
    """Return where a score counts as passed in an experiment."""
    with readable(paths.dir, "mend its config.json"):
        return pick(Thresholds, resolve_settings(paths, option_flags(Thresholds), {}))


def _item(library: Library, name: str) -> ExperimentItem:
    """Return how an experiment stands; one that is damaged must not cost the sight of the others."""
    try:
        return _about(library, library.experiment(name))
    except UserError as error:
        return ExperimentItem(name=name, problem=library.relative(str(error)))


def _page(library: Library, paths: ExperimentPaths) -> ExperimentPage:
    about, thresholds = _about(library, paths), thresholds_of(paths)
    cards = [_status(library, paths, trait, thresholds) for trait in about.traits]
    config = _config(paths).model_dump(exclude_unset=True)
    return ExperimentPage(**about.model_dump(), config=config, cards=cards)


def _about(library: Library, paths: ExperimentPaths) -> ExperimentItem:
    with readable(paths.dir, "mend its config.json, or delete it"):
        config = _config(paths)
        manifests = _manifests(library, paths)
        finished = [done["finished"] for done in manifests if isinstance(done.get("finished"), str)]
        judges = (done["params"].get("judge") for done in manifests)

        return ExperimentItem(
            name=paths.experiment,
            model=config.model,
            judge=config.judge or next((j for j in judges if j and isinstance(j, str)), None),
            traits=library.traits(paths),
            updated=max(finished, default=None),
        )


def _config(paths: ExperimentPaths) -> Config:
    return read_shaped(paths.config, Config) if paths.config.exists() else Config()


def _manifests(library: Library, paths: ExperimentPaths) -> list[dict[str, Any]]:
    """Return the manifests that can be read; what is wrong with another stands on its trait's card."""
    found = []
    for file in paths.dir.glob("extraction/**/stages/*.json"):
        with suppress(UserError, *MALFORMED):
            library.require_file(file)
            found.append(read_manifest(file))
    return [done for done in found if isinstance(done, dict)]


def _status(library: Library, experiment: ExperimentPaths, trait: str, thresholds: Thresholds) -> TraitStatus:
    """Return how a trait stands; one damaged trait must not cost the sight of the others."""
    try:
        paths = library.trait_of(experiment, trait)
        with readable_trait(paths):
            return TraitStatus(
                trait=trait,
                stages=stage_states(library, paths),
                summary=TraitSummary.model_validate(summarise(paths, paths, thresholds)),
            )
    except UserError as error:
        return TraitStatus(trait=trait, stages=[], summary=None, problem=library.relative(str(error)))
