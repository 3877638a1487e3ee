"""What stages 0 to 4 left of a trait: scores with their texts, and how well every vector separates."""

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import VET_RESPONSES, VET_SCENARIOS, TraitPaths
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.responses import Response, read_responses
from traitscope.utils.records.scores import Scores, Thresholds, read_scores
from traitscope.utils.records.vectors import Separation, Vector, list_vectors, read_vector
from traitscope.visualization.api.overview import thresholds_of
from traitscope.visualization.library import Library, NotThereError, readable_trait

Side = Literal["pos", "neg"]


class VettedText(BaseModel):
    """One judged text: a scenario, or a response with its prompt."""

    id: str
    side: Side
    pair: int  # the pos and neg text of one number are contrastive
    prompt: str | list[dict[str, str]]
    response: str | None  # null for a scenario
    value: float | None  # 0 to 100; null where the judge could not say
    state: str
    detail: str = ""
    passed: bool


class Vetting(BaseModel):
    """Every judged text of one stage."""

    judge: dict[str, Any]
    states: dict[str, Any]
    texts: list[VettedText]


class VettingPage(BaseModel):
    """Scenario and response vetting; null for a stage that has not run."""

    pos_threshold: float
    neg_threshold: float
    scenarios: Vetting | None
    responses: Vetting | None


class ShownVector(BaseModel):
    """One vector: how far apart the two sides lie along it, and how well it tells them apart."""

    method: str
    layer: int
    norm: float
    centre: float
    train: Separation | None
    val: Separation | None


class Vectors(BaseModel):
    """Every vector of a trait."""

    component: str
    position: str
    mean_norms: list[float]  # mean ‖h‖ per layer
    best: tuple[str, int] | None  # method and layer of the one that separates held-out responses best
    best_of: int  # … of so many
    best_val: Separation | None  # its held-out figures, with intervals that allow for its being the best
    vectors: list[ShownVector]


class Similarity(BaseModel):
    """Cosines between vectors, each with each."""

    labels: list[str]
    cosines: list[list[float]]
    problems: dict[str, str] = {}  # trait → why its vector cannot be read


def router(library: Library) -> APIRouter:
    """Return the routes of the trait extraction view."""
    routes = APIRouter(prefix="/experiments/{experiment}", tags=["extraction"])

    @routes.get("/vetting")
    def show_vetting(experiment: str, trait: str) -> VettingPage:
        """Return every scenario and every response with its score."""
        paths = library.trait(experiment, trait)
        thresholds = thresholds_of(library.experiment(experiment))
        with readable_trait(paths):
            scenarios, responses = _scenarios(paths, thresholds), _responses(paths, thresholds)
        limits = {"pos_threshold": thresholds.pos_threshold, "neg_threshold": thresholds.neg_threshold}
        return VettingPage(scenarios=scenarios, responses=responses, **limits)

    @routes.get("/vectors")
    def show_vectors(experiment: str, trait: str) -> Vectors:
        """Return Norm, centre and separation of every method's vector at every layer."""
        paths = library.trait(experiment, trait)
        if not paths.activations_metadata.exists():
            raise NotThereError(f"{trait} has no vectors in {experiment}; nothing was captured yet")
        with readable_trait(paths):
            return _vectors(paths)

    @routes.get("/similarity/methods")
    def compare_methods(experiment: str, trait: str, layer: int) -> Similarity:
        """Return cosines between one trait's vectors of every method at a layer."""
        paths = library.trait(experiment, trait)
        with readable_trait(paths):
            keys = [key for key in list_vectors(paths) if key[1] == layer]
            return _compare({key[0]: read_vector(paths, key) for key in keys}, layer)

    @routes.get("/similarity/traits")
    def compare_traits(experiment: str, method: str, layer: int) -> Similarity:
        """Return cosines between all traits' vectors of one method at a layer, and which cannot be read."""
        held: dict[str, Vector] = {}
        problems: dict[str, str] = {}
        paths = library.experiment(experiment)
        for trait in library.traits(paths):
            try:
                held |= _find_vector(library.trait_of(paths, trait), (method, layer))
            except UserError as error:
                problems[trait] = library.relative(str(error))
        if problems and not held:
            raise UserError(next(iter(problems.values())))
        return _compare(held, layer, problems)

    return routes


def _find_vector(paths: TraitPaths, key: tuple[str, int]) -> dict[str, Vector]:
    with readable_trait(paths):
        return {paths.trait: read_vector(paths, key)} if key in list_vectors(paths) else {}


def _vectors(paths: TraitPaths) -> Vectors:
    captured, abouts = read_activations_about(paths), list(list_vectors(paths).values())
    best = best_held_out(paths, abouts)

    return Vectors(
        component=captured.component,
        position=captured.position,
        mean_norms=captured.mean_norms,
        best=best.key if best else None,
        best_of=best.best_of if best else 0,
        best_val=best.separation if best else None,
        vectors=[ShownVector.model_validate(about, from_attributes=True) for about in abouts],
    )


def _compare(vectors: dict[str, Vector], layer: int, problems: dict[str, str] | None = None) -> Similarity:
    if not vectors:
        raise NotThereError(f"there is no such vector at layer {layer}")
    if len({len(vector.values) for vector in vectors.values()}) > 1:
        raise UserError(f"the vectors at layer {layer} are of different widths; fit them again with --force")
    values = np.stack([vector.values for vector in vectors.values()]).astype(float)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosines = np.round(unit @ unit.T, 4).tolist()
    return Similarity(labels=list(vectors), cosines=cosines, problems=problems or {})


def _scenarios(paths: TraitPaths, thresholds: Thresholds) -> Vetting | None:
    if not paths.has_completed(VET_SCENARIOS):
        return None
    content = read_scores(paths, "scenarios")
    texts = [
        {"id": f"{row.side}:{row.place}", "pair": row.place, "prompt": row.text, "response": None}
        for row in content.rows
    ]
    return _vetting(content, texts, thresholds)


def _responses(paths: TraitPaths, thresholds: Thresholds) -> Vetting | None:
    if not paths.has_completed(VET_RESPONSES):
        return None
    content = read_scores(paths, "responses")
    written = {r.key: r for r in read_responses(paths)}
    if absent := [row.key for row in content.rows if row.key not in written]:
        what = f"{absent[0]}, which is not among the responses"
        raise UserError(f"{paths.response_scores} scores {what}; run {VET_RESPONSES} again")
    return _vetting(content, [_text(written[row.key]) for row in content.rows], thresholds)


def _text(r: Response) -> dict[str, Any]:
    return {"id": r.key, "pair": r.pair, "prompt": r.prompt, "response": r.response}


def _vetting(content: Scores, texts: list[dict[str, Any]], thresholds: Thresholds) -> Vetting:
    joined = []
    for row, text in zip(content.rows, texts, strict=True):
        judged: dict[str, Any] = {
            "side": row.side,
            "value": row.value,
            "state": row.state,
            "detail": row.detail,
        }
        joined.append(VettedText(**text, **judged, passed=thresholds.passes(row.score, row.side)))

    return Vetting(judge=content.judge, states=content.states, texts=joined)
