"""Parameters declared once are flags, of their type or refused before anything starts."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Literal

import pytest

from traitscope.extraction.run_pipeline import load_stage, setting_flags
from traitscope.utils.errors import UserError, explain_disk_error, is_disk_error
from traitscope.utils.files.paths import STAGES
from traitscope.utils.judge import JudgeOptions
from traitscope.utils.model.loading import ModelOptions
from traitscope.utils.stage.command import Command, command, parse_arguments, render_help, run_command
from traitscope.utils.stage.flags import (
    OWN_HEADING,
    REQUIRED,
    Flag,
    bind,
    describe_kind,
    flag,
    flags_of,
    option_flags,
)

CHECKOUT = Path(__file__).resolve().parents[1]
TEXTS, INTS, FLOATS, BOOLS = tuple[str, ...], tuple[int, ...], tuple[float, ...], tuple[bool, ...]
CHOICE = Literal["norm", "raw"]


@dataclass(frozen=True)
class Options:
    """How it is done."""

    temperature: float = flag(0.5, "How bold, where 0 is greedy.", also=("boldness",))
    batch_size: int = flag(8, "Rows at once.", group="Speed", cosmetic=True)
    source: str = flag("here", "Where from.", identify=str.upper)

    heading = "Text"
    is_setting = True


@dataclass(frozen=True)
class Named:
    """Makes a thing."""

    thing: str = flag(help="Its name.")
    size: int = flag(1, "How large.")

    bare = "thing"


@dataclass(frozen=True)
class Needy:
    """Needs a name."""

    name: str = flag(help="What it is called.")
    limit: int = flag(3, "At most so many.")


def work(
    place,
    *,
    options: Options,
    experiment: Annotated[str, "Name of the folder."],
    layers: Annotated[str, "Which layers."] = "all",
    seeds: Annotated[INTS, "Seeds, one run each."] = (1, 2),
    force: Annotated[bool, "Even if done."] = False,
    limit: Annotated[int, "At most so many."] = -1,
) -> dict:
    """Do the work.

    Args:
        layers: Words for programmers, which no user sees.
    """
    return {"place": place} | locals()


@pytest.fixture
def flags() -> dict[str, Flag]:
    return flags_of(work)


@pytest.fixture
def parse(flags):
    """parse("--layers 16"), with the required flag given."""
    return lambda *arguments: parse_arguments(["--experiment", "demo", *arguments], flags)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `work` as a command whose doings are a test's, and return what it leaves the shell: its exit
    status, or the line of a failure.
    """
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))

    def run(doing, *arguments):
        @wraps(work)
        def command_line(**given):
            doing(**given)

        monkeypatch.setattr(sys, "argv", ["extraction/9_work.py", *arguments])
        try:
            command(command_line)
        except SystemExit as stop:
            return stop.code
        return 0

    return run


def flag_of(kind, default=None) -> Flag:
    return Flag("the_flag", kind, default, "What it does.")


