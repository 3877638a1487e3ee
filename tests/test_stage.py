"""A stage runs when its manifest no longer tells the truth, and only then."""

import errno
import hashlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.stage import manifest as manifest_module
from traitscope.utils.stage.experiment import resolve_settings
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.manifest import provenance, why_outdated
from traitscope.utils.stage.stage import How, Stage, execute, run_stage, take_digests, why_run

CHECKOUT = Path(__file__).resolve().parents[1]
STAGE = "4_fit_vectors"


@pytest.fixture
def recorder() -> SimpleNamespace:
    """What a fake stage was asked to do, and what it does besides."""
    return SimpleNamespace(calls=[], on_run=lambda paths: None)


@pytest.fixture
def stage(recorder) -> Stage:
    """Read every text of the dataset and write two files."""

    def scale(
        paths,
        *,
        scale: float = 1.0,
        batch_size: int = 8,
        steer: bool = False,
        dose: float = 0.5,
        methods: tuple[str, ...] = ("probe",),
        note: str = "",
    ) -> dict:
        recorder.calls.append(paths.trait)
        recorder.on_run(paths)
        texts = [file.read_text() for file in sorted(paths.dataset.iterdir())]
        write_text(paths.activations, "".join(texts) * int(scale))
        write_json(paths.activations_metadata, {"n": len(texts)})
        return {"texts": len(texts), "AUROC": 0.9251, "verdict": "works", "nothing": None}

    return Stage(
        name=STAGE,
        run=scale,
        inputs=lambda paths, params: sorted(paths.dataset.glob("*.txt")),
        outputs=lambda paths, params: [paths.activations, paths.activations_metadata],
        cosmetic=("batch_size",),
        only_with={"dose": "steer"},
    )


@pytest.fixture
def make_trait(tmp_path):
    """Return the paths of a trait with a dataset of two files."""

    def make(trait: str) -> TraitPaths:
        paths = TraitPaths("demo", trait, tmp_path)
        for name in ("one", "two"):
            write_text(paths.dataset / f"{name}.txt", f"{trait} {name}\n")
        return paths

    return make


@pytest.fixture
def paths(make_trait) -> TraitPaths:
    return make_trait("category/name")


@pytest.fixture
def params(stage, paths):
    """params(scale="2"): the stage's parameters where a config says so, or a flag with these words."""

    def params_of(**values):
        write_json(ExperimentPaths(paths.experiment, paths.root).config, values)
        return stage.params(resolve_settings(ExperimentPaths("demo", paths.root), stage.flags, {}))

    return params_of


@pytest.fixture
def why(stage, paths, params):
    """why(scale=2.0): the reason to run with these values."""
    return lambda **values: why_run(stage, paths, params(**values))


@pytest.fixture
def run(stage, paths, params):
    return lambda force=False, **values: execute(stage, paths, params(**values), How(force=force))


@pytest.fixture
def done(run, paths) -> TraitPaths:
    """The trait, once the stage has run with its defaults."""
    assert run()
    return paths


def raising(error):
    def fail(_paths):
        raise error

    return fail


def read_manifest(paths) -> dict:
    return read_json(paths.manifest(STAGE))


def edit_manifest(paths, **changes) -> None:
    write_json(paths.manifest(STAGE), read_manifest(paths) | changes)


def test_a_stage_that_never_ran_has_no_completed_run(why):
    assert why() == "no completed run"


def test_a_stage_that_has_run_has_no_reason(done, why):
    assert why() is None


BROKEN = ["", "{", "[]", "null", "{}", '{"params": {}, "inputs": {}, "version": 1}', "\udcff"]
MISSHAPEN = [
    *[
        '{"params": [], "inputs": {}, "outputs": [], "version": 1}',
        '{"params": {}, "inputs": [], "outputs": [], "version": 1}',
    ],
    *['{"params": {}, "inputs": {}, "outputs": [1], "version": 1}', "[" * 100_000],
]


@pytest.mark.parametrize(
    "content", [*BROKEN, *(pytest.param(content) for content in MISSHAPEN)], ids=lambda c: ascii(c[:60])
)
def test_a_broken_manifest_is_a_reason_and_no_crash(stage, done, content):
    done.manifest(STAGE).write_bytes(content.encode(errors="surrogateescape"))
    flagless = replace(
        stage, run=lambda paths: {}
    )  # no parameters, so that only the manifest's shape can matter
    assert why_run(flagless, done, {}) == "manifest unreadable"


