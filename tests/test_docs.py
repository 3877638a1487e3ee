"""Every command that README, docs and the commands themselves show is one that the scripts understand."""

import ast
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from conftest import command_of

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.stage.command import Command, parse_arguments, run_command
from traitscope.utils.stage.flags import REQUIRED, Flag, option_flags
from traitscope.utils.sync.main import direction_command

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("extraction", "analysis", "inference", "visualization")
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
COMMAND = re.compile(
    rf"(?:(?:\.venv/bin/)?python )?((?<=python )(?:{'|'.join(FOLDERS)}|tests/benchmarks)/[\w/]+\.py"
    r"|utils/r2_\w+\.sh)([^\n`)]*)"
)
SCRIPTS = sorted(
    file.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for file in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__":' in file.read_text()
)
MOVED = {"analysis/import_vectors.py": "extraction/import_vectors.py"}  # what was typed before still works
SYNC = ("utils/r2_push.sh", "utils/r2_pull.sh")
CAMPAIGN = "tests/campaign/run.py"
BENCHMARKS = (
    "capture",
    "capture_chats",
    "steering_sweep",
    "decoding",
    "fit",
    "judging",
    "coherence",
    "pipeline",
    "memory",
    "report",
    "families",
    "verdicts",
    "training",
)


@cache
def flags_of_script(script: str) -> dict[str, Flag]:
    """Return the flags of a command, by its file."""
    if script in SYNC:
        return direction_command(Path(script).stem.removeprefix("r2_")).flags
    if script == CAMPAIGN:
        from campaign.report import CampaignOptions

        return option_flags(CampaignOptions)
    if script.startswith("tests/benchmarks/"):
        from benchmarks.families import FamilyOptions
        from benchmarks.report import ReportOptions
        from benchmarks.verdicts import VerdictOptions
        from benchmarks.workload import BenchOptions

        known = {"report": ReportOptions, "families": FamilyOptions, "verdicts": VerdictOptions}
        return option_flags(known.get(Path(script).stem, BenchOptions))
    module = MOVED.get(script, script).removesuffix(".py").replace("/", ".")
    what = command_of(import_module(f"traitscope.{module}"))
    return (what if isinstance(what, Command) else Command(what)).flags


def all_scripts() -> list[str]:
    return [*SCRIPTS, *SYNC, CAMPAIGN, *(f"tests/benchmarks/{name}.py" for name in BENCHMARKS)]


def commands() -> list[tuple[str, str, str]]:
    """Return (where it stands, script, arguments) of every command line shown."""
    texts = {page.name: EXAMPLE.sub("", page.read_text()) for page in PAGES}
    texts |= {script: ast.get_docstring(ast.parse((ROOT / script).read_text())) or "" for script in SCRIPTS}
    return [
        (where, m[1], m[2].split("#")[0]) for where, text in texts.items() for m in COMMAND.finditer(text)
    ]


def why_wrong(script: str, arguments: str) -> str:
    """Return why a documented command would not start, "" where it would."""
    if not (ROOT / script).is_file():
        return "there is no such file"
    try:
        parse_arguments(shlex.split(arguments), flags_of_script(script))
    except UserError as error:
        return str(error)
    return ""


def test_there_are_commands_to_check():
    assert len(commands()) >= 8
    assert {script for _, script, _ in commands()} >= {
        "extraction/run_pipeline.py",
        "extraction/2_vet_responses.py",
    }
    assert len(SCRIPTS) >= 20


def test_every_command_shows_its_own_command_line():
    shown = {(where, script) for where, script, _ in commands()}
    assert [script for script in SCRIPTS if (script, MOVED.get(script, script)) not in shown] == []


def test_every_documented_command_parses():
    found = {(page, f"{script}{said}"): why_wrong(script, said) for page, script, said in commands()}
    assert {command: why for command, why in found.items() if why} == {}


def test_a_command_that_would_not_start_is_found():
    assert "--metods" in why_wrong("extraction/run_pipeline.py", "--experiment demo --metods ica")
    assert "missing --experiment" in why_wrong("extraction/4_fit_vectors.py", "")
    assert why_wrong("extraction/no_such.py", "") == "there is no such file"


def test_the_guide_s_example_of_a_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))
    for trait, layer in (("mood/hope", 1), ("mood/hope", 2), ("mood/dread", 1)):
        file = tmp_path / f"experiments/demo/extraction/{trait}/vectors/probe_layer{layer}_metadata.json"
        measured = {
            "norm": 1.0,
            "centre": 0.0,
            "train": None,
            "val": None,
            "component": "residual",
            "position": None,
        }
        write_json(file, {"trait": trait, "method": "probe", "layer": layer, "made_by": {}, **measured})
    guide = ModuleType("traitscope.analysis.count_vectors")
    guide.__package__ = "traitscope.analysis"
    monkeypatch.setitem(sys.modules, guide.__name__, guide)

    [source] = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
    exec(compile(source, "count_vectors.py", "exec"), vars(guide))
    run_command(guide.count_vectors, ["--experiment", "demo", "--most", "2"])
    assert capsys.readouterr().out.split() == ["mood/dread", "1", "mood/hope", "2"]


def test_no_page_holds_the_marks_of_a_merge():
    marks = re.compile(r"^(<<<<<<<|=======$|>>>>>>>)", re.MULTILINE)
    assert [page.name for page in PAGES if marks.search(page.read_text())] == []


def test_every_flag_a_page_mentions_exists():
    flags = [flag for script in all_scripts() for flag in flags_of_script(script).values()]
    known = {name.replace("_", "-") for flag in flags for name in (flag.name, *flag.also)}
    known |= {"help", "no-deps"}
    found = {page.name: set(re.findall(r"--([a-z][a-z0-9-]*)", page.read_text())) - known for page in PAGES}
    assert {page: unknown for page, unknown in found.items() if unknown} == {}


def test_every_file_a_page_links_or_names_exists():
    absent = []
    for page in PAGES:
        text = page.read_text()
        named = re.findall(
            r"`((?:utils|extraction|analysis|inference|visualization|docs|tests|datasets)/[\w./-]+"
            r"\.(?:py|md|json|txt))`",
            text,
        )
        linked = [page.parent / m for m in re.findall(r"\]\(([^)#:]+)\)", text)]
        absent += [f"{page.name}: {p}" for p in [*(ROOT / n for n in named), *linked] if not p.exists()]
    assert absent == []


def test_every_make_target_that_a_page_names_exists():
    text = "\n".join(page.read_text() for page in PAGES)
    targets = {a or b for a, b in re.findall(r"`make ([\w-]+)|^    make ([\w-]+)", text, re.MULTILINE)}
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert targets <= made


def test_every_flag_of_every_command_has_help_and_a_default_of_its_own_type():
    wrong = []
    for script in all_scripts():
        for flag in flags_of_script(script).values():
            is_right = flag.default is REQUIRED or flag.coerce(flag.default) == flag.default
            wrong += [] if flag.help and is_right else [f"{script} {flag.typed}"]
    assert wrong == []
