"""The benchmarks' own arithmetic: a benchmark that counts or compares wrongly says something false about
everybody.
"""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    capture,
    capture_chats,
    decoding,
    fit,
    judging,
    memory,
    pipeline,
    steering_sweep,
    training,
)
from benchmarks.kernels import SHIPPED, kernel_choices, use_kernels
from benchmarks.peers import client, persona_way
from benchmarks.planted import Case, plant, write_experiment
from benchmarks.reference import cosines, fit_layer, keep_settled, probe_excess
from benchmarks.report import PAGE, RESULTS, SUBJECTS, insert
from benchmarks.roofline import Ceiling, Work, capture_work
from benchmarks.rounds import ratio_between, run_rounds, summarise
from benchmarks.tables import at_least, at_most, render_rows, render_subject
from benchmarks.training_memory import as_texts, kept_floats
from benchmarks.workload import BenchOptions, Text
from traitscope.extraction.fitting.methods import FitOptions, fit_directions, fit_functions
from traitscope.utils.files.reading import read_json
from traitscope.utils.model.capture import Reading, pool_activations
from traitscope.utils.model.loading import unload_lm
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.activations import read_captured

FOLDER = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_parses_and_says_what_it_is(file):
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_every_subject_can_be_measured():
    modules = {
        m.__name__.removeprefix("benchmarks."): m
        for m in (capture, capture_chats, decoding, fit, judging, memory, pipeline, steering_sweep, training)
    }
    assert set(modules) == set(SUBJECTS)
    assert all(callable(m.measure) for m in modules.values())


@pytest.fixture
def say(monkeypatch, capsys):
    """Return a function that runs a script with --help in this process, and gives back what it says."""
    run_path = runpy.run_path

    def run(script: Path) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(script), "--help"])
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(runpy, "run_path", lambda *_, **__: None)  # the package is here already
            try:
                run_path(str(script), run_name="__main__")
            except SystemExit as ended:
                return str(ended.code)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "script",
    [
        *(FOLDER / f"{name}.py" for name in (*SUBJECTS, "report", "dashboard", "families")),
        FOLDER.parent / "screenshots.py",
    ],
    ids=lambda script: script.stem,
)
def test_every_benchmark_s_command_line_says_what_it_is_for(script, say):
    said = " ".join(say(script).split())
    assert " ".join((ast.get_docstring(ast.parse(script.read_text())) or "").split())[:60] in said
    assert "--quick" in said or script.stem in ("dashboard", "screenshots")