def test_a_new_version_is_a_reason(stage, done):
    assert why_run(replace(stage, version=2), done, stage.params({})) == "stage version 1 → 2"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        *[
            ({"scale": 2.0}, "scale 1.0 → 2.0"),
            ({"scale": "2"}, "scale 1.0 → 2.0"),
            ({"steer": True}, "steer False → True"),
        ],
        *[
            ({"methods": ("ica", "probe")}, "methods ['probe'] → ['ica', 'probe']"),
            ({"note": "你好"}, "note  → 你好"),
        ],
    ],
)
def test_another_parameter_is_a_reason(done, why, values, reason):
    assert why(**values) == reason


@pytest.mark.parametrize(
    "values",
    [
        {"scale": "1"},
        {"scale": 1},
        {"methods": ["probe"]},
        {"methods": "probe"},
        {"steer": "false"},
        {"unknown": 1},
    ],
)
def test_the_same_parameter_written_otherwise_is_none(done, why, values):
    assert why(**values) is None


def test_a_parameter_that_appeared_or_went_since_is_a_reason(done, why):
    params = read_manifest(done)["params"]
    edit_manifest(done, params={name: value for name, value in params.items() if name != "scale"})
    assert why() == "scale None → 1.0"
    edit_manifest(done, params=params | {"old": 3})
    assert why() == "old 3 → None"


@pytest.mark.parametrize("name", ["activations/all_layers.pt", "activations/metadata.json"])
def test_half_an_output_is_not_done(done, why, run, name):
    (done.dir / name).unlink()
    assert why() == f"output missing: experiments/demo/extraction/category/name/{name}"
    assert run()
    assert why() is None


def test_an_edited_input_is_a_reason(done, why):
    write_text(done.dataset / "two.txt", "edited")
    assert why() == "input changed: datasets/traits/category/name/two.txt"


def test_an_input_that_came_or_went_is_a_reason(done, why):
    write_text(done.dataset / "three.txt", "new")
    assert why() == "input changed: datasets/traits/category/name/three.txt"
    (done.dataset / "three.txt").unlink()
    assert why() is None
    (done.dataset / "one.txt").unlink()
    assert why() == "input changed: datasets/traits/category/name/one.txt"


def test_touching_a_file_or_writing_the_same_bytes_changes_nothing(done, why):
    for file in [*done.dataset.iterdir(), done.activations, done.manifest(STAGE)]:
        os.utime(file, (1, 1))
        write_text(file, file.read_text())
    assert why() is None


def test_a_file_the_stage_does_not_read_changes_nothing(done, why):
    write_text(done.dataset / "notes.md", "not an input")
    assert why() is None


def test_a_cosmetic_parameter_does_not_rerun_and_is_not_recorded(done, why):
    assert why(batch_size=1) is None
    assert "batch_size" not in read_manifest(done)["params"]


def test_a_parameter_counts_only_with_its_switch(done, why, run):
    assert why(dose=0.9) is None
    assert "dose" not in read_manifest(done)["params"]
    run(steer=True, dose=0.5)
    assert why(steer=True, dose=0.5) is None
    assert why(steer=True, dose=0.9) == "dose 0.5 → 0.9"


def test_a_second_run_does_nothing_and_says_so(done, run, recorder, capsys):
    before = done.manifest(STAGE).read_bytes()
    capsys.readouterr()
    assert run() is False
    assert recorder.calls == ["category/name"]
    assert done.manifest(STAGE).read_bytes() == before
    assert capsys.readouterr().out == f"[{STAGE}] category/name: up to date\n"


def test_a_run_ends_with_one_line_that_says_what_and_why(run, capsys):
    run()
    out = capsys.readouterr().out
    assert out.startswith(f"[{STAGE}] category/name: 2 texts, AUROC 0.93, verdict works, ")
    assert out.endswith(" s (no completed run)\n")


def test_traits_and_experiments_have_manifests_of_their_own(done, stage, make_trait):
    assert why_run(stage, make_trait("other/name"), stage.params({})) == "no completed run"
    assert why_run(stage, done.within("other"), stage.params({})) == "no completed run"


def test_the_manifest_is_deleted_before_the_run(done, run, recorder):
    seen = []
    recorder.on_run = lambda paths: seen.append(paths.manifest(STAGE).exists())
    run(force=True)
    assert seen == [False]
    assert [f.name for f in done.manifest(STAGE).parent.iterdir() if f.suffix != ".lock"] == [f"{STAGE}.json"]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("defect"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")],
    ids=lambda e: type(e).__name__,
)
def test_a_crash_before_anything_is_written_loses_no_result(done, run, why, recorder, error):
    recorder.on_run = raising(error)
    with pytest.raises(type(error)):
        run(scale=2.0)
    assert why() is None
    assert why(scale=2.0) == "scale 1.0 → 2.0"


