"""The pipeline as a user runs it: on a tiny model for the mechanics, on the embedded one for the story."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from conftest import call_as_shell, copy_trait

from traitscope.extraction.report.summary import summarise_all
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.journal import Journal
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.model.loading import unload_lm
from traitscope.utils.records.activations import (
    fitted_sides,
    read_activations_about,
    read_captured,
    read_fitted_on,
)
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds, read_scores
from traitscope.utils.records.vectors import read_vector
from traitscope.utils.records.verdict import read_texts

CODE = Path(__file__).parents[1]
OPTIMISM, FORMALITY = "epistemic/optimism", "behavioral/formality"
SMALL = [
    *("--max-new-tokens", "6", "--subset", "3", "--random-pairs", "2"),
    *("--doses", "0.1,0.3", "--min-usable", "2"),
]
ALL_PASS = ["--pos-threshold", "0", "--neg-threshold", "100"]  # a random model's texts show no trait


def start(root: Path, *args: str) -> subprocess.Popen:
    environment = os.environ | {"TRAITSCOPE_ROOT": str(root)}
    command = [sys.executable, str(CODE / "extraction/run_pipeline.py"), *args]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_process(root: Path, *args: str, code: int = 0) -> str:
    """Run the pipeline in a process of its own and return what it printed."""
    process = start(root, *args)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a script's command line in this process (which has its libraries loaded already), and return
    what it printed.
    """

    def run_here(root: Path, *args: str, script: str = "run_pipeline", code: int = 0) -> str:
        monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
        capfd.readouterr()
        try:
            call_as_shell(import_module(f"traitscope.extraction.{script}"), *args)
            status = 0
        except SystemExit as exit:
            print(exit.code, file=sys.stderr)  # as the interpreter does
            status = 1
        printed = "".join(capfd.readouterr())
        assert status == code, printed
        assert "Traceback" not in printed
        return printed

    return run_here


def stages(output: str, word: str) -> set[tuple[str, str]]:
    """Return the (stage number, trait) of the lines that say `word`."""
    return {(m[1], m[2]) for m in re.finditer(rf"^\[(\d)_\w+\] (\S+): .*{word}", output, re.MULTILINE)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def home(tmp_path) -> Path:
    """A root with two traits of which nothing has run."""
    copy_trait(tmp_path, OPTIMISM, 12)
    copy_trait(tmp_path, FORMALITY, 12)
    return tmp_path


def settings_of(model: str) -> list[str]:
    return [
        "--experiment",
        "tiny",
        "--model",
        model,
        "--layers",
        "1-2",
        "--batch-size",
        "7",
        *SMALL,
        *ALL_PASS,
    ]


@pytest.fixture
def tiny(tiny_folders) -> list[str]:
    """The arguments of a run on a tiny model, of one trait."""
    return [*settings_of(tiny_folders["llama"]), "--traits", OPTIMISM]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_folders) -> tuple[Path, str]:
    """A root with both traits after a whole run in a process of its own, and what that printed. Nobody may
    change it.
    """
    root = tmp_path_factory.mktemp("prepared")
    for trait in (FORMALITY, OPTIMISM):
        copy_trait(root, trait, 12)
    return root, run_process(root, *settings_of(tiny_folders["llama"]), "--traits", f"{FORMALITY},{OPTIMISM}")


