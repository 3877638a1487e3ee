"""What lies on disk has one reader: damage is one line wherever it is met, and one ranking names the best vector."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from traitscope.analysis.exchange.facts import gather as gather_facts
from traitscope.analysis.exchange.formats import FORMATS
from traitscope.extraction.fitting.candidates import SteeringVectors, load_vectors
from traitscope.extraction.report.summary import best_auroc, summarise
from traitscope.extraction.run_pipeline import load_stage
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import FIT, STAGES, STEER, InferencePaths, TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.measures.separation import auroc_interval
from traitscope.utils.records.activations import (
    FittedOn,
    read_activations_about,
    write_captured,
    write_fitted_on,
)
from traitscope.utils.records.choice import best_of
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.readings import (
    Projections,
    made_from,
    read_projected,
    read_projections,
    write_projections,
)
from traitscope.utils.records.recorded import Record, read_index, write_record
from traitscope.utils.records.scores import Thresholds, read_scores
from traitscope.utils.records.vectors import (
    VectorAbout,
    coefficient_of,
    dose_of,
    list_vectors,
    read_vector,
    write_vector,
)
from traitscope.utils.records.verdict import read_verdict
from traitscope.visualization.api.fitting import router
from traitscope.visualization.library import Library

TRAIT = "mood/hope"
FIRST_HOUSE = json.loads((Path(__file__).parent / "data" / "manifests_of_the_first_house.json").read_text())


def separation(auroc: float, cohens_d: float = 1.0) -> dict:
    limits = {"auroc_low": auroc - 0.1, "auroc_high": auroc, "cohens_d_low": 0.0, "cohens_d_high": 2.0}
    return {"accuracy": 0.9, "auroc": auroc, "cohens_d": cohens_d, "n_pos": 8, "n_neg": 8} | limits


@pytest.fixture
def paths(tmp_path, monkeypatch, llama) -> TraitPaths:
    """A trait with vectors of three methods at two layers, of a tiny model."""
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))
    paths = TraitPaths("e", TRAIT, tmp_path)
    acts = torch.randn(8, llama.n_layers, llama.d_model, generator=torch.Generator().manual_seed(0))
    rows = [
        {"key": f"{side}:{i}:0", "side": side, "pair": i, "group": i, "split": "train"}
        for i in range(8)
        for side in ["pos" if i % 2 else "neg"]
    ]
    about = {"made_by": {"stage": "3_capture_activations", "model": llama.identity}, "responses_sha256": {}}
    about |= {
        "component": "residual",
        "position": "response[:]",
        "mean_norms": [2.0, 3.0, 4.0, 5.0],
        "rows": rows,
    }
    write_captured(paths, acts, about)
    sha256 = read_activations_about(paths).sha256
    write_fitted_on(paths, FittedOn(activations_sha256=sha256, train=[], val=[]))

    known = {name: about[name] for name in ("made_by", "component", "position")}
    aurocs = {("mean_diff", 1): 0.8, ("mean_diff", 2): 0.9, ("probe", 1): 0.9, ("random", 2): 0.99}
    for i, (key, auroc) in enumerate(aurocs.items()):
        vector = torch.randn(llama.d_model, generator=torch.Generator().manual_seed(i))
        measured = {
            "norm": float(vector.norm()),
            "centre": 0.5,
            "train": None,
            "val": separation(auroc, cohens_d=i),
        }
        write_vector(paths, key, vector, known | measured)
    write_json(paths.manifest(FIT), {"params": {}, "inputs": {}, "outputs": [], "version": 3})
    return paths


@pytest.fixture
def routes(paths):
    """Return a function that asks the dashboard's API in this process, by the name of a route."""
    library = Library(paths.root)
    endpoints = {route.name: route.endpoint for route in router(library).routes}
    return lambda name, **asked: endpoints[name](experiment="e", **asked)


