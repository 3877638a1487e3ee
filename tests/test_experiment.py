"""Settings: default < config.json < flag, and the first run writes down what it meant."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import parse_arguments
from traitscope.utils.stage.experiment import (
    MODELS,
    RunOptions,
    default_model,
    keep_settings,
    resolve_settings,
)
from traitscope.utils.stage.flags import REQUIRED
from traitscope.utils.stage.stage import Stage

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPT = """
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.errors import UserError
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.stage import Stage

def work(paths, *, model: str = "", seed: int = 0, batch_size: int = 8) -> dict:
    if paths.trait.endswith("bad"):
        raise UserError("mend the bad one")
    write_text(paths.scenario_scores, f"{model} {seed} {batch_size}")
    return {"texts": 1}

outputs = lambda p, v: [p.scenario_scores]
command(stage_command(Stage("0_vet_scenarios", work, lambda p, v: [], outputs, cosmetic=("batch_size",))))
"""


def work(
    paths,
    *,
    model: str = "",
    seed: int = 0,
    temperature: float = 0.5,
    methods: tuple[str, ...] = ("probe",),
    batch_size: int = 8,
) -> dict:
    """A stage's parameters."""
    return {}


@pytest.fixture
def paths(tmp_path) -> ExperimentPaths:
    return ExperimentPaths("demo", tmp_path)


@pytest.fixture
def stage() -> Stage:
    return Stage("9_work", work, lambda paths, params: [], lambda paths, params: [], cosmetic=("batch_size",))


@pytest.fixture
def flags(stage):
    return stage.flags


@pytest.fixture
def resolve(paths, flags):
    return lambda **given: resolve_settings(paths, flags, given)


@pytest.fixture
def write_config(paths):
    def write(content) -> None:
        paths.dir.mkdir(parents=True, exist_ok=True)
        paths.config.write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def read_config(paths) -> dict:
    return json.loads(paths.config.read_text())


def run_script(tmp_path, *arguments):
    (tmp_path / "script.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "TRAITSCOPE_ROOT": str(tmp_path)}
    return subprocess.run(
        [sys.executable, tmp_path / "script.py", *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_flag_wins_over_the_config_and_the_config_over_the_default(stage, resolve, write_config):
    write_config({"model": "embedded", "seed": 1, "temperature": 1.0})
    params = stage.params(resolve(seed=2))
    assert params == {
        "model": "embedded",
        "seed": 2,
        "temperature": 1.0,
        "methods": ("probe",),
        "batch_size": 8,
    }


def test_a_flag_that_contradicts_the_config_says_so(resolve, write_config, paths, capsys):
    write_config({"model": "embedded", "temperature": 1.0, "batch_size": 4})
    assert resolve(temperature=0.25, batch_size=16)["batch_size"] == 16
    notes = capsys.readouterr().out.splitlines()
    assert notes == [
        f"note: --batch-size 16 overrides 4 of {paths.config}",
        f"note: --temperature 0.25 overrides 1.0 of {paths.config}",
    ]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"methods": ["a", "b"]}, {"methods": ("a", "b")}),
        ({}, {"seed": 3}),
    ],
)
def test_a_flag_that_agrees_with_the_config_says_nothing(resolve, write_config, capsys, written, given):
    write_config({"model": "embedded"} | written)
    assert resolve(**given) == {"model": "embedded"} | given
    assert capsys.readouterr().out == ""


@pytest.fixture
def keep(paths, flags, resolve):
    """Keep the settings of a run, as if a stage had completed in it."""

    def keep_after(completed: bool = True, **given):
        settings = resolve(**given)
        if completed:
            write_text(paths.dir / "extraction/a/b/stages/0_vet_scenarios.json", "{}")
        keep_settings(paths, flags, settings)
        return settings

    return keep_after


def test_the_first_run_keeps_its_model_and_flags_but_none_that_is_cosmetic(keep, paths):
    keep(seed=3, methods=("a", "b"), batch_size=2)
    assert read_config(paths) == {"model": "embedded", "seed": 3, "methods": ["a", "b"]}


def test_a_later_run_means_the_same_without_flags(keep, resolve):
    first = keep(seed=3, methods=("a", "b"))
    assert resolve() == first


def test_nothing_is_kept_before_a_stage_has_completed(keep, paths):
    keep(completed=False, model="a/typo")
    assert not paths.config.exists()


def test_a_config_that_is_there_is_never_rewritten(keep, write_config, paths):
    write_config('{"model": "embedded",\n"seed": 1, "note to self": "keep"}')
    before = paths.config.read_bytes()
    keep(seed=2, temperature=0.1)
    assert paths.config.read_bytes() == before


def test_resolving_alone_writes_nothing(resolve, paths):
    assert resolve(seed=3) == {"model": "embedded", "seed": 3}
    assert list(paths.root.iterdir()) == []


def test_a_stage_without_a_model_starts_no_config(paths, flags):
    del flags["model"]
    settings = resolve_settings(paths, flags, {"seed": 1})
    assert settings == {"seed": 1}
    write_text(paths.dir / "extraction/a/b/stages/0_vet_scenarios.json", "{}")
    keep_settings(paths, flags, settings)
    assert not paths.config.exists()