def raising(error):
    def main(**_given):
        raise error

    return main


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        *[(bool, "true", True), (bool, "True", True), (bool, "FALSE", False), (bool, False, False)],
        *[(int, "16", 16), (int, "-3", -3), (int, 0, 0), (int, 4.0, 4), (int, " 5 ", 5)],
        *[(float, "0.5", 0.5), (float, "-1e-3", -0.001), (float, 3, 3.0), (float, "3", 3.0)],
        *[
            (str, "16", "16"),
            (str, 16, "16"),
            (str, "1_0", "1_0"),
            (str, "True", "True"),
            (str, "", ""),
            (str, "a,b", "a,b"),
            (str, "你 好", "你 好"),
        ],
        *[
            (TEXTS, "a,b", ("a", "b")),
            (TEXTS, "a, b", ("a", "b")),
            (TEXTS, "16", ("16",)),
            (TEXTS, ["a", "b"], ("a", "b")),
            (TEXTS, "", ()),
            (TEXTS, [], ()),
        ],
        *[
            (INTS, "1,-2", (1, -2)),
            (INTS, 5, (5,)),
            (INTS, (1, 2), (1, 2)),
            (FLOATS, "0.1,2", (0.1, 2.0)),
            (BOOLS, "true,False", (True, False)),
        ],
        (CHOICE, "raw", "raw"),
    ],
)
def test_a_value_of_a_flag_s_kind_becomes_that_kind(kind, value, expected):
    got = flag_of(kind).coerce(value)
    assert got == expected
    assert type(got) is type(expected)
    if isinstance(got, tuple):
        assert list(map(type, got)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(bool, "yes"), (bool, "1"), (bool, 1), (bool, ""), (bool, [True])],
        *[
            (int, "1.5"),
            (int, 1.5),
            (int, "x"),
            (int, ""),
            (int, True),
            (int, "nan"),
            (int, "inf"),
            (int, [1]),
            (int, {"a": 1}),
        ],
        *[
            (float, "x"),
            (float, "nan"),
            (float, "-inf"),
            (float, float("nan")),
            (float, float("inf")),
            (float, "1e999"),
            (float, True),
            (float, "1,5"),
            (float, [1.0]),
        ],
        *[
            (INTS, "1,x"),
            (INTS, "1,,2"),
            (INTS, "1.5"),
            (INTS, [1, True]),
            (FLOATS, [0.1, float("nan")]),
            (FLOATS, "0.1,inf"),
            (BOOLS, "true,maybe"),
        ],
        *[(CHOICE, "Raw"), (CHOICE, ""), (CHOICE, 1), (CHOICE, ["raw"]), (CHOICE, "norm,raw")],
        pytest.param(float, 10**400, id="huge"),
        *[pytest.param(kind, {"a": 1}) for kind in (str, TEXTS)],
    ],
)
def test_a_value_of_another_kind_is_a_user_error_that_names_flag_kind_and_value(kind, value):
    with pytest.raises(UserError) as caught:
        flag_of(kind).coerce(value)
    assert "--the-flag" in str(caught.value)
    assert describe_kind(kind) in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("number", [2**53 + 1, 2**64 - 1, 10**400], ids=["2^53 + 1", "2^64 - 1", "10^400"])
@pytest.mark.parametrize("written", [int, str])
def test_a_whole_number_is_never_rounded(number, written):
    assert flag_of(int).coerce(written(number)) == number


def test_null_in_a_config_is_the_default():
    assert flag_of(int, 7).coerce(None) == 7
    assert flag_of(TEXTS, ("a",)).coerce(None) == ("a",)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "True or False"),
        (int, "a whole number"),
        (FLOATS, "numbers separated by commas"),
        (TEXTS, "texts separated by commas"),
        (CHOICE, "one of norm, raw"),
    ],
)
def test_kinds_have_names_for_people(kind, words):
    assert describe_kind(kind) == words


def test_keyword_only_parameters_and_the_fields_of_options_are_flags(flags):
    assert list(flags) == [
        *["temperature", "batch_size", "source"],
        *["experiment", "layers", "seeds", "force", "limit"],
    ]
    assert flags["temperature"] == Flag(
        *("temperature", float, 0.5, "How bold, where 0 is greedy."),
        group="Text",
        is_setting=True,
        also=("boldness",),
    )
    assert flags["seeds"] == Flag("seeds", INTS, (1, 2), "Seeds, one run each.", group=OWN_HEADING)
    assert flags["experiment"].default is REQUIRED
    assert not flags["layers"].is_setting


def test_the_fields_of_options_are_the_same_flags_alone_as_in_a_function(flags):
    alone = option_flags(Options)
    assert alone == {name: flags[name] for name in ("temperature", "batch_size", "source")}


def test_options_used_in_code_have_their_defaults_and_must_be_given_what_has_none():
    assert Options() == Options(temperature=0.5, batch_size=8, source="here")
    with pytest.raises(TypeError, match="name"):
        Needy()


def test_a_field_without_default_must_be_given():
    assert {name: declared.default for name, declared in option_flags(Needy).items()} == {
        "name": REQUIRED,
        "limit": 3,
    }