def test_a_crash_after_an_output_is_told_by_its_content(done, run, why, recorder):
    def crash(paths):
        write_text(paths.activations, "of the run that crashed")
        raise OSError(errno.ENOSPC, "full")

    recorder.on_run = crash
    with pytest.raises(OSError, match="full"):
        run(force=True)
    assert why() == "output changed: experiments/demo/extraction/category/name/activations/all_layers.pt"
    recorder.on_run = lambda paths: None
    assert run()
    assert why() is None


def test_a_crash_of_an_older_manifest_leaves_no_completed_run(done, run, why, recorder):
    edit_manifest(done, outputs=list(read_manifest(done)["outputs"]))  # names alone, as they once were
    assert why() is None
    recorder.on_run = raising(OSError(errno.ENOSPC, "full"))
    with pytest.raises(OSError, match="full"):
        run(force=True)
    assert why() == "no completed run"


def test_a_kill_leaves_no_completed_run(done, run, recorder):
    seen = []
    recorder.on_run = lambda paths: seen.extend(f.name for f in paths.manifest(STAGE).parent.glob("*.json"))
    run(force=True)
    assert seen == []


@pytest.mark.parametrize("damage", [lambda b: b + b" ", lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b""])
def test_a_changed_output_is_a_reason(done, why, run, damage):
    done.activations.write_bytes(damage(done.activations.read_bytes()))
    assert why() == "output changed: experiments/demo/extraction/category/name/activations/all_layers.pt"
    assert run()
    assert why() is None


def test_only_a_reading_check_sees_what_kept_size_and_time(done, stage):
    about = done.activations.stat()
    content = done.activations.read_bytes()
    done.activations.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(done.activations, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert why_run(stage, done, stage.params({})) is None
    assert "output changed" in str(why_run(stage, done, stage.params({}), verify=True))
    assert execute(stage, done, stage.params({}), How(verify=True))


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_what_is_no_file_is_no_output(done, why, kind):
    done.activations.unlink()
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "link to nothing": lambda p: os.symlink("/nowhere/x", p)}
    make[kind](done.activations)
    assert why() == "output changed: experiments/demo/extraction/category/name/activations/all_layers.pt"


def test_a_journal_that_outlived_its_manifest_is_deleted(done, run):
    write_text(done.journal(STAGE), "of a run that was killed behind its manifest")
    assert run() is False
    assert not done.journal(STAGE).exists()


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_what_a_manifest_names_outside_is_not_looked_at(done, monkeypatch, tmp_path, part):
    link = done.dataset / "linked.txt"
    write_text(tmp_path.parent / f"{tmp_path.name}-secret", "secret")
    link.symlink_to(tmp_path.parent / f"{tmp_path.name}-secret")
    edit_manifest(done, **{part: {done.relative(link): None}})
    monkeypatch.setattr(manifest_module, "digest", lambda *_: pytest.fail("it was read"))
    assert "lies outside experiments/ and datasets/" in str(why_outdated(done.manifest(STAGE), done.root))


@pytest.mark.parametrize("target", ["/nowhere/x", f"{STAGE}.json"])
def test_a_manifest_that_is_a_link_to_nothing_is_not_taken_for_none(done, why, run, target):
    done.manifest(STAGE).unlink()
    done.manifest(STAGE).symlink_to(target)
    with pytest.raises(UserError, match="is a link to nothing"):
        done.has_completed(STAGE)
    assert why() == "manifest unreadable"
    assert run()
    assert done.has_completed(STAGE)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x", "a/../../../x", "", 5])
@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_a_manifest_that_names_a_file_elsewhere_is_not_read(done, why, part, name):
    edit_manifest(done, **{part: {name: None} if part == "inputs" else [name]})
    assert why() == "manifest unreadable" or name in ("", 5)


def test_another_traits_manifest_is_not_believed(done, why, stage, make_trait):
    other = make_trait("other/name")
    execute(stage, other, stage.params({}))
    done.manifest(STAGE).write_bytes(other.manifest(STAGE).read_bytes())
    assert why() == "manifest of other/name"


