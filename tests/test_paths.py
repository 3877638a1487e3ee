"""Every path once, below the root, and no name that leads out of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import SIDES, WRITERS, ExperimentPaths, TraitPaths, cache_dir, root_dir

CHECKOUT = Path(__file__).resolve().parents[1]
BAD_FOLDERS = [
    "half\udcff",
    "",
    ".",
    "..",
    ".hidden",
    " space",
    "space ",
    "line\n",
    "a\\b",
    "..\\b",
    "C:",
    "nul\0",
]
BAD_EXPERIMENTS = [*BAD_FOLDERS, "a/b", "/etc", "../up", "a/.."]
BAD_TRAITS = [
    *(f"category/{name}" for name in BAD_FOLDERS),
    *(f"{name}/trait" for name in BAD_FOLDERS),
    "optimism",
    "/etc/passwd",
    "a//b",
    "a/b/../../c",
    "a/b/c/d/e/f",
]
GOOD_TRAITS = [
    "epistemic/optimism",
    "big five/open to ideas",
    "日本語/丁寧さ",
    "émotion/joie — vive",
    "a/b/c",
    "a/b/c/d/e",
    "v1.2/x-y_z",
    "a/b..c",
]
FILES = {  # every kind of file that a trait has, and the stage that writes it
    "scenario_scores": (lambda p: p.scenario_scores, "0_vet_scenarios"),
    "responses": (lambda p: p.responses("pos"), "1_generate_responses"),
    "neg responses": (lambda p: p.responses("neg"), "1_generate_responses"),
    "response_scores": (lambda p: p.response_scores, "2_vet_responses"),
    "activations": (lambda p: p.activations, "3_capture_activations"),
    "activations_metadata": (lambda p: p.activations_metadata, "3_capture_activations"),
    "vector": (lambda p: p.vector("mean_diff", 16), "4_fit_vectors"),
    "vector_metadata": (lambda p: p.vector_metadata("mean_diff", 16), "4_fit_vectors"),
    "export": (lambda p: p.export("mean_diff"), None),
    "steering_results": (lambda p: p.steering_results, "5_steer_evaluate"),
    "steering_responses": (lambda p: p.steering_responses("test"), "5_steer_evaluate"),
    "scenarios": (lambda p: p.dataset / "positive.txt", None),
    "questions": (lambda p: p.dataset / "steering.json", None),
}


@pytest.fixture
def paths(tmp_path) -> TraitPaths:
    return TraitPaths("demo", "epistemic/optimism", tmp_path)


def imported_root(**environment) -> str:
    """Return the root as a fresh process, started elsewhere, sees it."""
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment
    return subprocess.check_output(
        [sys.executable, "-c", "from traitscope.utils.files.paths import root_dir; print(root_dir())"],
        cwd="/",
        env=env,
        text=True,
    ).strip()


@pytest.mark.parametrize("name", BAD_EXPERIMENTS, ids=repr)
def test_an_experiment_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="bad experiment name"):
        ExperimentPaths(name, tmp_path)
    with pytest.raises(UserError, match="bad experiment name"):
        TraitPaths(name, "epistemic/optimism", tmp_path)


@pytest.mark.parametrize("name", BAD_TRAITS, ids=repr)
def test_a_trait_name_that_is_no_path_below_its_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="bad trait name"):
        TraitPaths("demo", name, tmp_path)


@pytest.mark.parametrize("letter", ["x", "語"])
def test_a_name_too_long_for_a_folder_is_refused(tmp_path, letter):
    with pytest.raises(UserError):
        ExperimentPaths(letter * 256, tmp_path)


def test_another_experiment_s_name_is_checked_too(paths):
    with pytest.raises(UserError, match="bad experiment name"):
        paths.within("../other")


@pytest.mark.parametrize("trait", GOOD_TRAITS)
def test_nested_categories_unicode_and_inner_spaces_are_names(tmp_path, trait):
    paths = TraitPaths("my gemma — 試験", trait, tmp_path)
    assert paths.dataset == tmp_path / "datasets" / "traits" / trait
    assert paths.dir == tmp_path / "experiments" / "my gemma — 試験" / "extraction" / trait
    assert paths.steering == tmp_path / "experiments" / "my gemma — 試験" / "steering" / trait


@pytest.mark.parametrize(
    "kind", [pytest.param(kind) if kind == "steering_responses" else kind for kind in FILES]
)
@pytest.mark.parametrize("trait", ["epistemic/optimism", "日本語/丁寧 さ"])
def test_the_writer_of_every_kind_of_file_is_known(tmp_path, kind, trait):
    file, stage = FILES[kind]
    for experiment in ("demo", "other"):
        paths = TraitPaths(experiment, trait, tmp_path)
        assert TraitPaths("demo", trait, tmp_path).writer(file(paths)) == stage


def test_a_dataset_file_has_no_writer_even_in_folders_named_like_ours(tmp_path):
    paths = TraitPaths("demo", "experiments/x", tmp_path / "experiments")
    assert paths.writer(paths.dataset / "responses" / "a.json") is None


def test_every_writer_is_a_stage_that_exists():
    commands = {file.stem for wing in ("extraction", "analysis") for file in (CHECKOUT / wing).glob("*.py")}
    assert set(WRITERS.values()) <= commands


def test_no_two_kinds_of_file_and_no_two_traits_share_a_path(tmp_path):
    traits = [
        TraitPaths("demo", "epistemic/optimism", tmp_path),
        TraitPaths("demo", "mood/optimism", tmp_path),
        TraitPaths("two", "mood/optimism", tmp_path),
    ]
    files = [file(paths) for paths in traits for file, stage in FILES.values() if stage]
    files += [paths.manifest(stage) for paths in traits for stage in WRITERS.values()]
    files += [paths.journal(stage) for paths in traits for stage in WRITERS.values()]
    files += [
        paths.vector(method, layer) for paths in traits for method in ("probe", "ica") for layer in (1, 11)
    ]
    assert len(set(files)) == len(files)
    assert all(file.is_relative_to(tmp_path / "experiments") for file in files)


def test_both_sides_and_both_vector_files_differ(paths):
    assert (
        len(
            {paths.responses(side) for side in SIDES}
            | {paths.vector("probe", 1), paths.vector_metadata("probe", 1)}
        )
        == 4
    )


def test_within_changes_the_experiment_and_nothing_else(paths):
    assert paths.within("") == paths
    assert paths.within("other") == TraitPaths("other", paths.trait, paths.root)


def test_relative_paths_lead_back_from_the_root(paths):
    relative = paths.relative(paths.vector("probe", 3))
    assert relative == "experiments/demo/extraction/epistemic/optimism/vectors/probe_layer3.pt"
    assert paths.root / relative == paths.vector("probe", 3)


def test_an_experiment_s_own_files_lie_in_its_folder(tmp_path):
    paths = ExperimentPaths("demo", tmp_path)
    assert paths.config == tmp_path / "experiments" / "demo" / "config.json"
    assert paths.summary("csv") == tmp_path / "experiments" / "demo" / "summary.csv"


def test_the_root_is_the_checkout_wherever_python_was_started():
    assert imported_root(TRAITSCOPE_ROOT="") == str(CHECKOUT)


def test_the_root_of_the_environment_is_honoured(tmp_path):
    assert imported_root(TRAITSCOPE_ROOT=str(tmp_path / "my data")) == str(tmp_path / "my data")


def test_a_relative_root_stays_where_it_was_however_python_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAITSCOPE_ROOT", "data")
    paths = ExperimentPaths("demo")
    monkeypatch.chdir("/")
    assert paths.root.resolve() == tmp_path / "data"


def test_paths_start_at_the_root_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))
    assert ExperimentPaths("demo").root == TraitPaths("demo", "a/b").root == root_dir() == tmp_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRAITSCOPE_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
        ({"TRAITSCOPE_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/traitscope"),
        ({"TRAITSCOPE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/traitscope"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)