READERS = {
    "chat and monitoring": lambda paths, routes: read_watched("e", WatchOptions((TRAIT,), "2", "mean_diff")),
    "stage 5": lambda paths, routes: load_vectors(paths, SteeringVectors(layers="2", method=("mean_diff",))),
    "exports": lambda paths, routes: gather_facts(paths, "mean_diff", "2", paths),
    "the dashboard's plot": lambda paths, routes: routes("compare_traits", method="mean_diff", layer=2),
}


def test_every_reader_gets_the_numbers_that_stage_4_wrote(paths, routes):
    wrote = read_vector(paths, ("mean_diff", 2)).values
    watched = read_watched("e", WatchOptions((TRAIT,), "2", "mean_diff"))[0]
    steered = load_vectors(paths, SteeringVectors(layers="2", method=("mean_diff",)))
    bundle = gather_facts(paths, "mean_diff", "2", paths)
    assert np.array_equal(watched.values, wrote)
    assert torch.equal(steered.vectors["mean_diff", 2].tensor, torch.tensor(wrote))
    assert np.array_equal(bundle.vectors[2].numpy(), wrote)

    found = FORMATS["gguf"].read(FORMATS["gguf"].write(bundle), bundle.shape)
    assert np.array_equal(found.vectors[2].numpy(), wrote)
    both = routes("compare_methods", trait=TRAIT, layer=2)
    random = read_vector(paths, ("random", 2)).values
    cosine = float(
        wrote.astype(float)
        @ random
        / np.linalg.norm(wrote.astype(float))
        / np.linalg.norm(random.astype(float))
    )
    assert both.cosines[both.labels.index("mean_diff")][both.labels.index("random")] == pytest.approx(
        cosine, abs=1e-4
    )


DAMAGE = {
    "zero": (lambda size: torch.zeros(size), "zero vector"),
    "NaN": (lambda size: torch.full((size,), float("nan")), "not a finite"),
    "infinity in 64 bits": (
        lambda size: torch.full((size,), float("inf"), dtype=torch.float64),
        "expected .* float32",
    ),
    "a matrix": (lambda size: torch.ones((size, 1), dtype=torch.float16), "expected"),
    "too short": (lambda size: torch.ones(size - 1), "not the vector that its metadata describes"),
    "another": (lambda size: torch.ones(size), "not the vector that its metadata describes"),
    "complex": (lambda size: torch.ones(size, dtype=torch.complex64), "expected .* float32"),
    "bfloat16": (lambda size: torch.ones(size, dtype=torch.bfloat16), "expected .* float32"),
}
OTHER = "not the vector that its metadata describes"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("has_digest", [True, False])
def test_a_damaged_vector_is_the_same_line_to_every_reader(paths, routes, llama, reader, damage, has_digest):
    make, words = DAMAGE[damage]
    torch.save(make(llama.d_model), paths.vector("mean_diff", 2))
    if not has_digest:
        forget_digests(paths)
    with pytest.raises(UserError, match=OTHER if has_digest else words) as caught:
        READERS[reader](paths, routes)
    assert "\n" not in str(caught.value)
    assert "mean_diff_layer2.pt" in str(caught.value)


def forget_digests(paths: TraitPaths) -> None:
    """Make a vector's metadata what they were when they named no digest."""
    file = paths.vector_metadata("mean_diff", 2)
    content = {name: value for name, value in read_json(file).items() if "sha256" not in name}
    write_json(file, content, is_sealed=False)


@pytest.fixture
def older(paths) -> TraitPaths:
    """The same trait, from a time when a vector's metadata named no digest."""
    forget_digests(paths)
    return paths


def test_a_file_of_an_older_make_is_still_read(older):
    wrote = read_vector(older, ("mean_diff", 2)).values
    file = older.vector("mean_diff", 2)
    torch.save(torch.tensor(wrote), file, _use_new_zipfile_serialization=False)
    assert np.array_equal(read_vector(older, ("mean_diff", 2)).values, wrote)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.double(),
        lambda v: v.half(),
        lambda v: v.bfloat16(),
        lambda v: v.to(torch.complex64),
        lambda v: v * 2,
        lambda v: v + 1,
    ],
)
def test_a_vector_of_another_precision_or_length_is_refused_without_a_digest_too(older, change):
    file = older.vector("mean_diff", 2)
    torch.save(change(torch.tensor(read_vector(older, ("mean_diff", 2)).values)), file)
    with pytest.raises(
        UserError, match=r"expected \(None,\) float32|not the vector that its metadata describes"
    ):
        read_vector(older, ("mean_diff", 2))


