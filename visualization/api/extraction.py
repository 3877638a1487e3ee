"""What stages 0 to 4 left of a trait: scores with their texts, and how well every vector separates."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel

from extraction.responses import Response, read_responses
from extraction.vetting import Thresholds, read_scores
from utils.artifacts import read_vector
from utils.errors import UserError
from utils.paths import TraitPaths
from visualization.api.overview import Separation, thresholds_of
from visualization.artifacts import NotThereError, Store

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


class ScoreFile(BaseModel):
    """A vetting file of stage 0 or 2."""

    judge: dict[str, Any]
    states: dict[str, Any]
    rows: list[dict[str, Any]]


class Measured(Separation):
    """The same, with the accuracy at the vector's centre."""

    accuracy: float


class VectorCard(BaseModel):
    """What stage 4 says of one vector."""

    method: str
    layer: int
    norm: float  # ‖v‖ in units of the activations: how far apart the sides' means lie along it
    centre: float
    train: Measured | None
    val: Measured | None


class Vectors(BaseModel):
    """Every vector of a trait."""

    component: str
    position: str
    mean_norms: list[float]  # mean ‖h‖ per layer
    vectors: list[VectorCard]


class Captured(BaseModel):
    """What is read of stage 3's metadata."""

    component: str
    position: str
    shape: tuple[int, int, int]
    mean_norms: list[float]


class Similarity(BaseModel):
    """Cosines between vectors, each with each."""

    labels: list[str]
    cosines: list[list[float]]


def router(store: Store) -> APIRouter:
    """Return the routes of the trait extraction view."""
    routes = APIRouter(prefix="/experiments/{experiment}", tags=["extraction"])

    @routes.get("/vetting")
    def show_vetting(experiment: str, trait: str) -> VettingPage:
        """Every scenario and every response with its score."""
        paths = store.trait(experiment, trait)
        thresholds = thresholds_of(store.experiment(experiment))
        scenarios, responses = _scenarios(store, paths, thresholds), _responses(store, paths, thresholds)
        limits = {"pos_threshold": thresholds.pos_threshold, "neg_threshold": thresholds.neg_threshold}
        return VettingPage(scenarios=scenarios, responses=responses, **limits)

    @routes.get("/vectors")
    def show_vectors(experiment: str, trait: str) -> Vectors:
        """Norm, centre and separation of every method's vector at every layer."""
        paths = store.trait(experiment, trait)
        about = store.read(paths.activations_metadata, Captured)
        cards = [store.read(file, VectorCard) for file in sorted(paths.vectors.glob("*_metadata.json"))]
        return Vectors(**about.model_dump(exclude={"shape"}), vectors=cards)

    @routes.get("/similarity/methods")
    def compare_methods(experiment: str, trait: str, layer: int) -> Similarity:
        """Cosines between one trait's vectors of every method at a layer."""
        paths = store.trait(experiment, trait)
        files = {file.name.rpartition("_layer")[0]: file for file in sorted(paths.vectors.glob(f"*_layer{layer}.pt"))}
        return _compare(files, store.read(paths.activations_metadata, Captured).shape[2]) if files else _nothing(layer)

    @routes.get("/similarity/traits")
    def compare_traits(experiment: str, method: str, layer: int) -> Similarity:
        """Cosines between all traits' vectors of one method at a layer."""
        owners = [TraitPaths(experiment, trait, store.root) for trait in store.experiment(experiment).traits]
        for paths in owners:
            store.check_links(paths)
        listed = [(p, file) for p in owners for file in p.vectors.glob(f"*_layer{layer}.pt") if file.name == f"{method}_layer{layer}.pt"]
        return _compare({p.trait: file for p, file in listed}, store.read(listed[0][0].activations_metadata, Captured).shape[2]) if listed else _nothing(layer)

    return routes


def _nothing(layer: int) -> Similarity:
    raise NotThereError(f"there is no such vector at layer {layer}")


def _compare(files: dict[str, Path], d_model: int) -> Similarity:
    vectors = np.stack([read_vector(file, d_model) for file in files.values()]).astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Similarity(labels=list(files), cosines=np.round(unit @ unit.T, 4).tolist())


def _scenarios(store: Store, paths: TraitPaths, thresholds: Thresholds) -> Vetting | None:
    if not paths.manifest("0_vet_scenarios").exists():
        return None
    content = store.read(paths.scenario_scores, ScoreFile)
    texts = [{"id": f"{row['side']}:{row['group']}", "pair": row["group"], "prompt": row["text"], "response": None} for row in content.rows]
    return _vetting(content, texts, thresholds)


def _responses(store: Store, paths: TraitPaths, thresholds: Thresholds) -> Vetting | None:
    if not paths.manifest("2_vet_responses").exists():
        return None
    content = store.read(paths.response_scores, ScoreFile)
    written = {r.key: r for r in read_responses(paths)}
    if absent := [row["key"] for row in content.rows if row["key"] not in written]:
        raise UserError(f"{paths.response_scores} scores {absent[0]}, which is not among the responses; run 2_vet_responses again")
    return _vetting(content, [_text(written[row["key"]]) for row in content.rows], thresholds)


def _text(r: Response) -> dict[str, Any]:
    return {"id": r.key, "pair": r.pair, "prompt": r.prompt, "response": r.response}


def _vetting(content: ScoreFile, texts: list[dict[str, Any]], thresholds: Thresholds) -> Vetting:
    joined = []
    for row, score, text in zip(content.rows, read_scores(content.model_dump()), texts, strict=True):
        judged = {"side": row["side"], "value": score.value, "state": score.state, "detail": row.get("detail", "")}
        joined.append(VettedText(**text, **judged, passed=thresholds.passes(score, row["side"])))
    return Vetting(judge=content.judge, states=content.states, texts=joined)