def test_the_pipeline_is_timed_with_its_loads_and_the_check_of_every_trait(
    tiny_folders, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRAITSCOPE_ROOT", "")  # what the benchmark sets goes when the test ends
    traits = ["epistemic/optimism", "epistemic/optimism_1"]
    for copy in range(2):
        pipeline.copy_trait(tmp_path, traits[0], 6, copy)
    arguments = (
        f"--experiment tiny --model {tiny_folders['llama']} --traits {','.join(traits)} {pipeline.SMALL}"
    )
    unload_lm("studied")  # another test may have it loaded
    cold = pipeline.run(str(tmp_path), arguments.split())
    assert cold["loads"] == 1
    assert set(cold["check_ms"]) == set(traits)
    warm = pipeline.run(str(tmp_path), arguments.split())
    assert (warm["loads"], warm["seconds"] < cold["seconds"]) == (0, True)


def test_stage_4_is_timed_on_planted_activations_and_finds_what_the_reference_finds(tmp_path):
    fit.write_case(str(tmp_path), (40, 3, 32))
    assert fit.fit_stage(str(tmp_path), "probe")["seconds"] > 0
    assert fit.check_vectors(str(tmp_path), "probe", [0, 2])["cosine"] > 0.9999


def test_every_peer_has_an_adapter_and_pins():
    for name in (client.NAMES | client.TRAINERS).values():
        assert (FOLDER / "peers" / f"{name}_way.py").exists()
        assert name in ("persona", "traitscope") or "==" in (FOLDER / f"requirements-{name}.txt").read_text()


@pytest.mark.parametrize("file", sorted((FOLDER / "peers").glob("*_way.py")), ids=lambda p: p.stem)
def test_a_worker_finds_this_checkout_in_an_environment_that_has_no_traitscope(file):
    assert 'parents[3] / "__init__.py"), run_name="checkout")' in file.read_text()


def test_what_is_installed_without_its_dependencies_is_pinned_to_the_last_package():
    files = [f for f in FOLDER.glob("requirements-*.txt") if f.read_text().startswith("# --no-deps")]
    assert [f.stem for f in files] == ["requirements-pyreft"]
    lines = files[0].read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert not any(
        line.startswith("torch==") for line in lines
    )  # which build, requirements.txt and pip decide


def test_what_a_package_prints_while_it_is_imported_is_no_answer(monkeypatch, tmp_path):
    (tmp_path / "peers").mkdir()
    says = 'print("a banner")\nprint(\'{"ways": ["one"], "default": ""}\', flush=True)\ninput()'
    (tmp_path / "peers" / "loud_way.py").write_text(says)
    monkeypatch.setattr(client, "HERE", tmp_path / "peers")
    monkeypatch.setitem(client.NAMES, "loud", "loud")
    with client.Peer("loud", {}) as peer:
        assert peer.ways == ["one"]


def test_rounds_rotate_and_each_way_runs_once_a_round():
    order = []
    ways = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    assert len(run_rounds(ways, 3).seconds["a"]) == 3
    assert "".join(order) == "abcbcacab"


def test_a_ratio_is_taken_within_a_round_so_that_a_slow_round_does_not_count():
    drift = {"base": iter([1.0, 10.0, 1.5]), "way": iter([2.0, 20.0, 3.6])}
    found = run_rounds({name: lambda it=it: next(it) for name, it in drift.items()}, 3)
    row = summarise(found, "base")[1]
    assert (row["seconds"], row["seconds_low"], row["seconds_high"]) == (3.6, 2.0, 20.0)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (2.0, 2.0, pytest.approx(2.4))
    assert ratio_between(found, "way", "base") == 2.0


def test_a_way_that_fails_is_left_out_with_its_reason_and_the_others_stay():
    def fail() -> float:
        raise RuntimeError("first line\nno such layer")

    found = run_rounds({"bad": fail, "good": lambda: 1.0}, 2)
    rows = summarise(found, "good")
    assert [row["way"] for row in rows] == ["good", "bad"]
    assert rows[1]["not_run"] == "RuntimeError: no such layer"
    assert "| bad | not run: RuntimeError: no such layer |" in render_rows(rows)


@pytest.mark.parametrize(
    ("target", "is_met"),
    [
        (at_most("x", 1, 1.0), True),
        (at_most("x", 1, 1.1), False),
        (at_least("x", 2, 1.9), False),
        (at_least("x", 2, None), False),
    ],
)
def test_a_target_says_rightly_whether_it_is_met(target, is_met):
    assert target["met"] is is_met


def test_a_peer_that_is_not_installed_is_named_and_stops_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "ENVIRONMENTS", tmp_path)
    started, missing = client.start_peers({"task": "capture"}, ("repeng", "nnsight"))
    assert started == []
    assert missing == dict.fromkeys(("repeng", "nnsight"), "not installed; make bench-peers installs it")


def test_counted_operations_are_those_of_the_forward_pass(llama, monkeypatch):
    ids = torch.randint(5, 100, (2, 24))
    use_kernels(llama.model, SHIPPED)  # the counter does not know ours,
    monkeypatch.setattr(llama.model.config, "_attn_implementation", "eager")  # nor the fused attention
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        llama.model.base_model(input_ids=ids, use_cache=False)
    use_kernels(llama.model, kernel_choices()[0])
    attention = (
        4 * llama.n_layers * 2 * 24**2 * 32
    )  # the counter takes all scores, of which the causal half is needed
    assert capture_work(llama, [[24, 24]]).operations == pytest.approx(
        counter.get_total_flops() - attention / 2, rel=0.02
    )


def kept_of_a_pass(lm, layer: int) -> int:
    """Return the bytes that a pass above a layer keeps for its way back, the weights left out."""
    texts = as_texts([Text(list(range(10, 60)), 20, ""), Text(list(range(30, 80)), 30, "")])
    passes = Passes(UpperPart.of(lm, layer), [layer])
    passes.read(texts)
    weights, kept = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # all of them live, so that no two have one address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        units = [Unit((Row(text, 0, 1.0),), (text,), 0) for text in texts]
        passes.losses(torch.ones(1, lm.d_model, requires_grad=True), units)
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for place, size in sizes.items() if place not in weights)


def test_a_block_keeps_of_a_token_what_the_formula_says(llama):
    of_a_block = kept_of_a_pass(llama, 0) - kept_of_a_pass(llama, 1)
    assert of_a_block / (100 * 4) == pytest.approx(kept_floats(llama.model.config), rel=0.01)


