"""Trackers watch a training: they hear every look, change nothing, and cost nothing when they fail."""

import shutil
from pathlib import Path

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from training_world import TRAIT, make_world, train

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.records.trained import read_training


class Listener(GeneralTracker):
    """A tracker that remembers what it hears."""

    name = "listener"
    requires_logging_directory = True
    heard: list = []  # noqa: RUF012
    fails_at = ""

    def __init__(self, run_name, logging_dir, **more):
        super().__init__()
        self._hear("made", (run_name, str(logging_dir)))

    @property
    def tracker(self):
        return self

    def start(self):
        self._hear("start", None)

    def store_init_configuration(self, values):
        self._hear("settings", values)

    def log(self, values, step=None, **more):
        self._hear("log", (step, values))

    def finish(self):
        self._hear("finish", None)

    def _hear(self, what, content):
        if what == self.fails_at and (what != "log" or len(self.heard) > 6):
            raise OSError("the network is gone")
        self.heard.append((what, content))


class Projects(Listener):
    """One without a folder, which takes a project."""

    name = "projects"
    requires_logging_directory = False

    def __init__(self, project, **more):
        GeneralTracker.__init__(self)
        self._hear("made", (project, more))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    return make_world(tmp_path_factory.mktemp("tracked"), tiny_folders["llama"])


@pytest.fixture
def paths(made, tmp_path, monkeypatch) -> TraitPaths:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return TraitPaths("e", TRAIT, tmp_path / "root")


@pytest.fixture
def heard(monkeypatch) -> list:
    """Register the trackers, and return what they will hear."""
    monkeypatch.setattr(Listener, "heard", [])
    monkeypatch.setattr(Listener, "fails_at", "")
    for kind in (Listener, Projects):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, kind.name, kind)
    return Listener.heard


def test_a_tracker_hears_every_look_at_every_vector_and_which_was_kept(paths, heard):
    train("--track", "listener", "--layers", "1,2")
    assert heard[0] == ("made", (f"{TRAIT}/train_nll", str(paths.tracking)))
    assert [what for what, _ in heard[1:3]] == ["start", "settings"]
    assert heard[2][1]["learning_rates"] == "(0.03, 0.1)"
    assert heard[-1] == ("finish", None)

    record = read_training(paths, "trained_nll")
    logs = [content for what, content in heard if what == "log"]
    *looks, (_, kept) = logs
    for tried in record.tried:
        name = f"layer{tried.layer}_rate{tried.learning_rate:g}_seed0"
        told = [
            (step, v.get(f"{name}/training_loss"), v[f"{name}/validation_loss"])
            for step, v in looks
            if f"{name}/norm" in v
        ]
        assert told == [tuple(row) for row in tried.losses]
        assert looks[1][1][f"{name}/dose"] == pytest.approx(0.25, rel=1e-4)
        assert 0 < looks[1][1][f"{name}/learning_rate"] <= tried.learning_rate
        assert (f"kept/{name}/norm" in kept) == tried.is_kept
    best = next(t for t in record.tried if t.is_kept)
    assert kept[f"kept/layer1_rate{best.learning_rate:g}_seed0/validation_loss"] == best.best_loss
    assert logs[-1][0] == max(step for step, _ in looks)


def test_a_tracker_without_a_folder_takes_the_experiment_as_its_project(paths, heard):
    train("--track", "projects")
    assert heard[0] == ("made", ("e", {}))


def test_who_watches_changes_nothing(paths, heard, capfd):
    train()
    before = digest(paths.training("trained_nll")), digest(next(paths.vectors.glob("trained_nll*.pt")))
    train("--track", "listener")
    assert "up to date" in capfd.readouterr().out.splitlines()[-1]
    assert not heard
    train("--track", "listener,projects", "--force")
    assert before == (
        digest(paths.training("trained_nll")),
        digest(next(paths.vectors.glob("trained_nll*.pt"))),
    )
    assert "track" not in read_json(paths.manifest("train_nll"))["params"]


@pytest.mark.parametrize("moment", ["made", "start", "settings", "log", "finish"])
def test_one_that_fails_costs_a_note_and_no_training(paths, heard, monkeypatch, capfd, moment):
    monkeypatch.setattr(Listener, "fails_at", moment)
    train("--track", "listener")
    printed = capfd.readouterr()
    assert printed.err.count("note: --track listener: the network is gone; training goes on without it") == 1
    assert "Traceback" not in printed.err
    assert "1 vectors" in printed.out
    assert read_training(paths, "trained_nll").layers


def test_one_that_is_not_there_is_one_line_that_names_those_that_are(paths, heard, capfd):
    for name in ("nonsense", "all"):
        with pytest.raises(UserError):
            train("--track", f"listener,{name}")
        err = capfd.readouterr().err
        assert f"--track {name}: no such tracker is installed; those that are: " in err
        assert "listener, projects" in err
    assert not heard
    assert not paths.has_completed("train_nll")


def test_without_any_the_line_says_how_to_get_one(paths, monkeypatch, capfd):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(UserError):
        train("--track", "wandb")
    assert (
        "--track wandb: no such tracker is installed; none is: pip install tensorboard"
        in capfd.readouterr().err
    )


def test_a_training_that_fails_ends_its_trackers_too(paths, heard, capfd):
    with pytest.raises(UserError):
        train("--track", "listener", "--free-norm", "--learning-rates", "1e-30")
    assert heard[-1] == ("finish", None)