def test_cosmetic_flags_groups_and_what_a_manifest_remembers_are_declared_at_the_field(flags):
    assert [name for name, declared in flags.items() if declared.is_cosmetic] == ["batch_size"]
    assert [name for name, declared in flags.items() if declared.is_positional] == []
    groups = {name: declared.group for name, declared in option_flags(Options).items()}
    assert groups == {"temperature": "Text", "batch_size": "Speed", "source": "Text"}
    assert flags["source"].identify("there") == "THERE"
    assert [name for name, declared in flags.items() if declared.identify] == ["source"]


def test_bind_puts_options_together_again(flags):
    values = {name: declared.default for name, declared in flags.items()} | {
        "experiment": "demo",
        "temperature": 0.0,
        "unknown": 1,
    }
    arguments = bind(work, values)
    assert arguments["options"] == Options(temperature=0.0, batch_size=8)
    assert arguments["seeds"] == (1, 2)
    assert set(arguments) == {"options", "experiment", "layers", "seeds", "force", "limit"}
    assert work("here", **arguments)["experiment"] == "demo"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--layers=16", {"layers": "16"}),
        ("--layers 16", {"layers": "16"}),
        ("--layers 1_0", {"layers": "1_0"}),
        ("--layers=a=b", {"layers": "a=b"}),
        ("--layers=--x", {"layers": "--x"}),
        ("--layers=", {"layers": ""}),
        ("--limit -5", {"limit": -5}),
        ("--limit=-5", {"limit": -5}),
        ("--temperature -0.5", {"temperature": -0.5}),
        ("--seeds 3,4", {"seeds": (3, 4)}),
        ("--seeds 3", {"seeds": (3,)}),
        ("--force", {"force": True}),
        ("--force --limit 1", {"force": True, "limit": 1}),
        ("--force False", {"force": False}),
        ("--force=true", {"force": True}),
        ("--batch-size 4", {"batch_size": 4}),
        ("--batch_size 4", {"batch_size": 4}),
        ("--boldness 1", {"temperature": 1.0}),
        ("--temperature 0 --boldness=1", {"temperature": 1.0}),
        ("--boldness=1 --temperature 0", {"temperature": 1.0}),
        ("--limit 1 --limit 2", {"limit": 2}),
        ("", {}),
    ],
)
def test_arguments_are_read_by_the_kind_of_their_flag(parse, arguments, expected):
    given = parse(*arguments.split())
    assert given == {"experiment": "demo"} | expected
    assert {name: type(value) for name, value in given.items()} == {"experiment": str} | {
        name: type(value) for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--temprature 1", ["--temprature", "did you mean --temperature?"]),
        ("--batch-sise 1", ["--batch-sise", "did you mean --batch-size?"]),
        ("--qqqqqq 1", ["--qqqqqq", "known:", "--batch-size", "--layers"]),
        ("--layers", ["--layers", "needs a value", "Which layers."]),
        ("--layers --force", ["--layers", "needs a value"]),
        ("--limit 1.5", ["--limit", "a whole number", "'1.5'"]),
        ("--force maybe", ["--force", "True or False", "'maybe'"]),
        ("stray", ["'stray'", "--help"]),
        ("--seeds 1 2", ["'2'"]),
        ("-l 3", ["'-l'"]),
        ("--", ["unknown flag"]),
    ],
)
def test_arguments_that_cannot_be_meant_are_user_errors_that_say_what_is_wrong(parse, arguments, words):
    with pytest.raises(UserError) as caught:
        parse(*arguments.split())
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--trait a/b --traits c/d", ("c/d", "a/b")),
        ("--traits c/d --trait a/b", ("c/d", "a/b")),
        ("--trait a/b", ("a/b",)),
    ],
)
def test_a_list_that_is_typed_by_two_names_loses_nothing(arguments, expected):
    traits = {"traits": Flag("traits", tuple[str, ...], (), "Traits.", also=("trait",))}
    assert parse_arguments(arguments.split(), traits) == {"traits": expected}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--only-stage 3 --stages 0-5", "3"),
        ("--stages 0-5 --only_stage 3", "3"),
        ("--stages 0-2 --only-stage=", "0-2"),
    ],
)
def test_the_older_name_of_a_flag_decides_as_it_did_unless_it_is_empty(arguments, expected):
    stages = {"stages": Flag("stages", str, "0-5", "Stages.", also=("only_stage",))}
    assert parse_arguments(arguments.split(), stages) == {"stages": expected}