def test_the_scarcer_of_two_bounds_the_time():
    ceiling = Ceiling(operations_per_s=100, bytes_per_s=10)
    assert (ceiling.seconds(Work(200, 5)), ceiling.bound(Work(200, 5))) == (2, "arithmetic")
    assert (ceiling.seconds(Work(200, 50)), ceiling.bound(Work(200, 50))) == (5, "memory traffic")


def test_hidden_states_are_ours_shifted_by_one_but_for_the_last(llama):
    ids = list(range(10, 30))
    theirs = persona_way.capture(llama.model, [{"ids": ids, "n_prompt": 8}])
    ours = pool_activations(llama, [Reading(ids, list(range(8, 20)))]).activations
    assert torch.allclose(theirs[:, 1:-1], ours[:, :-1], atol=1e-5)
    assert not torch.allclose(theirs[:, -1], ours[:, -1], atol=1e-2)


def test_the_reference_solves_what_the_methods_solve():
    case, methods = plant((60, 2, 24)), ("mean_diff", "probe", "gradient")
    functions = fit_functions(FitOptions())
    ours = {m: fit_directions(functions[m], case.pos, case.neg) for m in methods}
    tight = {layer: fit_layer(case, layer, methods) for layer in (0, 1)}
    assert min(cosines(ours, tight).values()) > 0.9999
    loose = {layer: {"probe": 1.1 * directions["probe"]} for layer, directions in tight.items()}
    own, theirs = probe_excess(case, functions["probe"](case.pos, case.neg), tight, loose)
    assert own < 1e-8 < theirs


def test_an_ica_that_rounding_decides_is_not_compared():
    noise = Case(*torch.randn(2, 40, 2, 60, generator=torch.Generator().manual_seed(0)))
    for case, kept in ((plant((200, 2, 64)), {"mean_diff", "ica"}), (noise, {"mean_diff"})):
        theirs = keep_settled(case, {layer: fit_layer(case, layer, ("mean_diff", "ica")) for layer in (0, 1)})
        assert [set(found) for found in theirs.values()] == [kept, kept]
    assert cosines({"ica": torch.ones(2, 60)}, theirs) == {"ica": None}


def test_a_planted_experiment_is_what_stage_4_reads(tmp_path):
    case = plant((20, 2, 8))
    captured = read_captured(write_experiment(tmp_path, case))
    assert torch.equal(
        captured.select("neg", "train", {row.key for row in captured.rows}, [0, 1]), case.neg[:9]
    )


def test_capture_is_measured_from_end_to_end_on_a_model_of_random_weights():
    results = capture.measure(BenchOptions(quick=True, shape="tiny"))
    ways = {row["way"]: row for row in results["rows"]}
    assert ways["traitscope"]["ratio"] > 0
    assert ways["counted"]["lm_head_calls"] == 0
    assert ways["counted"]["largest_difference_to_one_at_a_time"] < 1e-3
    assert ways["counted"]["of_200_texts"] < 1.05
    assert {t["target"] for t in results["targets"] if t["found"] is None} >= {
        "repeng / traitscope",
        "nnsight / traitscope",
    }
    assert "| traitscope / bare forward | ≤ 1.05 |" in render_subject(results)


def test_decoding_is_measured_and_says_what_needs_a_gpu():
    results = decoding.measure(BenchOptions(quick=True, shape="tiny"))
    ways = {row["way"].removesuffix(", batch 4"): row for row in results["rows"]}
    assert {name for name, row in ways.items() if "not_run" in row} == set(decoding.ON_GPU)
    assert [ways[name]["same_texts"] for name in (decoding.STATIC, decoding.EAGER)] == [1.0, 1.0]
    assert all(target["found"] is None for target in results["targets"])


def test_every_way_of_decoding_writes_the_same(monkeypatch):
    """On a CPU, where generate does not compile and a graph's steps are eager."""
    monkeypatch.setattr(decoding, "ON_GPU", ())
    results = decoding.measure(BenchOptions(quick=True, shape="tiny"))
    assert [row["same_texts"] for row in results["rows"]] == [1.0] * 5
    assert all(target["found"] > 0 for target in results["targets"])


def test_the_page_shows_the_results_that_lie_beside_the_benchmarks():
    assert insert(PAGE.read_text(), read_json(RESULTS)) == PAGE.read_text()