def test_an_experiment_named_after_no_model_says_what_to_pass_and_writes_nothing(tmp_path, flags):
    paths = ExperimentPaths("my-test", tmp_path)
    with pytest.raises(UserError, match=r"'my-test'.*--model"):
        resolve_settings(paths, flags, {})
    assert not paths.dir.exists()


def test_an_experiment_named_after_no_model_takes_one_from_flag_or_config(tmp_path, flags):
    paths = ExperimentPaths("my-test", tmp_path)
    assert resolve_settings(paths, flags, {"model": "org/name"})["model"] == "org/name"
    write_text(paths.config, '{"model": "org/other"}')
    assert resolve_settings(paths, flags, {})["model"] == "org/other"


@pytest.mark.parametrize("model", [None, ""])
def test_an_empty_model_in_the_config_leaves_the_name_to_decide(resolve, write_config, model):
    write_config({"model": model})
    assert resolve()["model"] == "embedded"


def test_names_of_models_are_names_of_experiments(tmp_path):
    for name in MODELS:
        assert ExperimentPaths(name, tmp_path)
        assert default_model(name) == MODELS[name]


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "null", "3"])
def test_a_config_that_is_no_object_is_a_user_error_that_names_it(resolve, write_config, paths, content):
    write_config(content)
    with pytest.raises(UserError) as caught:
        resolve()
    assert str(paths.config) in str(caught.value)


@pytest.mark.parametrize("setting", [{"seed": "x"}, {"seed": 1.5}, {"temperature": True}, {"seed": []}])
def test_a_setting_of_the_wrong_kind_is_a_user_error_that_names_it(resolve, write_config, setting):
    write_config({"model": "embedded"} | setting)
    with pytest.raises(UserError, match=r"--(seed|temperature)"):
        resolve()


def test_a_setting_of_the_wrong_kind_is_found_by_the_name_of_its_file(resolve, write_config, paths):
    write_config({"model": "embedded", "seed": "x"})
    with pytest.raises(UserError, match=r"config\.json"):
        resolve()


def test_settings_in_a_config_take_their_flag_s_kind_and_others_stay(resolve, write_config):
    write_config({"model": "embedded", "seed": "7", "methods": "a,b", "unknown": {"x": [1]}})
    assert resolve() == {"model": "embedded", "seed": 7, "methods": ("a", "b"), "unknown": {"x": [1]}}


@pytest.mark.parametrize(
    ("traits", "expected"),
    [(("a/b",), ["a/b"]), (("c/d", "a/b", "c/d"), ["c/d", "a/b"]), (("z/z", "a/b"), ["z/z", "a/b"])],
)
def test_traits_are_taken_once_each_in_the_order_given(traits, expected):
    targets = RunOptions("demo", traits).targets
    assert [paths.trait for paths in targets] == expected
    assert {paths.experiment for paths in targets} == {"demo"}


def test_no_trait_is_a_user_error_that_says_how_to_name_one():
    with pytest.raises(UserError, match="--traits category/name"):
        _ = RunOptions("demo").targets


def test_a_script_has_its_stage_s_flags_and_those_of_every_run(stage):
    flags = stage_command(stage).flags
    assert set(flags) == set(stage.flags) | {"experiment", "traits", "force", "verify", "wait"}
    assert [name for name, flag in flags.items() if flag.default is REQUIRED] == ["experiment"]


def test_one_trait_and_several_are_the_same_flag(stage):
    flags = stage_command(stage).flags
    for written in (["--trait", "a/b"], ["--traits", "a/b"], ["--traits=a/b"]):
        given = parse_arguments(["--experiment", "demo", *written], flags)
        assert given == {"experiment": "demo", "traits": ("a/b",)}


def test_every_flag_of_a_stage_is_a_setting_and_its_cosmetic_ones_are_marked(stage):
    assert all(flag.is_setting for flag in stage.flags.values())
    assert [name for name, flag in stage.flags.items() if flag.is_cosmetic] == ["batch_size"]


def test_a_bad_trait_name_stops_before_anything_is_written(tmp_path):
    done = run_script(tmp_path, "--experiment", "demo", "--traits", "a/good,../bad")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "bad trait name '../bad'" in done.stderr
    assert not (tmp_path / "experiments").exists()


def test_a_script_of_one_stage_runs_every_trait_and_says_which_failed(tmp_path):
    done = run_script(
        tmp_path, "--experiment", "demo", "--traits", "a/bad,a/good", "--seed", "3", "--batch-size", "2"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: 1 of 2 traits failed: a/bad"
    assert "a/bad: failed: mend the bad one" in done.stderr
    assert "Traceback" not in done.stderr
    written = tmp_path / "experiments/demo/extraction/a/good/vetting/scenario_scores.json"
    assert written.read_text() == "embedded 3 2"
    assert read_config(ExperimentPaths("demo", tmp_path)) == {"model": "embedded", "seed": 3}


def test_a_script_of_one_stage_goes_by_the_config_and_skips_what_is_done(tmp_path, write_config):
    write_config({"model": "embedded", "seed": 5})
    for words, force in (("no completed run", []), ("up to date", []), ("--force", ["--force"])):
        done = run_script(tmp_path, "--experiment", "demo", "--trait", "a/good", *force)
        assert (done.returncode, done.stderr) == (0, "")
        assert words in done.stdout
    assert (
        tmp_path / "experiments/demo/extraction/a/good/vetting/scenario_scores.json"
    ).read_text() == "embedded 5 8"