def test_a_required_flag_that_is_missing_is_named_with_its_help(flags):
    with pytest.raises(UserError, match=r"--experiment: Name of the folder\."):
        parse_arguments(["--limit", "1"], flags)


def test_parsing_does_not_eat_the_list_it_is_given(flags):
    arguments = ["--experiment", "demo"]
    parse_arguments(arguments, flags)
    assert arguments == ["--experiment", "demo"]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--limit", "1", "--help"]])
def test_help_needs_no_required_flag(flags, arguments):
    assert parse_arguments(arguments, flags) is None


def test_a_command_gets_its_options_filled_and_what_was_not_given_by_default(run):
    got = {}
    assert run(got.update, "--experiment", "demo", "--seeds", "3", "--force", "--batch-size", "2") == 0
    assert got == {
        **{"options": Options(batch_size=2), "experiment": "demo", "layers": "all"},
        **{"seeds": (3,), "force": True, "limit": -1},
    }


def test_the_config_of_an_experiment_is_heard_for_settings_alone_and_a_flag_wins(run, tmp_path, capsys):
    config = tmp_path / "experiments/demo/config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"temperature": 0.25, "source": "there", "layers": "9"}))
    got = {}
    assert run(got.update, "--experiment", "demo", "--source", "elsewhere") == 0
    assert got["options"] == Options(temperature=0.25, source="elsewhere")
    assert got["layers"] == "all"
    assert capsys.readouterr().out == f"note: --source elsewhere overrides there of {config}\n"
    config.write_text('{"temperature": "hot"}')
    line = run(got.update, "--experiment", "demo")
    assert str(config) in line
    assert "--temperature expects a number, not 'hot'" in line


@dataclass(frozen=True)
class Asked:
    """What a command asks for."""

    experiment: str = flag(help="Experiment.")


def test_a_judge_or_a_model_that_is_left_open_on_the_command_line_is_the_experiments(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))
    config = tmp_path / "experiments/mine/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"model": "its/own"}')
    got = []

    def judged(_options: Asked, model: ModelOptions, judging: JudgeOptions) -> None:
        got.extend([model.model, judging.judge])

    run_command(judged, ["--experiment", "mine", "--model", "", "--judge", "auto"])
    assert got == ["its/own", "embedded"]


def test_further_flags_are_handed_over_as_they_were_typed():
    got = {}

    def plain(options: Needy, given: dict) -> None:
        got.update(given, name=options.name)

    further = {"scale": Flag("scale", float, 1.0, "How much."), "unsaid": Flag("unsaid", int, 3, "Nothing.")}
    run_command(Command(plain, lambda: further), ["--name", "x", "--scale", "2"])
    assert got == {"name": "x", "scale": 2.0}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--experiment", "demo", "--unknown", "1"],
        ["--limit", "1"],
        ["--experiment", "demo", "--limit", "x"],
        ["demo"],
    ],
)
def test_a_command_does_not_start_with_wrong_arguments(run, arguments):
    assert run(raising(AssertionError("started")), *arguments).startswith("error: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT])
def test_a_failing_disk_is_one_line_that_names_the_file_and_the_way_out(run, number):
    error = OSError(number, os.strerror(number), "/data/x.json")
    assert is_disk_error(error)
    line = run(raising(error), "--experiment", "demo")
    assert line == f"error: {explain_disk_error(error)}"
    assert "/data/x.json" in line
    assert os.strerror(number) in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "gone"), ConnectionError("reset"), ValueError("ours")]
)
def test_our_own_defects_keep_their_traceback(run, error):
    with pytest.raises(type(error)):
        run(raising(error), "--experiment", "demo")