@pytest.mark.parametrize("change", [lambda v: -v, lambda v: v.roll(1), lambda v: v.flip(0)])
def test_a_vector_that_only_its_digest_tells_from_another_is_refused(paths, change):
    file = paths.vector("mean_diff", 2)
    torch.save(change(torch.tensor(read_vector(paths, ("mean_diff", 2)).values)), file)
    with pytest.raises(UserError, match="not the vector that its metadata describes"):
        read_vector(paths, ("mean_diff", 2))


def test_another_traits_vector_in_its_place_is_refused_by_its_name(paths):
    other = TraitPaths("e", "mood/gloom", paths.root)
    shutil.copytree(paths.dir, other.dir)
    with pytest.raises(UserError, match=f"is of trait {TRAIT}, not of mood/gloom"):
        read_vector(other, ("mean_diff", 2))
    with pytest.raises(UserError, match=f"is of trait {TRAIT}, not of mood/gloom"):
        list_vectors(other)


@pytest.mark.parametrize("target", [("probe", 1), ("mean_diff", 1)])
def test_another_vector_under_its_name_is_refused(paths, target):
    for file in (paths.vector, paths.vector_metadata):
        shutil.copy(file(*target), file("mean_diff", 2))
    with pytest.raises(UserError, match=r"is of (method probe|layer 1)"):
        read_vector(paths, ("mean_diff", 2))


def test_a_damaged_verdict_costs_only_what_needs_it(paths):
    write_json(paths.manifest(STEER), {"params": {}, "inputs": {}, "outputs": [], "version": 1})
    write_json(paths.steering_results, {"made_by": {}})
    vector = read_vector(paths, ("mean_diff", 2))
    assert vector.origin["layer"] == 2
    with pytest.raises(UserError, match=r"results\.json"):
        vector.push(0.2)


def test_a_file_with_a_number_that_is_none_is_refused(paths):
    text = paths.vector_metadata("mean_diff", 2).read_text()
    paths.vector_metadata("mean_diff", 2).write_text(re.sub(r'"norm": [^,]+', '"norm": NaN', text))
    with pytest.raises(UserError, match="was changed since it was written"):
        list_vectors(paths)


READER = {"name": "tiny"}
ORIGIN = {"trait": TRAIT, "method": "probe", "layer": 1, "centre": 0.5, "sha256": "0", "norm": 1.0, "why": ""}
WATCHED = Record(
    **{
        "id": "p",
        "key": "k",
        "prompt": "Hello",
        "response": " you",
        "ids": [1, 2, 3],
        "tokens": ["H", "i", "!"],
    },
    **{"prompt_tokens": 2, "turns": [], "is_finished": True, "metadata": {}, "made_by": {"model": READER}},
)


@pytest.fixture
def watched(tmp_path) -> InferencePaths:
    """What was captured and projected of one prompt."""
    paths = InferencePaths("e", "few", tmp_path)
    write_record(paths, WATCHED)
    scores = [Projections(ORIGIN, np.arange(3.0), np.ones(3))]
    write_projections(paths, "p", scores, made_from(WATCHED, READER))
    about = {"made_by": {"model": READER}, "prompt_set": {}, "prompts": [{"id": "p"}]}
    write_json(paths.index, about | {"responses": {"p": digest(paths.response("p"))}})
    return paths


