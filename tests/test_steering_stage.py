"""Stage 5 and its neighbours as a user runs them: every ability on a tiny model, the riskiest also on the
embedded one.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import call, copy_trait
from judge_server import JudgeServer

from traitscope.analysis import cross_trait
from traitscope.analysis import draw_steering as figures
from traitscope.extraction import run_pipeline
from traitscope.inference.watch.engine import ChatEngine
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.judge.reliability import Reliability
from traitscope.utils.model.encode import encode_text
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import run_command

OPTIMISM, FORMALITY = "epistemic/optimism", "behavioral/formality"
SMALL = [
    "--max-new-tokens",
    "6",
    "--subset",
    "3",
    "--random-pairs",
    "2",
    "--layers",
    "1,2",
    "--method",
    "mean_diff",
    "--coherence-gate",
    "0",
]
STAGE = "5_steer_evaluate"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, tiny_folders):
    """Two traits with vectors, of a tiny model and of the embedded one, made once."""
    roots = {}

    def make(name: str) -> Path:
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name)
            for trait in (OPTIMISM, FORMALITY):
                copy_trait(roots[name], trait, 12 if name == "tiny" else 8)
            model = tiny_folders["llama"] if name == "tiny" else "embedded"
            flags = [
                "--experiment",
                "e",
                "--model",
                model,
                "--traits",
                f"{OPTIMISM},{FORMALITY}",
                "--no-steering",
                "--max-new-tokens",
                "6",
                "--min-usable",
                "2",
                "--methods",
                "mean_diff,probe",
            ]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TRAITSCOPE_ROOT", str(roots[name]))
                thresholds = ["--pos-threshold", "0", "--neg-threshold", "100", "--judge", "embedded"]
                call(run_pipeline, *flags, *thresholds)
        return roots[name]

    return make


def steer(trait: str, world: str, *flags: str) -> None:
    """Run stage 5 for a trait, as its own command does."""
    stage = stage_command(run_pipeline.load_stage(STAGE))
    about = ["--experiment", "e", "--trait", trait, *SMALL, "--layers", LAYERS[world]]
    run_command(stage, [*about, *flags])


@pytest.fixture
def steer_with(worlds, monkeypatch, capfd):
    """Return a function that runs stage 5 for optimism and gives back its results."""

    def run(world: str, *flags: str) -> dict:
        root = worlds(world)
        monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
        steer(OPTIMISM, world, *flags)
        return read_json(TraitPaths("e", OPTIMISM, root).steering_results)

    return run


LAYERS = {"tiny": "1,2", "embedded": "16"}
SPREAD = {"tiny": "1,2,3", "embedded": "12,16"}
BOTH = pytest.mark.parametrize("world", ["tiny", pytest.param("embedded", marks=pytest.mark.slow)])
JUDGED = ("verdict", "effect", "odd_part", "random", "coherence", "shuffled_labels_odd_part")


@pytest.mark.slow
def test_the_real_model_is_steered_with_several_abilities_at_once_and_its_texts_are_judged_again(
    steer_with, worlds
):
    """The short form of what `make test-slow` tries ability by ability on the embedded model."""
    mixed = ("--with-traits", f"{FORMALITY}:-0.5", "--gate-trait", FORMALITY, "--positions", "response")
    short = ("--search-steps", "1", "--start-mult", "0.2", "--random-pairs", "1", "--max-new-tokens", "4")
    results = steer_with("embedded", "--multi-layer", "weighted", "--layers", "12,16", *mixed, *short)
    chosen = results["chosen"]
    assert {chosen["layer"]} <= {12, 16} if isinstance(chosen["layer"], int) else chosen["layer"] == [12, 16]
    assert chosen["relative_push"] == pytest.approx(chosen["dose"], rel=1e-3)
    assert (chosen["positions"], chosen["gate_trait"]) == ("response", FORMALITY)
    assert chosen["with_traits"] == [f"{FORMALITY}:-0.5"]
    assert [p["dose"] for p in results["dev"]] == [0.2]
    assert results["random"]["n"] == 1
    assert set(results["side_effects"]) == {"unsteered", "plus", "minus"}
    assert all(found["neutral_perplexity"] > 1 for found in results["side_effects"].values())
    assert len(results["residual_norms"]) == 30
    steer_with("embedded", "--rescore")
    same = read_json(TraitPaths("e", OPTIMISM, worlds("embedded")).rescored("embedded"))
    assert {key: same[key] for key in JUDGED} == {key: results[key] for key in JUDGED}


@BOTH
def test_a_grid_of_raw_coefficients_is_tried_as_typed(steer_with, world):
    results = steer_with(world, "--coefficients", "0,3", "--method", "probe", "--layers", "2")
    assert results["chosen"]["method"] == "probe"
    assert results["chosen"]["coefficient"] == pytest.approx(3)
    assert [p["coefficient"] for p in results["dev"]] == pytest.approx([3])


@BOTH
def test_the_search_climbs_by_its_factors_and_stores_the_whole_curve(steer_with, world):
    results = steer_with(
        world,
        "--search-steps",
        "3",
        "--start-mult",
        "0.2",
        "--up-mult",
        "1.3",
        "--down-mult",
        "0.85",
        "--momentum",
    )
    curve = results["dev"]
    assert len(curve) == 3
    doses = sorted({round(p["dose"], 4) for p in curve})
    assert doses[:2] == pytest.approx([0.2, 0.26])
    assert doses[2] == pytest.approx(0.26 * 1.3**1.5, abs=1e-3)
    for point in curve:
        assert point["relative_push"] == pytest.approx(point["dose"], rel=1e-4)
        assert {"coefficient", "trait_score", "coherence", "n", "layer", "method"} <= point.keys()


@BOTH
@pytest.mark.parametrize("operation", ["ablate", "cap", "clamp"])
def test_what_is_not_added_has_no_opposite_and_takes_away(steer_with, world, operation):
    results = steer_with(world, "--operation", operation, "--cap-at", "50")
    assert results["chosen"]["operation"] == operation
    assert results["wanted"] == -1 or operation == "clamp"  # which may also raise
    assert results["effect_minus"] is None
    assert results["coherence"]["minus"] is None
    assert results["random"]["n"] == 2


@BOTH
@pytest.mark.parametrize("how", ["weighted", "orthogonal", "incremental"])
def test_several_layers_are_steered_at_once_and_share_the_dose(steer_with, how, world):
    results = steer_with(world, "--multi-layer", how, "--layers", SPREAD[world], "--search-steps", "2")
    chosen = results["chosen"]
    layers = chosen["layer"] if isinstance(chosen["layer"], list) else [chosen["layer"]]
    every = [int(layer) for layer in SPREAD[world].split(",")]
    assert set(layers) <= set(every)
    assert chosen["relative_push"] == pytest.approx(
        chosen["dose"], rel=1e-3
    )  # the shares of the dose add up to it
    if how != "weighted":
        assert layers == every


@BOTH
def test_traits_can_be_combined_behind_a_gate_and_in_another_precision(steer_with, world):
    flags = [
        "--with-traits",
        f"{FORMALITY}:-0.5",
        "--gate-trait",
        FORMALITY,
        "--gate-quantile",
        "0.3",
        "--check-precision",
        "bfloat16",
    ]
    results = steer_with(world, *flags, "--search-steps", "2")
    assert set(results["precision"]) == {"bfloat16"}
    assert results["precision"]["bfloat16"]["effect"]["n"] == 3
    assert set(results["side_effects"]) == {"unsteered", "plus", "minus"}
    assert all(found["neutral_perplexity"] > 1 for found in results["side_effects"].values())


@BOTH
def test_only_the_response_is_steered(steer_with, world):
    results = steer_with(world, "--positions", "response", "--search-steps", "1")
    assert results["chosen"]["positions"] == "response"


def test_a_dose_means_the_same_to_stage_5_to_a_vector_and_to_a_chat(steer_with, worlds, llama):
    results = steer_with("tiny", "--search-steps", "2")
    paths = TraitPaths("e", OPTIMISM, worlds("tiny"))
    assert results["residual_norms"] != pytest.approx(read_activations_about(paths).mean_norms, rel=1e-3)
    assert len(results["dev"]) == 2
    for cell in results["dev"]:
        (vector,) = read_watched(
            "e", WatchOptions(traits=(OPTIMISM,), layers=str(cell["layer"]), method="mean_diff")
        )
        assert vector.mean_norm == results["residual_norms"][cell["layer"]]
        assert vector.push(cell["dose"]).coefficient == pytest.approx(cell["coefficient"], rel=1e-4)
        (pushed,) = ChatEngine(llama, [vector]).pushes({OPTIMISM: cell["dose"]})
        assert pushed.key == vector.push(cell["dose"]).key


@pytest.mark.parametrize("family", ["gemma", "qwen"])
def test_a_model_of_another_architecture_is_refused_in_one_line_before_anything_is_written(
    worlds, tiny_folders, monkeypatch, capfd, family
):
    root = worlds("tiny")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
    monkeypatch.setattr("traitscope.utils.model.generation._generate_batch", None)
    about = ["--experiment", family, "--model", tiny_folders[family], "--vectors-from", "e"]
    with pytest.raises(UserError, match=f"1 of 1 traits failed: {OPTIMISM}"):
        run_command(
            stage_command(run_pipeline.load_stage(STAGE)),
            [*about, "--trait", OPTIMISM, *SMALL, "--judge", "embedded"],
        )
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "failed" in line]
    assert f"the {OPTIMISM} vector of e does not fit {tiny_folders[family]}" in said
    assert "architecture LlamaForCausalLM against " in said
    paths = TraitPaths(family, OPTIMISM, root)
    assert not paths.journal(STAGE).exists()
    assert not paths.manifest(STAGE).exists()
    assert not paths.steering.exists()


def test_the_vector_of_other_traits_is_part_of_what_is_read(steer_with, worlds):
    steer_with("tiny", "--with-traits", FORMALITY)
    manifest = json.loads(TraitPaths("e", OPTIMISM, worlds("tiny")).manifest(STAGE).read_text())
    assert any(FORMALITY in name and "mean_diff_layer1.pt" in name for name in manifest["inputs"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--coefficients", "-3"], "--doses and --coefficients are positive"),
        (["--cap-at", "rock", "--operation", "cap"], "--cap-at"),
        (["--with-traits", "epistemic/optimism:much"], "write category/name:weight"),
        (["--check-precision", "int2"], "choose float32, bfloat16"),
        (["--multi-layer", "sometimes"], "expects one of no, weighted, orthogonal, incremental"),
        (["--gate-trait", "no/such"], "no/such"),
    ],
)
def test_senseless_settings_are_one_line(steer_with, flags, said, capfd):
    with pytest.raises(UserError) as refused:
        steer_with("tiny", *flags)
    printed = str(refused.value) + "".join(capfd.readouterr())
    assert said in printed
    assert "Traceback" not in printed


@BOTH
def test_rescoring_judges_the_stored_texts_and_leaves_the_results(
    steer_with, worlds, world, monkeypatch, tmp_path
):
    before = steer_with(world, "--search-steps", "2")
    paths = TraitPaths("e", OPTIMISM, worlds(world))
    loaded: list = []
    monkeypatch.setattr("traitscope.utils.model.loading._load", loaded.append)
    steer_with(world, "--rescore")
    same = read_json(paths.rescored("embedded"))
    assert {key: same[key] for key in JUDGED} == {key: before[key] for key in JUDGED}
    steer_with(world, "--rescore", "--coherence-gate", "101")
    assert read_json(paths.rescored("embedded"))["verdict"] == "breaks the text"
    with pytest.MonkeyPatch.context() as patch:
        blind = Reliability(0.5, "asked", 40, 0.35, 0.65)
        patch.setattr("traitscope.analysis.steering.rescoring.judge_reliability", lambda *_: blind)
        steer_with(world, "--rescore", "--coherence-gate", "0")
    assert "near chance" in read_json(paths.rescored("embedded"))["why"]
    with JudgeServer() as server:
        monkeypatch.setenv("TRAITSCOPE_CACHE", str(tmp_path))
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        steer_with(world, "--rescore", "--judge", "openai")
    other = read_json(paths.rescored("openai"))
    assert other["judge"]["mode"] == "openai:gpt-4.1-mini/logprobs"
    scores = [[point["trait_score"] for point in result["dev"]] for result in (other, before)]
    assert scores[0] != scores[1]
    assert other["chosen"] == before["chosen"]
    places = [
        [{k: p[k] for k in ("cell", "dose", "relative_push")} for p in r["dev"]] for r in (other, before)
    ]
    assert places[0] == places[1]
    assert read_json(paths.steering_results) == before
    assert loaded == []  # no model was needed


def test_looks_are_counted_and_a_fresh_test_asks_what_none_has_seen(steer_with, worlds):
    TraitPaths("e", OPTIMISM, worlds("tiny")).steering_results.unlink(missing_ok=True)
    seed = ("--search-steps", "1", "--null-seed")
    once = steer_with("tiny", *seed, "21", "--force")
    asked = once["questions"]["test"]
    assert once["looks"] == 1
    same = steer_with("tiny", *seed, "21", "--force")
    assert (same["looks"], same["p"]) == (1, once["p"])
    other = steer_with("tiny", *seed, "22")
    assert other["looks"] == 2
    fresh = steer_with("tiny", *seed, "22", "--fresh-test", "9")
    assert fresh["looks"] == 2  # the same vector in the same place: no third look
    assert len(fresh["questions"]["test"]) == fresh["questions_from_pool"]["test"] == 9
    assert not set(fresh["questions"]["test"]) & set(asked)
    again = steer_with("tiny", *seed, "22", "--fresh-test", "9", "--force")
    assert not set(again["questions"]["test"]) & set(fresh["questions"]["test"])
    assert steer_with("tiny", *seed, "23", "--fresh-test", "9")["looks"] == 3


def test_a_failure_beside_the_verdict_loses_neither_it_nor_the_look(steer_with, worlds, monkeypatch):
    paths = TraitPaths("e", OPTIMISM, worlds("tiny"))
    before = len(read_json(paths.steering_results)["looked_at"]) if paths.steering_results.exists() else 0

    def fail(*_):
        raise UserError("the second judge is gone")

    stage = run_pipeline.load_stage(STAGE)
    monkeypatch.setattr(f"{stage.run.__module__}.measure_beside", fail)
    with pytest.raises(UserError):
        steer_with("tiny", "--search-steps", "1", "--null-seed", "41")
    assert len(read_json(paths.steering_results)["looked_at"]) == before + 1


def test_a_second_judge_has_a_verdict_of_its_own_on_the_same_texts(steer_with, capfd):
    results = steer_with("tiny", "--search-steps", "1", "--second-judge", "embedded", "--null-seed", "31")
    second = results["second_judge"]
    assert second["agrees"]
    assert {name: second[name] for name in ("effect", "odd_part", "p")} == {
        name: results[name] for name in ("effect", "odd_part", "p")
    }
    assert "second judge agrees" in capfd.readouterr().out
    assert {"unsteered", "vector plus", "vector minus", "random"} <= set(second["agreement"])


def test_the_place_can_be_chosen_by_depth_by_separation_or_by_what_it_does(steer_with):
    short = ("--layers", "0-3", "--method", "mean_diff,probe", "--search-steps", "1")
    by_depth = steer_with("tiny", *short, "--choose-by", "depth")
    assert (by_depth["chosen"]["method"], by_depth["chosen"]["layer"]) == ("mean_diff", 2)
    assert len(by_depth["dev"]) == 1
    by_steering = steer_with("tiny", *short, "--choose-by", "steering")
    assert len(by_steering["dev"]) == 4 * 2 + 1
    assert by_steering["chosen"]["chosen_by"] == "steering"


@BOTH
def test_the_cross_trait_matrix_and_the_figures_are_written(steer_with, worlds, capfd, world):
    steer_with(world, "--search-steps", "1")
    root = worlds(world)
    steer(FORMALITY, world, "--search-steps", "1")
    both = f"{OPTIMISM},{FORMALITY}"
    call(cross_trait, "--experiment", "e", "--traits", both, "--subset", "3", "--max-new-tokens", "6")
    stored = read_json(root / "experiments/e/steering/cross_trait.json")
    assert set(stored["odd_parts"]) == set(stored["odd_parts"][OPTIMISM]) == {OPTIMISM, FORMALITY}
    assert stored["cosines"][OPTIMISM][OPTIMISM] == pytest.approx(1)
    assert "cosine at the row's method and layer" in capfd.readouterr().out
    call(figures, "--experiment", "e", "--traits", both)
    for name in ("dose_response", "nulls"):
        assert TraitPaths("e", OPTIMISM, root).steering_figure(name).read_bytes().startswith(b"\x89PNG")


def test_the_journal_spares_a_rerun_all_generation(steer_with, worlds, monkeypatch):
    """A judge that fails after the texts are written costs the scores and not the texts."""
    root = worlds("tiny")
    with JudgeServer(fault_share=0.0, refusal_share=0.5) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", server.key)
        patch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        patch.setenv("TRAITSCOPE_CACHE", str(root / "cache"))
        with pytest.raises(UserError):
            steer_with("tiny", "--judge", "openai", "--null-seed", "7")
        journal = TraitPaths("e", OPTIMISM, root).journal(STAGE)
        kept = journal.stat().st_size
        assert kept > 0
        server.refusal_share = 0.0
        generated: list = []
        real = run_pipeline.importlib.import_module("traitscope.utils.model.generation")._generate_batch
        patch.setattr(
            "traitscope.utils.model.generation._generate_batch",
            lambda *a: generated.append(len(a[1])) or real(*a),
        )
        results = steer_with("tiny", "--judge", "openai", "--null-seed", "7")
    assert results["judge"]["judge"] == "openai:gpt-4.1-mini"
    assert 3 not in generated[:1]  # the unsteered texts came from the journal


def test_more_than_add_is_never_measured_wrong(llama):
    """A clamp sets the projection, at every position, and only where it is asked to."""
    from traitscope.utils.model.hooks import Push, record, steer

    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    unit = vector / vector.norm()
    ids = torch.arange(10, 20)[None].repeat(2, 1)
    seen = {}
    with (
        torch.inference_mode(),
        steer(llama.model, [[Push(1, vector, 5.0, "clamp")], []]),
        record(llama.model, lambda layer, h: seen.update({layer: h})),
    ):
        llama.model(input_ids=ids)
    plain = {}
    with torch.inference_mode(), record(llama.model, lambda layer, h: plain.update({layer: h})):
        llama.model(input_ids=ids)
    assert (seen[1][0] @ unit).tolist() == pytest.approx([5.0] * 10, abs=1e-4)
    assert torch.equal(seen[1][1], plain[1][1])


def test_a_gate_opens_only_where_its_projection_is_above_the_threshold(lm):
    from traitscope.utils.model.hooks import Push, record, steer

    generator = torch.Generator().manual_seed(1)
    vector, gate = torch.randn(32, generator=generator), torch.randn(32, generator=generator)
    ids = torch.arange(10, 30)[None]
    plain, seen = {}, {}
    with torch.inference_mode(), record(lm.model, lambda layer, h: plain.update({layer: h})):
        lm.model(input_ids=ids)
    projections = plain[1][0].float() @ (gate / gate.norm())
    threshold = float(projections.sort().values[9:11].mean())  # between two of the twenty
    push = Push(1, vector, 2.0, "add", gate, threshold)
    with (
        torch.inference_mode(),
        steer(lm.model, [[push]]),
        record(lm.model, lambda layer, h: seen.update({layer: h})),
    ):
        lm.model(input_ids=ids)
    is_open = projections > threshold
    assert 0 < int(is_open.sum()) < len(is_open)
    assert torch.equal(seen[1][0][~is_open], plain[1][0][~is_open])
    assert torch.allclose(seen[1][0][is_open], plain[1][0][is_open] + 2 * vector, atol=1e-4)


# What reaches the model


@pytest.fixture
def handed(steer_with, monkeypatch):
    """Return a function that runs stage 5 on the tiny model and gives back what it handed to the
    evaluation.
    """
    stage = run_pipeline.importlib.import_module(f"traitscope.extraction.{STAGE}")

    def run(*flags: str):
        seen: dict = {}
        real = stage.evaluate

        def spy(bench, candidates, *rest):
            seen.update(bench=bench, candidates=candidates)
            return real(bench, candidates, *rest)

        monkeypatch.setattr(stage, "evaluate", spy)
        seen["results"] = steer_with("tiny", "--search-steps", "1", *flags)
        monkeypatch.setattr(stage, "evaluate", real)
        return seen

    return run


def test_weights_of_other_traits_reach_the_vectors_and_their_nulls(handed, worlds):
    from traitscope.utils.files.tensors import load_tensor
    from traitscope.utils.measures.directions import combine

    root = worlds("tiny")
    main, other = (
        load_tensor(TraitPaths("e", trait, root).vector("mean_diff", 1), (32,))
        for trait in (OPTIMISM, FORMALITY)
    )
    plain, mixed = handed()["candidates"], handed("--with-traits", f"{FORMALITY}:-0.5")
    assert torch.allclose(mixed["candidates"].vectors["mean_diff", 1], combine(main, [(-0.5, other)]))
    assert torch.allclose(
        mixed["candidates"].shuffled("mean_diff", 1), combine(plain.shuffled("mean_diff", 1), [(-0.5, other)])
    )
    assert mixed["results"]["chosen"]["with_traits"] == [f"{FORMALITY}:-0.5"]
    assert set(plain.separation) == set(plain.vectors)
    assert not mixed["candidates"].separation  # nobody measured the sum
    cosine = torch.nn.functional.cosine_similarity(plain.shuffled("mean_diff", 1), main, dim=0)
    assert abs(float(cosine)) < 0.95  # the labels really were shuffled


def test_an_unwanted_trait_is_steered_down(handed, worlds):
    file = TraitPaths("e", OPTIMISM, worlds("tiny")).dataset / "steering.json"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps(json.loads(before) | {"direction": "negative"}))
        seen = handed()
    finally:
        file.write_bytes(before)
    assert seen["candidates"].sign == -1
    assert seen["results"]["chosen"]["coefficient"] < 0
    assert "the opposite of this" in seen["candidates"].system_prompt(-1)
    assert "the opposite" not in seen["candidates"].system_prompt(1)


def test_positions_quantile_and_precision_reach_the_model(handed, monkeypatch):
    asked: dict = {"positions": set(), "quantiles": set(), "dtypes": set()}
    from traitscope.analysis.steering import bench, precision

    real_arms, real_gate, real_load = bench.generate_arms, bench.ModelBench.gate, precision.load_lm
    monkeypatch.setattr(
        bench,
        "generate_arms",
        lambda *a, positions, **k: (
            asked["positions"].add(positions) or real_arms(*a, positions=positions, **k)
        ),
    )
    monkeypatch.setattr(
        bench.ModelBench,
        "gate",
        lambda self, v, layer, q: asked["quantiles"].add(q) or real_gate(self, v, layer, q),
    )
    monkeypatch.setattr(
        precision,
        "load_lm",
        lambda options, role: asked["dtypes"].add(options.dtype) or real_load(options, role=role),
    )
    results = handed(
        "--positions",
        "response",
        "--gate-trait",
        FORMALITY,
        "--gate-quantile",
        "0.3",
        "--check-precision",
        "bfloat16",
    )["results"]
    assert asked == {"positions": {"response"}, "quantiles": {0.3}, "dtypes": {"bfloat16"}}
    assert set(results["precision"]) == {"bfloat16"}


def test_neutral_prose_is_less_likely_under_a_strong_push(handed):
    effects = handed("--doses", "1.5")["results"]["side_effects"]
    assert effects["plus"]["neutral_perplexity"] != effects["unsteered"]["neutral_perplexity"]


def test_the_matrix_refuses_what_it_cannot_repeat(handed):
    handed("--positions", "response")
    with pytest.raises(UserError, match="on the response only"):
        call(cross_trait, "--experiment", "e", "--traits", OPTIMISM, "--max-new-tokens", "4")


def test_everything_that_a_push_does_is_in_its_key():
    from dataclasses import replace

    from traitscope.utils.model.hooks import Push

    push = Push(1, torch.ones(4), 2.0, "add", torch.ones(4), 0.5)
    others = [
        replace(push, **change)
        for change in (
            {"layer": 2},
            {"coefficient": 3.0},
            {"operation": "cap"},
            {"gate": None},
            {"threshold": 1.0},
        )
    ]
    others.append(replace(push, vector=2 * torch.ones(4)))
    assert len({push.key, *(p.key for p in others)}) == 7
    assert replace(push).key == push.key


def test_answers_too_short_to_calibrate_coherence_on_are_one_line(steer_with, capfd):
    with pytest.raises(UserError):
        steer_with("tiny", "--max-new-tokens", "1")
    said = capfd.readouterr().err
    assert "raise --max-new-tokens" in said
    assert "Traceback" not in said


def test_one_blank_answer_among_others_ends_nothing(steer_with, monkeypatch):
    """The first question is answered with white space, unsteered and steered."""
    from traitscope.analysis.steering import arms

    plain = arms.generate

    def with_blanks(lm, rows, *arguments, **named):
        completions = plain(lm, rows, *arguments, **named)
        blank = encode_text(lm, " \n ")
        first = rows[0].prompt_ids
        return [
            replace(c, ids=blank) if row.prompt_ids == first else c
            for row, c in zip(rows, completions, strict=True)
        ]

    monkeypatch.setattr(arms, "generate", with_blanks)
    results = steer_with("tiny", "--force", "True", "--max-unjudged", "1")
    assert results["verdict"] in ("works", "not proven", "breaks the text")