def test_an_interrupt_says_how_to_go_on(run, capsys):
    assert run(raising(KeyboardInterrupt()), "--experiment", "demo") == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        ("UserError('mend this')", 1, "error: mend this\n"),
        (
            "OSError(errno.ENOSPC, 'No space left on device', 'x.json')",
            1,
            "error: cannot write x.json: No space left",
        ),
        ("KeyboardInterrupt()", 130, "interrupted"),
    ],
)
def test_the_shell_gets_the_status_and_no_traceback(tmp_path, error, status, words):
    script = (
        "import errno\nfrom traitscope.utils.stage.command import command\n"
        f"from traitscope.utils.errors import UserError\ndef main(): raise {error}\ncommand(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_help_begins_with_the_command_line_and_what_it_is_for(run, capsys):
    assert run(raising(AssertionError("started")), "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("python extraction/9_work.py --experiment EXPERIMENT [flags]\n\n")
    assert "Parameters declared once are flags" in text.split("\n\n")[1]  # what this module says of itself
    assert "Words for programmers" not in text


def test_help_names_every_flag_once_with_its_words_and_default_under_its_heading(flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["extraction/9_work.py"])
    text = render_help(Command(work, doc="Do the work."))
    blocks = {block.split("\n")[0]: block for block in text.split("\n\n")}
    assert list(blocks)[1:] == ["Do the work.", OWN_HEADING, "Text", "Speed"]
    for declared in flags.values():
        assert text.count(f"\n  {declared.typed} ") + text.count(f"\n  {declared.typed}\n") == 1
        assert declared.typed in blocks[declared.group]
        assert declared.help in " ".join(blocks[declared.group].split())
    assert "Rows at once. Default: 8." in blocks["Speed"]
    assert "Seeds, one run each. Default: 1,2." in blocks[OWN_HEADING]
    assert re.findall(r"(?<![\w-])-[a-zA-Z]\b", text) == []  # no flag of one letter
    assert "_" not in re.sub(r"9_work|[A-Z_]{3,}", "", text.split("\n", 1)[1])  # flags with hyphens
    assert max(map(len, text.split("\n"))) <= 100


@pytest.mark.parametrize("stage", STAGES)
def test_every_flag_of_the_pipeline_has_help_a_kind_and_a_default_of_it(stage):
    for declared in load_stage(stage).flags.values():
        assert declared.help, declared.name
        assert declared.coerce(declared.default) == declared.default


def test_a_flag_that_stages_share_has_one_kind_and_one_default():
    # pos_threshold differs in help and in being cosmetic, since only later stages use it
    declared = [
        (name, flag.kind, flag.default) for stage in STAGES for name, flag in load_stage(stage).flags.items()
    ]
    names = {name for name, _, _ in declared}
    assert len(set(declared)) == len(names)
    assert names <= set(setting_flags())


def test_a_reader_that_goes_away_ends_the_run_quietly():
    script = (
        "from traitscope.utils.stage.command import command\n"
        "command(lambda: [print('x' * 100, flush=True) for _ in range(10_000)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=CHECKOUT
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    "arguments", [["lamp", "--size", "2"], ["--size", "2", "lamp"], ["--thing", "lamp", "--size=2"]]
)
def test_a_declared_flag_may_be_given_without_its_name(arguments):
    assert parse_arguments(arguments, option_flags(Named)) == {"thing": "lamp", "size": 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "missing THING: Its name."),
        (["lamp", "chair"], "unexpected argument 'chair'"),
        (["--thing", "lamp", "chair"], "unexpected argument 'chair'"),
    ],
)
def test_a_bare_argument_is_needed_once_and_taken_once(arguments, words):
    with pytest.raises(UserError, match=words):
        parse_arguments(arguments, option_flags(Named))


def test_help_shows_what_may_be_given_without_its_name(monkeypatch, capsys):
    def new_thing(options: Named) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(sys, "argv", ["extraction/new_thing.py", "--help"])
    command(new_thing)
    assert "python extraction/new_thing.py THING [flags]\n" in capsys.readouterr().out
