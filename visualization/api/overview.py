"""What there is: experiments, and each trait's figures and freshness."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.extraction.report.summary import summarise
from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.shaped import read_shaped
from traitscope.utils.records.vectors import Separation
from traitscope.utils.records.verdict import AnswersBeside, Interval, Layers
from traitscope.utils.stage.experiment import resolve_settings
from traitscope.utils.stage.flags import option_flags, pick
from traitscope.utils.stage.stage import read_manifest
from traitscope.visualization.freshness import StageState, stage_states
from traitscope.visualization.library import MALFORMED, Library, NotThereError


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
    """An experiment in the list of all."""

    name: str
    model: str | None
    judge: str | None
    traits: list[str]
    updated: str | None  # ISO 8601, when its last stage finished


class ExperimentPage(ExperimentItem):
    """An experiment with its traits."""

    config: dict[str, Any]
    cards: list[TraitStatus]


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
        return [_item(library, library.experiment(name)) for name in library.experiments()]

    @routes.get("/experiments/{experiment}")
    def show_experiment(experiment: str) -> ExperimentPage:
        """Return one experiment: its settings, and per trait the figures and the freshness of every stage."""
        paths = library.experiment(experiment)
        cards = [
            _status(library, TraitPaths(experiment, trait, library.root), thresholds_of(paths))
            for trait in paths.traits
        ]
        return ExperimentPage(
            **_item(library, paths).model_dump(),
            config=_config(library, paths).model_dump(exclude_unset=True),
            cards=cards,
        )

    @routes.get("/experiments/{experiment}/card")
    def show_status(experiment: str, trait: str) -> TraitStatus:
        """Return one trait of an experiment, without the cost of the others."""
        paths = library.experiment(experiment)
        if trait not in paths.traits:
            raise NotThereError(f"{experiment!r} has no results for a trait {trait!r}")
        return _status(library, TraitPaths(experiment, trait, library.root), thresholds_of(paths))

    return routes


def thresholds_of(paths: ExperimentPaths) -> Thresholds:
    """Return where a score counts as passed in an experiment."""
    return pick(Thresholds, resolve_settings(paths, option_flags(Thresholds), {}))


def _config(library: Library, paths: ExperimentPaths) -> Config:
    if not paths.config.exists():
        return Config()
    library.require_inside(paths.config)
    return read_shaped(paths.config, Config)


def _item(library: Library, paths: ExperimentPaths) -> ExperimentItem:
    config = _config(library, paths)
    manifests = [
        read_manifest(path)
        for path in paths.dir.glob("extraction/**/stages/*.json")
        if library.is_inside(path)
    ]
    finished = [
        done["finished"]
        for done in manifests
        if isinstance(done, dict) and isinstance(done.get("finished"), str)
    ]
    judge = config.judge or next(
        (j for done in manifests if isinstance(done, dict) and (j := done["params"].get("judge"))), None
    )

    return ExperimentItem(
        name=paths.experiment,
        model=config.model,
        judge=judge,
        traits=paths.traits,
        updated=max(finished, default=None),
    )


def _status(library: Library, paths: TraitPaths, thresholds: Thresholds) -> TraitStatus:
    """Return how a trait stands; one damaged trait must not cost the sight of the others."""
    try:
        library.check_links(paths)
        return TraitStatus(
            trait=paths.trait,
            stages=stage_states(paths),
            summary=TraitSummary.model_validate(summarise(paths, paths, thresholds)),
        )
    except UserError as error:
        problem = str(error)
    except MALFORMED as error:
        problem = (
            f"a file of {paths.trait} is not what its stage writes ({first_line(error)}); run the stage "
            "again with --force"
        )
    return TraitStatus(trait=paths.trait, stages=[], summary=None, problem=library.relative(problem))
