"""Every command that README and docs show is one that the scripts understand."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.report import ReportOptions
from benchmarks.workload import BenchOptions
from traitscope.analysis import compare_groups, compare_models, cross_trait, export_vectors, judge_agreement
from traitscope.analysis import draw_steering as figures
from traitscope.extraction import check_trait, import_vectors, run_pipeline, trait_table
from traitscope.extraction.new_trait import NewTraitOptions
from traitscope.inference import capture_raw_activations, chat, monitor_dynamics, project_activations
from traitscope.utils.stage.command import parse_arguments
from traitscope.utils.stage.experiment import stage_flags
from traitscope.utils.stage.flags import REQUIRED, Flag, option_flags
from traitscope.utils.sync import main as sync
from traitscope.visualization import serve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "extraction|analysis|inference|visualization|tests/benchmarks"
COMMAND = re.compile(
    rf"(?:(?:\.venv/bin/)?python )?((?<=python )(?:{FOLDERS})/[\w/]+\.py|utils/r2_\w+\.sh)([^\n`)]*)"
)


SCRIPTS = (
    *(
        run_pipeline,
        trait_table,
        judge_agreement,
        cross_trait,
        figures,
        compare_groups,
        compare_models,
        export_vectors,
        import_vectors,
    ),
    *(capture_raw_activations, project_activations, monitor_dynamics, chat, serve),
)
TOOLS = {Path(str(script.__file__)).stem: script.all_flags() for script in SCRIPTS}
TOOLS |= {"check_trait": check_trait.FLAGS, "new_trait": option_flags(NewTraitOptions)}
TOOLS |= {"r2_push": sync.all_flags(), "r2_pull": sync.all_flags()}
TOOLS |= {"report": option_flags(ReportOptions)}
TOOLS |= dict.fromkeys(
    ("capture", "capture_chats", "steering_sweep", "fit", "judging", "pipeline", "memory"),
    option_flags(BenchOptions),
)


def flags_of_script(script: str) -> dict[str, Flag]:
    name = Path(script).stem
    return TOOLS[name] if name in TOOLS else stage_flags(run_pipeline.load_stage(name))


def commands() -> list[tuple[str, str, str]]:
    return [
        (page.name, m[1], m[2].split("#")[0]) for page in PAGES for m in COMMAND.finditer(page.read_text())
    ]


def test_there_are_commands_to_check():
    assert len(commands()) >= 8
    assert {script for _, script, _ in commands()} >= {
        "extraction/run_pipeline.py",
        "extraction/2_vet_responses.py",
    }


@pytest.mark.parametrize(("page", "script", "arguments"), commands())
def test_a_documented_command_parses(page, script, arguments):
    assert (ROOT / script).is_file()
    parse_arguments(shlex.split(arguments), flags_of_script(script))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_holds_the_marks_of_a_merge(page):
    assert not re.search(r"^(<<<<<<<|=======$|>>>>>>>)", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_flag_a_page_mentions_exists(page):
    tools = [*TOOLS.values(), *(stage_flags(run_pipeline.load_stage(name)) for name in run_pipeline.NAMES)]
    known = {name.replace("_", "-") for flags in tools for name in flags} | {"help", "no-deps"}
    assert set(re.findall(r"--([a-z][a-z0-9-]*)", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_a_page_links_or_names_exists(page):
    text = page.read_text()
    named = re.findall(
        r"`((?:utils|extraction|analysis|visualization|docs|tests|datasets)/[\w./-]+\.(?:py|md|json|txt))`",
        text,
    )
    linked = [page.parent / m for m in re.findall(r"\]\(([^)#:]+)\)", text)]
    assert not [p for p in [*(ROOT / n for n in named), *linked] if not p.exists()]


@pytest.mark.parametrize(
    "target",
    sorted(
        set(
            re.findall(r"`make (\w+)`|^    make (\w+)", "\n".join(p.read_text() for p in PAGES), re.MULTILINE)
        )
    ),
)
def test_every_make_target_exists(target):
    assert re.search(rf"^{''.join(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [*TOOLS, *run_pipeline.NAMES])
def test_every_flag_has_help_and_a_default_of_its_own_type(name):
    for flag in flags_of_script(f"extraction/{name}.py").values():
        assert flag.help, flag.name
        if flag.default is not REQUIRED:
            assert flag.coerce(flag.default) == flag.default