@pytest.fixture
def done(prepared, tmp_path) -> Path:
    """A copy of that root to work on."""
    shutil.copytree(prepared[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def require_whole(home: Path, said: str, experiment: str, vectors: int) -> None:
    """Check all that a first run of two traits leaves and says."""
    assert said.count("\nmodel: ") == 1  # loaded once, whatever the number of traits
    assert len(stages(said, r"\d s \(no completed run\)")) == 12
    base = home / "experiments" / experiment

    rows = json.loads((base / "summary.json").read_text())
    assert [row["trait"] for row in rows] == [FORMALITY, OPTIMISM]
    for row in rows:
        assert row["verdict"] in ("works", "not proven", "breaks the text")
        assert row["vectors"] == vectors
        assert row["effect"]["low"] <= row["effect"]["mean"] <= row["effect"]["high"]
        assert row["p"] >= 1 / 6  # two random pairs cannot say more
        assert set(row["example"]) == {"question", "unsteered", "plus", "minus"}
        assert row["trait"] in said
    with open(base / "summary.csv") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == [row["verdict"] for row in rows]
    assert "unsteered" in said
    assert "+vector" in said
    assert not list(base.rglob("*.progress.jsonl"))
    tests = json.loads((base / "steering" / OPTIMISM / "responses" / "test.json").read_text())["rows"]
    arms = {row["arm"] for row in tests if not row["arm"].startswith("strongest")}
    assert len(arms) == 2 + 2 * (2 + 2)  # unsteered, system prompt, ± of vector, shuffled and 2 random
    assert all(row["response_ids"] for row in tests)


def require_frugal(home: Path, again) -> None:
    """Check that a second run does nothing, and that after an edit just what reads it runs, as foreseen."""
    second = again()
    assert len(stages(second, "up to date")) == 12
    assert "model:" not in second

    definition = home / "datasets" / "traits" / OPTIMISM / "definition.txt"
    definition.write_text(definition.read_text() + " more")
    predicted, actual = again("--dry-run"), again()
    expected = {(number, OPTIMISM) for number in "025"}
    assert stages(predicted, "would run") == expected
    assert stages(actual, "input changed") == expected
    assert len(stages(actual, "up to date")) == 9


def test_a_whole_run_a_second_one_and_one_after_an_edit_do_what_they_should(
    run, prepared, done, tiny_folders
):
    settings = [*settings_of(tiny_folders["llama"]), "--traits", f"{FORMALITY},{OPTIMISM}"]

    def again(*more: str) -> str:
        unload_lm("studied")  # as in a process that has not loaded it yet
        return run(done, *settings, *more)

    require_whole(done, prepared[1], "tiny", 5 * 4)
    require_frugal(done, again)


@pytest.mark.slow
def test_the_embedded_model_goes_from_dataset_to_verdict(home):
    settings = [
        *("--experiment", "demo", "--traits", f"{FORMALITY},{OPTIMISM}"),
        *("--layers", "14", "--method", "mean_diff", *SMALL, "--max-new-tokens", "12"),
    ]
    first = run_process(home, *settings)
    assert "model: embedded on cpu" in first
    require_whole(home, first, "demo", 5 * 30)
    rows = json.loads((home / "experiments/demo/summary.json").read_text())
    assert all(row["coherence_before"] > 70 for row in rows)
    require_frugal(home, lambda *more: run_process(home, *settings, *more))


MOMENTS = (  # files after whose appearance a run is killed, in their order
    "vetting/scenario_scores.json",
    "stages/1_generate_responses.progress.jsonl",
    "responses/pos.json",
    "activations/all_layers.pt",
    "vectors/mean_diff_layer2.pt",
    "stages/5_steer_evaluate.progress.jsonl",
)
FOLDER = Path("experiments/tiny/extraction") / OPTIMISM


def kill_when_written(root: Path, moment: str, arguments: list[str]) -> None:
    """Start the pipeline in a process, and kill it when a file is there."""
    process = start(root, *arguments)
    while process.poll() is None and not (root / FOLDER / moment).exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, moment


def require_same_results(root: Path, uninterrupted: Path) -> None:
    """Check that the trait's results are the same bytes under two roots."""
    for part in ("vetting", "responses", "activations", "vectors"):
        assert contents(root / FOLDER / part) == contents(uninterrupted / FOLDER / part), part
    steering = f"experiments/tiny/steering/{OPTIMISM}"
    assert contents(root / steering) == contents(uninterrupted / steering)
    assert contents(root / steering)


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_and_ends_with_the_same_bytes(home, tiny, prepared):
    for moment in MOMENTS:
        kill_when_written(home, moment, tiny)
    final = run_process(home, *tiny)
    assert stages(final, "up to date") == {(n, OPTIMISM) for n in "01234"}
    require_same_results(home, prepared[0])


def test_killed_in_the_last_stage_it_resumes_and_ends_with_the_same_bytes(run, home, tiny, prepared):
    kill_when_written(home, MOMENTS[-1], tiny)
    assert stages(run(home, *tiny), "up to date") == {(n, OPTIMISM) for n in "01234"}
    require_same_results(home, prepared[0])


class KilledError(BaseException):
    """Ends a run as a kill does: nothing of ours catches it."""


def test_stopped_short_at_any_moment_it_resumes_and_ends_with_the_same_bytes(
    run, home, tiny, prepared, monkeypatch
):
    replace, add = os.replace, Journal.add
    for moment in MOMENTS:

        def killing(action, path_of, moment=moment):
            def act(*arguments):
                action(*arguments)
                if str(path_of(*arguments)).endswith(moment):
                    raise KilledError

            return act

        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(os, "replace", killing(replace, lambda source, target: target))
            patch.setattr(Journal, "add", killing(add, lambda journal, *_: journal.path))
            run(home, *tiny)
    final = run(home, *tiny)
    assert stages(final, "up to date") == {(n, OPTIMISM) for n in "01234"}
    require_same_results(home, prepared[0])


def test_one_bad_trait_does_not_stop_the_others_and_the_last_lines_say_what_to_do(run, home, tiny):
    (home / "datasets" / "traits" / FORMALITY / "negative.txt").write_text("")
    arguments = [a if a != OPTIMISM else f"{FORMALITY},no/such,{OPTIMISM}" for a in tiny]
    output = run(home, *arguments, "--no-steering", code=1)
    assert len(stages(output, r"\d s \(no completed run\)")) == 5
    assert f"{FORMALITY}: failed at 0_vet_scenarios: {FORMALITY}: the neg side is empty" in output
    assert "no/such: failed at 0_vet_scenarios: unknown trait no/such" in output
    assert [row["trait"] for row in json.loads((home / "experiments/tiny/summary.json").read_text())] == [
        OPTIMISM
    ]


def test_a_numbered_stage_by_hand_uses_the_experiments_settings(run, done, tiny):
    by_hand = run(done, "--experiment", "tiny", "--trait", OPTIMISM, script="4_fit_vectors")
    assert "up to date" in by_hand
    changed = run(
        done,
        "--experiment",
        "tiny",
        "--trait",
        OPTIMISM,
        "--methods",
        "mean_diff",
        "--fit-layers",
        "1",
        script="4_fit_vectors",
    )
    assert re.search(r"1 vectors, .*methods \[.*\] → \['mean_diff'\]", changed)
    forced = run(done, "--experiment", "tiny", "--trait", OPTIMISM, "--force", script="2_vet_responses")
    assert "(--force)" in forced


def test_moving_a_threshold_judges_nothing_again(run, done, tiny):
    moved = run(done, *tiny, "--no-steering", "--neg-threshold", "99.5")
    assert stages(moved, "neg_threshold") == {("4", OPTIMISM)}
    assert "note: --neg-threshold 99.5 overrides 100.0" in moved


def test_vectors_of_one_model_steer_another(run, home, tiny_folders, tiny):
    arguments = [a if a != tiny_folders["llama"] else tiny_folders["base"] for a in tiny]
    output = run(home, *arguments, "--steer-experiment", "chat", "--steer-model", tiny_folders["sibling"])
    results = json.loads((home / "experiments" / "chat" / "steering" / OPTIMISM / "results.json").read_text())
    assert results["made_by"]["model"]["name"] == tiny_folders["sibling"]
    assert results["made_by"]["vectors"]["experiment"] == "tiny"
    assert results["made_by"]["vectors"]["model"]["name"] == tiny_folders["base"]
    assert len(re.findall(r"^model: ", output, re.MULTILINE)) == 2
    assert json.loads((home / "experiments/chat/config.json").read_text())["model"] == tiny_folders["sibling"]
    refused = run(
        home, *arguments, "--steer-experiment", "shallow", "--steer-model", tiny_folders["shallow"], code=1
    )
    assert f"does not fit {tiny_folders['shallow']}: layers 4 against 3" in refused


def test_failed_scenarios_are_dropped_on_request(run, home, tiny):
    strict = ["--stages", "0-1", "--drop-failed-scenarios", "--pos-threshold", "55", "--neg-threshold", "45"]
    output = run(home, *tiny, *strict)
    vetting = json.loads(
        (home / "experiments/tiny/extraction" / OPTIMISM / "vetting/scenario_scores.json").read_text()
    )
    scores, failed = vetting["rows"], vetting["vetted_at"]["failed_lines"]
    assert failed["pos"] == [r["group"] + 1 for r in scores if r["side"] == "pos" and r["value"] < 55]
    assert f"failed pos lines {' '.join(map(str, failed['pos'][:6]))}" in output
    expected = {f"pos:{r['group']}:0" for r in scores if r["side"] == "pos" and r["value"] >= 55}
    made = json.loads((home / "experiments/tiny/extraction" / OPTIMISM / "responses/pos.json").read_text())
    assert {row["key"] for row in made["rows"]} == expected
    assert 0 < len(expected) < 12
    assert json.loads(
        (home / "experiments/tiny/extraction" / OPTIMISM / "stages/1_generate_responses.json").read_text()
    )["params"]["drop_failed_scenarios"]


def test_no_vet_uses_every_response(run, home, tiny):
    lenient = [a for a in tiny if a not in ALL_PASS]
    output = run(home, *lenient, "--no-vet", "--no-steering")
    assert {number for number, _ in stages(output, "no completed run")} == {"1", "3", "4"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--traits", "../../etc"], "bad trait name"),
        (["--traits", OPTIMISM, "--experiment", "a/b"], "bad experiment name"),
        (["--traits", OPTIMISM, "--experiment", "my-own"], "pass --model"),
        (["--traits", OPTIMISM, "--metods", "ica"], "unknown flag --metods; did you mean --methods?"),
        (
            ["--traits", OPTIMISM, "--random-pairs", "many"],
            "--random-pairs expects a whole number, not 'many'",
        ),
        (["--traits", OPTIMISM, "--stages", "4-9"], "stages go from 0 to 5"),
        ([], "name a trait"),
    ],
)
def test_a_wrong_command_is_one_line_and_loads_nothing(run, home, arguments, message):
    output = run(
        home, *(["--experiment", "demo"] if "--experiment" not in arguments else []), *arguments, code=1
    )
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert not (home / "experiments").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "pca", "--stages", "4"], "unknown method 'pca'; choose mean_diff, probe"),
        (["--fit-layers", "77", "--stages", "4"], "no layer 77; the model has layers 0 to 3"),
        (["--min-usable", "50", "--stages", "4"], "only 12 usable pos responses, 50 are needed"),
        (["--layers", "77", "--stages", "5"], "no layer 77"),
        (["--method", "pca", "--stages", "5"], "unknown method 'pca'; choose mean_diff, probe"),
        (["--position", "tail", "--stages", "3"], "unknown position 'tail'"),
        (
            ["--component", "heads", "--stages", "3"],
            "--component expects one of residual, attn_out, mlp_out, not 'heads'",
        ),
        (["--probe-scale", "std"], "expects one of norm, raw"),
        (["--judge", "oracle", "--stages", "2"], "unknown judge 'oracle'"),
    ],
)
def test_an_impossible_setting_is_one_clear_line_and_keeps_earlier_results(
    run, done, tiny, arguments, message
):
    before = contents(done / "experiments")
    output = run(done, *tiny, *arguments, code=1)
    assert message in output
    after = contents(done / "experiments")
    assert {k: v for k, v in before.items() if "/stages/" not in k and "summary" not in k} == {
        k: v for k, v in after.items() if "/stages/" not in k and "summary" not in k
    }


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(run, home, tiny):
    run(home, *tiny, "--stages", "0")
    scores = contents(home / FOLDER / "vetting")
    assert scores
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))  # what a full quota looks like to a process
    try:
        said = run(home, *tiny, "--no-steering", code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large; make room or make it writable, then run the same command again" in said
    assert contents(home / FOLDER / "vetting") == scores
    assert len(stages(run(home, *tiny, "--no-steering"), "no completed run")) == 4


SPOILED = {
    "a pipe": lambda f: (f.unlink(), os.mkfifo(f)),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
    "a link to nothing": lambda f: (f.unlink(), f.symlink_to("nowhere")),
    "a device": lambda f: (f.unlink(), f.symlink_to("/dev/zero")),
    "not UTF-8": lambda f: f.write_bytes(b"\xff\xfe\x00"),
    "empty": lambda f: f.write_bytes(b""),
}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", ["positive.txt", "definition.txt", "steering.json"])
def test_one_traits_bad_file_does_not_stop_the_others(run, home, tiny, name, how):
    SPOILED[how](home / "datasets/traits" / FORMALITY / name)
    both = [a if a != OPTIMISM else f"{FORMALITY},{OPTIMISM}" for a in tiny]
    output = run(home, *both, "--stages", "1", "--max-new-tokens", "2", code=1)
    assert "error: 1 of 2 traits failed" in output
    assert len(re.findall(f"^  {FORMALITY}: failed at 1_generate_responses: .", output, re.MULTILINE)) == 1
    assert (home / FOLDER / "stages/1_generate_responses.json").exists()


def test_a_damaged_result_costs_nobody_elses_row(run, done, tiny):
    (done / "experiments/tiny/steering" / FORMALITY / "results.json").write_text("[]")
    output = run(done, *tiny, "--no-steering")
    assert summary_of(done, OPTIMISM)["verdict"]
    assert "results.json" in summary_of(done, FORMALITY)["problem"]
    assert OPTIMISM in output


def test_a_first_result_is_never_without_the_settings_it_was_made_with(run, home, tiny, monkeypatch):
    from traitscope.utils.stage import manifest

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("traitscope.utils.stage.stage.write_manifest", dies)
    assert "interrupted" in run(home, *tiny, "--stages", "1", code=1)
    assert manifest.read_manifest(home / FOLDER / "stages/1_generate_responses.json") == manifest.NOT_DONE
    assert read_json(home / "experiments/tiny/config.json")["pos_threshold"] == 0


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_in_the_folders_place_is_one_line_that_names_it(run, home, tiny, kind):
    place = home / "experiments"
    place.write_text("") if kind == "file" else place.symlink_to("nowhere")
    assert f"{place} must be a folder, and is none" in run(home, *tiny, "--stages", "1", code=1)


def test_two_pipelines_of_different_traits_leave_one_summary_of_both(run, done, tiny):
    run(done, *tiny, "--no-steering")  # of one trait
    rows = json.loads((done / "experiments/tiny/summary.json").read_text())
    assert [row["trait"] for row in rows] == [FORMALITY, OPTIMISM]


def forge(file: Path, change: Callable[[dict], None]) -> None:
    """Change a file and seal it anew: whole, ours by its looks, and not what was written."""
    content = read_json(file)
    change(content)
    write_json(file, content)


def twice(rows: list) -> None:
    rows.append(rows[0])


FORGERIES = {
    "texts of another run": (
        lambda p: p.steering_responses("test"),
        lambda c: c["rows"][0].update(response="other"),
        lambda p: read_texts(p, "test"),
        "holds other texts than results.json is of",
    ),
    "a held-out response among the fitted": (
        lambda p: p.fitted_on,
        lambda c: c["train"].append(c["val"].pop()),
        lambda p: fitted_sides(read_captured(p), read_fitted_on(p), [0]),
        "another split",
    ),
    "a response fitted twice": (lambda p: p.fitted_on, lambda c: twice(c["train"]), read_fitted_on, "twice"),
    "activations twice": (
        lambda p: p.activations_metadata,
        lambda c: c["rows"].__setitem__(1, c["rows"][0]),
        read_activations_about,
        "twice",
    ),
    "sides exchanged": (
        lambda p: p.activations_metadata,
        lambda c: [r.update(side={"pos": "neg", "neg": "pos"}[r["side"]]) for r in c["rows"]],
        read_activations_about,
        "is not of the (pos|neg) side",
    ),
    "a row of the activations dropped": (
        lambda p: p.activations_metadata,
        lambda c: c["rows"].pop(),
        read_activations_about,
        "not as many rows as responses",
    ),
    "a response under another's key": (
        lambda p: p.responses("pos"),
        lambda c: c["rows"][0].update(pair=5),
        read_responses,
        "another row's key",
    ),
    "a response twice": (lambda p: p.responses("pos"), lambda c: twice(c["rows"]), read_responses, "twice"),
    "the other side's responses": (
        lambda p: p.responses("pos"),
        lambda c: c.update(read_json(Path(os.environ["OTHER_SIDE"])), side="pos"),
        read_responses,
        "rows of side neg, not of pos",
    ),
    "a score twice": (
        lambda p: p.response_scores,
        lambda c: twice(c["rows"]),
        lambda p: read_scores(p, "responses"),
        "twice",
    ),
    "scores of scenarios for those of responses": (
        lambda p: p.response_scores,
        lambda c: c.update(of="scenarios"),
        lambda p: read_scores(p, "responses"),
        "of scores scenarios, not of responses",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_whole_file_that_does_not_fit_the_others_is_refused(done, monkeypatch, name):
    place, change, read, words = FORGERIES[name]
    paths = TraitPaths("tiny", OPTIMISM, done)
    monkeypatch.setenv("OTHER_SIDE", str(paths.responses("neg")))
    read(paths)
    forge(place(paths), change)
    with pytest.raises(UserError, match=words) as caught:
        read(paths)
    assert "\n" not in str(caught.value)


def test_vectors_of_earlier_activations_are_used_by_nobody(run, done, tiny):
    run(done, *tiny, "--only-stage", "3", "--position", "response[:2]")
    paths = TraitPaths("tiny", OPTIMISM, done)
    with pytest.raises(UserError, match="fitted on other activations than those that are there; run 4_fit"):
        read_vector(paths, ("mean_diff", 1))
    run(done, *tiny, "--stages", "3-4", "--position", "response[:2]")
    read_vector(paths, ("mean_diff", 1))


def test_a_summary_waits_for_another_that_is_being_written(done):
    paths, order = ExperimentPaths("tiny", done), []
    held = threading.Event()

    def hold_it() -> None:
        with hold(paths.summary_lock, ""):
            held.set()
            time.sleep(0.3)
            order.append("the other")

    other = threading.Thread(target=hold_it)
    other.start()
    held.wait()
    summarise_all(paths, "", Thresholds())
    order.append("this")
    other.join()
    assert order == ["the other", "this"]


def test_a_summary_that_cannot_be_written_hides_no_failure(run, home, tiny):
    both = [a if a != OPTIMISM else f"{FORMALITY},{OPTIMISM}" for a in tiny]
    (home / "datasets/traits" / FORMALITY / "positive.txt").unlink()
    (home / "experiments/tiny/.summary.lock").mkdir(parents=True)
    output = run(home, *both, "--stages", "1", code=1)
    assert "error: 1 of 2 traits failed" in output
    assert f"  {FORMALITY}: failed at 1_generate_responses" in output
    assert "  no summary: " in output


def summary_of(root: Path, trait: str) -> dict:
    """Return a trait's row of the summary."""
    rows = json.loads((root / "experiments/tiny/summary.json").read_text())
    return next(row for row in rows if row["trait"] == trait)


def test_a_refit_leaves_no_vector_of_an_earlier_one(run, done, tiny):
    vectors = done / "experiments/tiny/extraction" / OPTIMISM / "vectors"
    assert len(list(vectors.glob("*.pt"))) == 5 * 4
    # the best one's luck was measured; all of so few held-out responses may be in order by luck
    assert 1 <= read_fitted_on(TraitPaths("tiny", OPTIMISM, done)).candidates < 4 * 4
    output = run(done, *tiny, "--no-steering", "--methods", "mean_diff", "--fit-layers", "1,2")
    assert sorted(p.name for p in vectors.glob("*.pt")) == ["mean_diff_layer1.pt", "mean_diff_layer2.pt"]
    assert summary_of(done, OPTIMISM)["vectors"] == 2
    assert "2 vectors" in output
    assert re.search(r"best held-out AUROC \d\.\d\d \[\d\.\d\d, \d\.\d\d\], best of 2,", output)


def test_scores_and_activations_of_different_responses_are_not_mixed(run, done, tiny):
    longer = [*tiny, "--max-new-tokens", "7"]
    output = run(done, *longer, "--stages", "1,3-4", code=1)
    assert "scores and activations are of different responses; run 2_vet_responses" in output
    run(done, *longer, "--no-steering")


def test_activations_are_captured_by_the_model_that_wrote_the_ids(run, done, tiny, tiny_folders):
    other = [a if a != tiny_folders["llama"] else tiny_folders["sibling"] for a in tiny]
    assert "the responses are token ids of" in run(done, *other, "--stages", "3", code=1)


def test_a_fine_tune_saved_over_a_model_is_another_model(run, home, tiny, tiny_folders, tmp_path):
    folder = tmp_path / "my-model"
    shutil.copytree(tiny_folders["llama"], folder)
    mine = [a if a != tiny_folders["llama"] else str(folder) for a in tiny]
    run(home, *mine, "--stages", "1")
    assert "up to date" in run(home, *mine, "--stages", "1")
    shutil.copy(Path(tiny_folders["sibling"]) / "model.safetensors", folder)
    assert re.search(r"model \S+#\w+ → \S+#\w+", run(home, *mine, "--stages", "1"))


def test_results_of_a_stage_that_has_not_completed_are_not_reported(run, done, tiny):
    assert summary_of(done, OPTIMISM)["verdict"]
    (done / FOLDER / "stages/5_steer_evaluate.json").unlink()  # as a killed re-run leaves it
    run(done, *tiny, "--no-steering")
    assert summary_of(done, OPTIMISM)["verdict"] is None
    assert summary_of(done, FORMALITY)[
        "verdict"
    ]  # of the run before, which a run of one trait leaves in place


def test_a_plan_is_printed_for_every_trait_whatever_its_state(run, done, tiny):
    shutil.rmtree(done / "experiments/tiny/extraction" / FORMALITY)
    (done / FOLDER / "stages/5_steer_evaluate.json").unlink()
    both = [a if a != OPTIMISM else f"{OPTIMISM},{FORMALITY}" for a in tiny]
    assert len(stages(run(done, *both, "--dry-run"), "would run")) == 1 + 6
    downstream = run(done, *tiny, "--methods", "mean_diff", "--dry-run")
    assert stages(downstream, "would run") == {("4", OPTIMISM), ("5", OPTIMISM)}


def test_degenerate_activations_name_trait_method_layer_and_cause(run, done, tiny):
    import torch

    from traitscope.utils.files.tensors import save_tensor

    folder = done / "experiments/tiny/extraction" / OPTIMISM / "activations"
    activations, metadata = (
        torch.load(folder / "all_layers.pt", weights_only=True),
        json.loads((folder / "metadata.json").read_text()),
    )
    activations[:, 2] = 1.0
    write_json(
        folder / "metadata.json", metadata | {"sha256": save_tensor(folder / "all_layers.pt", activations)}
    )
    output = run(done, *tiny, "--only-stage", "4", "--fit-layers", "1-3", code=1)
    assert f"{OPTIMISM}, method mean_diff, layer 2: the activations are constant" in output
    save_tensor(folder / "all_layers.pt", activations * float("nan"))
    assert "is not the file its metadata describes" in run(
        done, *tiny, "--only-stage", "4", "--fit-layers", "1-3", code=1
    )


def test_ids_are_the_record_and_text_is_for_people(run, done, tiny):
    folder = done / "experiments/tiny/extraction" / OPTIMISM
    before = (folder / "activations/all_layers.pt").read_bytes()
    responses = read_json(folder / "responses/pos.json")
    for row in responses["rows"]:
        row["response"] = row["response"].strip() + " edited"
    write_json(folder / "responses/pos.json", responses)
    assert "input changed" in run(done, *tiny, "--only-stage", "3")
    assert (folder / "activations/all_layers.pt").read_bytes() == before