def test_what_was_watched_is_read_as_it_was_written(watched):
    [(record, scores)] = read_projected(watched)
    assert record == WATCHED
    assert (scores.origin, scores.raw.tolist()) == (ORIGIN, [0, 1, 2])


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("projections", lambda c: []),
        ("projections", lambda c: None),
        ("projections", lambda c: c | {"made_by": 3, "vectors": None}),
        ("projections", lambda c: c | {"vectors": [ORIGIN | {"centre": None}]}),
        ("projections", lambda c: c | {"vectors": [{k: v for k, v in ORIGIN.items() if k != "sha256"}]}),
        ("projections", lambda c: c | {"scores": [None]}),
        ("projections", lambda c: c | {"scores": [None], "norms": {"1": None}}),
        ("projections", lambda c: c | {"scores": [[1.0]]}),
        ("response", lambda c: c | {"ids": None}),
        ("response", lambda c: c | {"ids": ["x", 2, 3]}),
        ("response", lambda c: c | {"tokens": None}),
        ("response", lambda c: c | {"prompt_tokens": "two"}),
        ("response", lambda c: c | {"metadata": None}),
        ("response", lambda c: {k: v for k, v in c.items() if k != "turns"}),
        ("index", lambda c: c | {"made_by": {}}),
        ("index", lambda c: c | {"prompts": [{"name": "p"}]}),
    ],
)
def test_a_damaged_file_of_inference_is_one_line_that_names_it(watched, kind, spoil):
    file = watched.index if kind == "index" else getattr(watched, kind)("p")
    write_json(file, spoil(read_json(file)))
    with pytest.raises(UserError) as caught:
        read_projected(watched)
        read_projections(watched, "p")
        read_index(watched)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"value": 101.0, "state": "scored"}, "between 0 and 100"),
        ({"value": -1.0, "state": "scored"}, "between 0 and 100"),
        ({"value": None, "state": "scored"}, "exactly when scored"),
        ({"value": 50.0, "state": "refused"}, "exactly when scored"),
        ({"value": 50.0, "state": "glad"}, "'glad' is no state"),
    ],
)
def test_a_score_that_no_judge_gives_is_refused_where_it_is_read(paths, row, words):
    write_json(paths.response_scores, {"judge": {}, "rows": [row | {"side": "pos", "mode": "text"}]})
    with pytest.raises(UserError, match=rf"response_scores\.json: rows\.0: .*{words}"):
        read_scores(paths, "responses")


def test_one_ranking_names_the_best_vector_to_everybody(paths, routes):
    best = ("probe", 1)  # as good as mean_diff at layer 2 by AUROC, and further apart; random is a null
    assert best_of(paths)[0] == best
    assert best_held_out(paths, list(list_vectors(paths).values())).key == best
    assert routes("show_vectors", trait=TRAIT).best == best
    held = summarise(paths, paths, Thresholds())["held_out"]
    assert (held["method"], held["layer"], held["best_of"]) == (*best, 3)
    assert read_watched("e", WatchOptions((TRAIT,)))[0].about.key == best


def test_the_best_of_many_is_given_as_such_wherever_it_is_shown(paths, routes):
    abouts = list(list_vectors(paths).values())
    own = {about.key: about.val for about in abouts}["probe", 1]
    alone = auroc_interval(own.auroc, own.n_pos, own.n_neg)

    def interval(candidates: float | None, vectors: dict[str, str]) -> tuple[float, float]:
        content = read_json(paths.fitted_on) | {"candidates": candidates, "vectors": vectors}
        write_json(paths.fitted_on, content)
        found = best_held_out(paths, abouts).separation
        return found.auroc_low, found.auroc_high

    fitted = {paths.vector(*about.key).name: "x" for about in abouts}
    assert interval(1.0, fitted) == pytest.approx(alone, abs=1e-6)
    unknown = interval(None, fitted)  # an older fit: every measured vector counts
    assert unknown == interval(3.0, fitted) == interval(9.0, fitted)
    assert unknown[0] < interval(2.0, fitted)[0] < alone[0]
    imported = {name: sha for name, sha in fitted.items() if not name.startswith("probe")}
    assert interval(1.0, imported) == interval(2.0, fitted)  # one that stage 4 did not fit counts as one more

    write_json(paths.fitted_on, read_json(paths.fitted_on) | {"candidates": None, "vectors": {}})
    said = f"0.90 [{unknown[0]:.2f}, {unknown[1]:.2f}]"
    assert best_of(paths)[1] == f"best held-out AUROC, {said}, best of 3"
    page, held = routes("show_vectors", trait=TRAIT), summarise(paths, paths, Thresholds())["held_out"]
    assert (page.best_of, page.best_val.auroc_low) == (3, unknown[0]) == (held["best_of"], held["auroc_low"])
    assert best_auroc(held) == f"{said} of 3"