def test_who_waits_for_another_process_finds_its_work_done(stage, paths, capsys):
    lock, params = paths.lock(stage.name), stage.params({})
    first = threading.Event()

    def hold_and_run() -> None:
        with hold(lock, "busy"):
            first.set()
            time.sleep(0.3)
            _run_unlocked(stage, paths, params)

    thread = threading.Thread(target=hold_and_run)
    thread.start()
    first.wait()
    assert execute(stage, paths, params, How(wait=True)) is False
    thread.join()
    assert "another process is running" in (said := capsys.readouterr().out)
    assert "done by another process" in said


def _run_unlocked(stage, paths, params) -> None:
    from traitscope.utils.stage import stage as module

    module._execute(stage, paths, params, take_digests(stage, paths, params), "first", lambda: None)


def test_what_must_be_kept_is_kept_before_the_manifest(stage, paths):
    def refuse() -> None:
        assert paths.activations.exists()
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        execute(stage, paths, stage.params({}), keep=refuse)
    assert why_run(stage, paths, stage.params({})) == "no completed run"


def test_a_lock_in_a_folder_that_is_none_is_one_line(tmp_path):
    write_text(tmp_path / "stages", "a file")
    with (
        pytest.raises(UserError, match=f"{tmp_path / 'stages'} must be a folder, and is none"),
        hold(tmp_path / "stages" / ".lock", "busy"),
    ):
        pass


@pytest.mark.parametrize("has_wait", [True, False])
def test_who_finds_a_lock_held_is_told_of_a_flag_only_where_there_is_one(tmp_path, has_wait):
    other = hold(tmp_path / ".lock", "busy", wait=False if has_wait else None)
    with (
        hold(tmp_path / ".lock", "busy"),
        pytest.raises(UserError, match=r"^busy; wait for it") as caught,
        other,
    ):
        pass
    assert ("--wait" in str(caught.value)) == has_wait


@pytest.mark.parametrize("make", [os.mkdir, lambda p: os.symlink("/nowhere/x", p), os.mkfifo])
def test_a_lock_that_is_no_file_is_one_line(stage, paths, make):
    paths.lock(stage.name).parent.mkdir(parents=True)
    make(paths.lock(stage.name))
    with pytest.raises(UserError, match=r"no lock; delete it$"):
        execute(stage, paths, stage.params({}))


def test_a_run_that_wrote_one_of_two_outputs_is_not_completed(stage, paths, why):
    half = replace(stage, outputs=lambda paths, params: [paths.activations, paths.vector("probe", 0)])
    with pytest.raises(AssertionError, match="probe_layer0"):
        execute(half, paths, stage.params({}))
    assert why() == "no completed run"


def test_an_input_edited_during_the_run_makes_the_result_stale(paths, run, why, recorder):
    recorder.on_run = lambda paths: write_text(paths.dataset / "one.txt", "edited meanwhile")
    run()
    assert why() == "input changed: datasets/traits/category/name/one.txt"


def test_force_reruns_what_is_up_to_date(done, run, recorder):
    assert run(force=True)
    assert len(recorder.calls) == 2
    assert read_manifest(done)["reason"] == "--force"


@pytest.mark.parametrize("force", [False, True])
def test_only_force_forgets_the_journal(paths, run, recorder, force):
    seen = []
    write_text(paths.journal(STAGE), "{}\n")
    recorder.on_run = lambda paths: seen.append(paths.journal(STAGE).exists())
    run(force=force)
    assert seen == [not force]


def test_a_run_first_sweeps_up_what_a_killed_one_left_half_written(paths, run):
    left = [
        folder / ".x.json.99999999.tmp"
        for folder in (paths.dir / "activations", paths.steering / "responses", paths.dataset)
    ]
    for file in left:
        write_text(file, "half")
    run()
    assert [file.exists() for file in left] == [False, False, True]


@pytest.mark.parametrize("force", [False, True])
def test_a_missing_input_names_the_stage_that_writes_it(stage, paths, recorder, force):
    needs = replace(stage, inputs=lambda paths, params: [paths.dataset / "one.txt", paths.responses("pos")])
    with pytest.raises(
        UserError,
        match=r"^4_fit_vectors needs experiments/demo/.*/responses/pos\.json, .*"
        r"run 1_generate_responses first$",
    ):
        execute(needs, paths, stage.params({}), How(force=force))
    assert recorder.calls == []


def test_a_missing_input_that_people_write_names_no_stage(stage, paths):
    needs = replace(stage, inputs=lambda paths, params: [paths.dataset / "none.txt"])
    with pytest.raises(
        UserError, match=r"needs datasets/traits/category/name/none\.txt, which does not exist$"
    ):
        execute(needs, paths, stage.params({}))


def test_the_same_bytes_upstream_keep_the_next_stage_fresh(stage, paths):
    def measure(paths, *, unit: int = 1) -> dict:
        write_text(paths.responses("pos"), str(len((paths.dataset / "one.txt").read_text()) // unit))
        return {}

    upstream = Stage(
        "1_generate_responses",
        measure,
        lambda p, v: [p.dataset / "one.txt"],
        lambda p, v: [p.responses("pos")],
    )
    downstream = replace(stage, inputs=lambda paths, params: [paths.responses("pos")])
    text = (paths.dataset / "one.txt").read_text()
    assert execute(upstream, paths, {"unit": 1})
    assert execute(downstream, paths, stage.params({}))
    write_text(paths.dataset / "one.txt", text.upper())
    assert execute(upstream, paths, {"unit": 1})
    assert not execute(downstream, paths, stage.params({}))
    write_text(paths.dataset / "one.txt", text * 2)
    assert execute(upstream, paths, {"unit": 1})
    assert execute(downstream, paths, stage.params({}))


FAILURES = {
    "user": (UserError("mend the scenarios"), "mend the scenarios"),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device", "x.pt"),
        "cannot write x.pt: No space left on device",
    ),
    "defect": (RuntimeError("sizes differ"), "unexpected RuntimeError: sizes differ"),
    "assertion": (AssertionError("ours"), "unexpected AssertionError: ours"),
    "file": (FileNotFoundError(errno.ENOENT, "No such file", "x.pt"), "unexpected FileNotFoundError"),
    "network": (ConnectionError("reset"), "unexpected ConnectionError"),
    "two lines": (RuntimeError("sizes differ\nat layer 3"), "unexpected RuntimeError: sizes differ"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_trait_costs_the_others_nothing_and_is_one_line(stage, make_trait, recorder, capsys, kind):
    error, words = FAILURES[kind]
    traits = [make_trait(f"category/{name}") for name in ("first", "bad", "last")]
    recorder.on_run = lambda paths: raising(error)(paths) if paths.trait == "category/bad" else None
    failures = run_stage(stage, traits, {})
    assert list(failures) == ["category/bad"]
    assert failures["category/bad"].startswith(words)
    assert "\n" not in failures["category/bad"]
    assert recorder.calls == ["category/first", "category/bad", "category/last"]
    assert [why_run(stage, t, stage.params({})) for t in traits] == [None, "no completed run", None]
    assert f"[{STAGE}] category/bad: failed: {failures['category/bad']}" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "is_shown"), [("user", False), ("disk", False), ("defect", True)])
def test_only_a_defect_of_ours_shows_its_traceback(stage, paths, recorder, capsys, kind, is_shown):
    recorder.on_run = raising(FAILURES[kind][0])
    run_stage(stage, [paths], {})
    assert ("Traceback" in capsys.readouterr().err) == is_shown


def test_an_interrupt_stops_every_trait(stage, make_trait, recorder):
    recorder.on_run = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, [make_trait("a/b"), make_trait("a/c")], {})
    assert recorder.calls == ["a/b"]


def test_run_stage_passes_values_and_force_on_and_reports_nothing_when_all_went_well(
    stage, make_trait, recorder
):
    traits = [make_trait("a/b"), make_trait("a/c")]
    for _ in range(2):
        assert run_stage(stage, traits, {"scale": 2.0, "unknown": 1}, How(force=True)) == {}
    assert recorder.calls == ["a/b", "a/c"] * 2
    assert [why_run(stage, t, stage.params({"scale": 2.0})) for t in traits] == [None, None]


def test_a_value_of_the_wrong_kind_is_refused_before_anything_runs(params, recorder):
    with pytest.raises(UserError, match=r"config\.json: --scale expects a number, not 'much'"):
        params(scale="much")
    assert recorder.calls == []


def test_a_manifest_remembers_of_a_value_what_its_flag_says(paths, recorder):
    known = {"model": "first weights"}

    @dataclass(frozen=True)
    class Options:
        model: str = flag("m", "Which model.", identify=lambda name: f"{name}#{known['model']}")

    def work(paths, *, options: Options) -> dict:
        write_text(paths.scenario_scores, options.model)
        return {}

    stage = Stage(STAGE, work, lambda p, v: [], lambda p, v: [p.scenario_scores])
    assert execute(stage, paths, stage.params({}))
    assert paths.scenario_scores.read_text() == "m"
    assert read_manifest(paths)["params"] == {"model": "m#first weights"}
    assert not execute(stage, paths, stage.params({}))
    known["model"] = "other weights"  # under the same name
    assert why_run(stage, paths, stage.params({})) == "model m#first weights → m#other weights"