def test_no_measured_vector_is_no_best_one(paths):
    abouts = [about.model_copy(update={"val": None}) for about in list_vectors(paths).values()]
    assert best_held_out(paths, abouts) is None
    assert best_held_out(paths, []) is None


def test_dose_and_coefficient_are_each_others_inverse():
    for dose in (-0.4, 0.0, 0.2, 3.0):
        assert dose_of(coefficient_of(dose, 190.3, 11.7), 190.3, 11.7) == pytest.approx(dose)


def test_a_push_moves_by_its_dose_times_the_mean_norm(paths):
    vector = read_vector(paths, ("mean_diff", 2))
    push = vector.push(0.25)
    assert (push.coefficient * vector.tensor).norm() == pytest.approx(0.25 * 4.0, rel=1e-6)
    with pytest.raises(UserError, match="it can only be watched"):
        replace(vector, measured=lambda: None).push(0.25)


RAISED = {  # since then
    "0_vet_scenarios": 2,  # the embedded judge reads claims
    "2_vet_responses": 2,
    "3_capture_activations": 2,  # what is held out shares no text with what is fitted on
    "4_fit_vectors": 4,  # the probe centres its rows, and means are taken in full precision
    "5_steer_evaluate": 4,  # random directions do not hold the vector, and one place is tested
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_experiment_of_the_first_house_is_up_to_date_by_version_and_parameters(stage, monkeypatch):
    known, stored = load_stage(stage), FIRST_HOUSE[stage]
    settings = {"model": "embedded", "judge": "embedded", "subset": 16}
    tracked = known.tracked(known.params(settings))
    tracked = {name: value.split("#")[0] if name == "model" else value for name, value in tracked.items()}
    assert known.version == RAISED.get(stage, stored["version"])
    if stage == "5_steer_evaluate":  # it asks for more now, and for more random pairs
        tracked = {name: value for name, value in tracked.items() if name in stored["params"]}
        stored["params"] |= {"random_pairs": 28, "search_steps": 3}
    assert tracked == stored["params"]


SHAPES = {
    "a vector's metadata": (lambda p: p.vector_metadata("probe", 1), lambda p: list_vectors(p)),
    "the activations' metadata": (lambda p: p.activations_metadata, read_activations_about),
    "results": (lambda p: p.steering_results, read_verdict),
    "scores": (lambda p: p.response_scores, lambda p: read_scores(p, "responses")),
}


@pytest.mark.parametrize("content", [[], {}, "x", 3, {"rows": 5}, {"shape": "wide"}, None])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_file_of_another_shape_is_one_line_that_names_it(paths, kind, content):
    place, read = SHAPES[kind]
    write_json(paths.manifest("5_steer_evaluate"), {})
    write_json(place(paths), content)
    with pytest.raises(UserError) as caught:
        read(paths)
    assert place(paths).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_read_is_not_written(paths):
    with pytest.raises(ValueError, match="norm"):
        write_vector(
            paths, ("probe", 1), torch.ones(32), {"made_by": {}, "component": "residual", "position": None}
        )


def test_a_vectors_file_keeps_the_columns_and_order_that_it_had(paths):
    columns = [
        "trait",
        "method",
        "layer",
        "made_by",
        "component",
        "position",
        "norm",
        "centre",
        "train",
        "val",
        "sha256",
    ]
    assert list(read_json(paths.vector_metadata("probe", 1))) == columns
    assert set(columns) <= set(VectorAbout.model_fields)