def test_options_reach_a_stage_filled_and_its_cosmetic_flags_are_not_remembered(paths):
    @dataclass(frozen=True)
    class Options:
        size: int = flag(3, "How large.")
        device: str = flag("auto", "Where.", cosmetic=True)

    def work(paths, *, options: Options) -> dict:
        write_text(paths.scenario_scores, f"{options.size} on {options.device}")
        return {}

    stage = Stage(STAGE, work, lambda p, v: [], lambda p, v: [p.scenario_scores])
    execute(stage, paths, stage.params({"device": "cpu"}))
    assert paths.scenario_scores.read_text() == "3 on cpu"
    assert read_manifest(paths)["params"] == {"size": 3}
    assert why_run(stage, paths, stage.params({"device": "cuda"})) is None
    assert why_run(stage, paths, stage.params({"size": 4})) == "size 3 → 4"


def test_the_manifest_tells_what_was_read_with_what_and_written(stage, paths, run):
    digests = {
        f"datasets/traits/category/name/{n}.txt": hashlib.sha256(f"category/name {n}\n".encode()).hexdigest()
        for n in ("one", "two")
    }
    assert take_digests(stage, paths, stage.params({})) == digests
    run(scale=3, steer=True, methods="a,b", batch_size=1)
    manifest = read_manifest(paths)
    assert (manifest["stage"], manifest["version"], manifest["reason"]) == (STAGE, 1, "no completed run")
    assert manifest["inputs"] == digests
    assert manifest["params"] == {"scale": 3.0, "steer": True, "dose": 0.5, "methods": ["a", "b"], "note": ""}
    folder = "experiments/demo/extraction/category/name/activations"
    assert manifest["outputs"] == {
        f"{folder}/{file.name}": {
            "size": file.stat().st_size,
            "mtime_ns": file.stat().st_mtime_ns,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in (paths.activations, paths.activations_metadata)
    }
    assert manifest["trait"] == "category/name"
    assert manifest["summary"] == {"texts": 2, "AUROC": 0.9251, "verdict": "works", "nothing": None}
    assert manifest["seconds"] >= 0
    assert manifest["finished"][:2] == "20"


def test_the_manifest_tells_commit_and_packages(done):
    git = shutil.which("git") or "true"
    head = subprocess.run(
        [git, "-C", str(CHECKOUT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    manifest = read_manifest(done)
    assert manifest["git_commit"] == (head or None)
    assert {"torch", "transformers", "numpy"} <= manifest["packages"].keys()
    assert all(isinstance(v, str) and v for v in manifest["packages"].values())


def test_a_machine_without_git_has_no_commit_and_keeps_its_work(tmp_path, monkeypatch):
    provenance.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        assert provenance()["git_commit"] is None
    finally:
        provenance.cache_clear()


def test_progress_outlives_the_manifest_so_that_a_kill_between_them_costs_nothing(stage, paths, monkeypatch):
    write_text(paths.journal(stage.name), "progress")
    seen = []
    monkeypatch.setattr(
        "traitscope.utils.stage.manifest.write_json",
        lambda path, _: seen.append((path == paths.manifest(stage.name), paths.journal(stage.name).exists())),
    )
    execute(stage, paths, stage.params({}))
    assert seen == [(True, True)]
    assert not paths.journal(stage.name).exists()


def test_a_second_process_is_kept_off_a_running_stage(stage, paths):
    import fcntl

    lock = paths.manifest(stage.name).with_name(f".{stage.name}.lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is running"):
            execute(stage, paths, stage.params({}))
    assert execute(stage, paths, stage.params({}))


def test_a_refused_setting_leaves_the_earlier_results_complete(stage, paths, recorder):
    execute(stage, paths, stage.params({}))
    recorder.on_run = raising(UserError("no such layer"))
    with pytest.raises(UserError, match="no such layer"):
        execute(stage, paths, stage.params({}), How(force=True))
    assert why_run(stage, paths, stage.params({})) is None
    recorder.on_run = raising(RuntimeError("crashed"))
    with pytest.raises(RuntimeError, match="crashed"):
        execute(stage, paths, stage.params({}), How(force=True))
    assert why_run(stage, paths, stage.params({})) is None
