"""Arrows point down, commands included. And whoever comes first, the threads are set before torch starts
them.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
FLOORS = {  # what each floor may see, beside itself
    "utils": set(),
    "inference": {"utils"},
    "analysis": {"utils"},
    "extraction": {"analysis", "inference", "utils"},
    "visualization": {"extraction", "analysis", "inference", "utils"},
}
WINGS = ("extraction", "analysis", "inference")
# loads each file in a fresh namespace until it wants torch, and says what the threads were set to by then
PROBE = """
import importlib, json, os, runpy, sys
class Wanted(BaseException): pass
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch": raise Wanted
sys.meta_path.insert(0, Watch())
policies, (scripts, files) = {}, map(json.loads, sys.argv[1:])
for file in files:
    for name in [n for n in sys.modules if n.partition(".")[0] == "traitscope"]: del sys.modules[name]
    os.environ.pop("OMP_WAIT_POLICY", None)
    sys.argv = [file, "--help"]
    try:
        module = "traitscope." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        if file in scripts: runpy.run_path(file, run_name="__main__")
        else:
            runpy.run_path("__init__.py", run_name="checkout")
            importlib.import_module(module)
    except Wanted:
        policies[file] = os.environ.get("OMP_WAIT_POLICY")
    except SystemExit:
        pass
print("\\n" + json.dumps(policies))
"""


def modules() -> list[str]:
    return sorted(
        file.relative_to(CHECKOUT).as_posix() for floor in FLOORS for file in (CHECKOUT / floor).rglob("*.py")
    )


def source_of(file: str) -> str:
    return (CHECKOUT / file).read_text(encoding="utf-8")


def is_command(file: str) -> bool:
    """Tell a file that is run: nothing may import it."""
    return (CHECKOUT / file).exists() and bool(
        re.search(r'^if __name__ == "__main__":', source_of(file), re.MULTILINE)
    )  # at the margin: in a docstring it is an example


def imported(file: str, source: str) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere in it, and those it loads by a text."""
    package = ["traitscope", *file.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
            "run_path",
            "run_module",
        ):
            yield from (
                "".join(
                    c.value for c in ast.walk(arg) if isinstance(c, ast.Constant) and isinstance(c.value, str)
                )
                for arg in node.args
            )


def wrong_arrows(file: str, source: str) -> list[str]:
    """Return what a module imports though it may not: a floor above or beside it, a command, the front
    door.
    """
    floor = file.split("/")[0]
    ours = [
        name.removeprefix("traitscope.") for name in imported(file, source) if name.startswith("traitscope")
    ]
    allowed = FLOORS[floor] | {floor}
    return [name for name in ours if name.split(".")[0] not in allowed or is_closed(name, file)]


def is_closed(name: str, file: str) -> bool:
    """Tell a command, which nothing may import; run_pipeline alone loads the stages."""
    parts = name.split(".")
    is_stage = parts[0] == "extraction" and len(parts) > 1 and (parts[1] == "" or parts[1][:1].isdigit())
    return (is_stage and file != "extraction/run_pipeline.py") or any(
        name == c or name.startswith(f"{c}.") for c in commands()
    )


@cache
def commands() -> list[str]:
    """Return the dotted names of the commands, stages apart."""
    found = [file for file in modules() if is_command(file) and not Path(file).name[0].isdigit()]
    return [file.removesuffix(".py").replace("/", ".") for file in found]


@pytest.fixture(scope="module")
def policies() -> dict[str, str | None]:
    """Return {file: OMP_WAIT_POLICY when it first wants torch}, for the files that do."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    runnable = [file for file in modules() if is_command(file)]
    arguments = [json.dumps(runnable), json.dumps(modules())]
    out = subprocess.check_output([sys.executable, "-c", PROBE, *arguments], cwd=CHECKOUT, env=env, text=True)
    return json.loads(out.splitlines()[-1])


def test_imports_point_down_in_every_file():
    assert {file: wrong for file in modules() if (wrong := wrong_arrows(file, source_of(file)))} == {}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("utils/model/loading.py", "import traitscope.extraction.fitting"),
        ("utils/model/loading.py", "def f():\n    from traitscope.analysis import statistics"),
        ("utils/model/loading.py", "import traitscope"),
        ("utils/judge/embedded.py", "from ...extraction import traits"),
        ("analysis/steering/arms.py", "from traitscope.extraction.fitting.methods import METHODS"),
        ("analysis/steering/arms.py", "from traitscope.inference import watch"),
        ("analysis/compare_groups.py", "from traitscope.inference.watch.scoring import score_records"),
        ("inference/monitor_dynamics.py", "from traitscope.analysis.judging.labels import read_labels"),
        ("inference/watch/engine.py", "from traitscope.extraction import fitting as f"),
        (
            "extraction/4_fit_vectors.py",
            "from importlib import import_module\n"
            "import_module('traitscope.extraction.3_capture_activations')",
        ),
        (
            "extraction/4_fit_vectors.py",
            "import importlib\nimportlib.import_module(f'traitscope.extraction.{name}')",
        ),
        ("extraction/4_fit_vectors.py", "from traitscope.extraction.run_pipeline import load_stage"),
        ("extraction/4_fit_vectors.py", "from . import run_pipeline"),
        ("extraction/audit/checks.py", "from traitscope.extraction.check_trait import check_trait"),
        ("extraction/4_fit_vectors.py", "from traitscope.visualization.serve import app"),
        ("visualization/freshness.py", "from traitscope.extraction.run_pipeline import COMMAND"),
        ("utils/stage/stage.py", "import traitscope.visualization"),
    ],
)
def test_a_wrong_arrow_is_found(file, source):
    assert len(wrong_arrows(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "extraction/4_fit_vectors.py",
            "from traitscope.utils.measures.separation import separation\n"
            "import traitscope.analysis.steering",
        ),
        (
            "extraction/run_pipeline.py",
            "from importlib import import_module\nimport_module('traitscope.extraction.0_vet_scenarios')",
        ),
        ("visualization/app.py", "from traitscope.extraction.report import summary"),
        (
            "analysis/steering/arms.py",
            "from .. import judging\nimport torch\nfrom traitscope.utils.model.hooks import steer",
        ),
    ],
)
def test_a_right_arrow_is_let_through(file, source):
    assert wrong_arrows(file, source) == []


def test_the_tree_is_really_walked():
    found = modules()
    assert {
        "utils/stage/stage.py",
        "utils/judge/__init__.py",
        "extraction/0_vet_scenarios.py",
        "analysis/steering/arms.py",
    } <= set(found)
    assert "traitscope.utils.errors.UserError" in imported(
        "utils/stage/stage.py", source_of("utils/stage/stage.py")
    )


def test_a_file_in_a_wing_is_a_command_and_a_module_lives_in_a_folder():
    files = [f for f in modules() if f.split("/")[0] in WINGS and not f.endswith("__init__.py")]
    assert [file for file in files if is_command(file) != (file.count("/") == 1)] == []


def test_a_command_is_known_by_its_foot_and_not_by_an_example_of_one():
    assert is_command("extraction/4_fit_vectors.py")
    assert is_command("utils/sync/main.py")
    assert not is_command("utils/stage/command.py")


def test_every_command_runs_the_checkout_it_lies_in_whichever_is_installed():
    lost = []
    for file in [file for file in modules() if is_command(file)]:
        up = re.search(
            r'^if not __package__:.*\n    runpy\.run_path\(str\(Path\(__file__\)\.resolve\(\)\.parents\[(\d)\] / "__init__\.py"\)',
            source_of(file),
            re.MULTILINE,
        )
        lost += [] if up and int(up[1]) == file.count("/") else [file]
    assert lost == ["analysis/import_vectors.py"]  # it imports nothing, and forwards to a command that does


def test_no_module_is_named_like_the_standard_library_s():
    assert [
        file for file in modules() if set(Path(file).with_suffix("").parts) & sys.stdlib_module_names
    ] == []


def test_every_folder_of_a_floor_is_a_package():
    folders = {(CHECKOUT / file).parent for file in modules()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_datasets_holds_no_python():
    # with an __init__.py it would shadow the Hugging Face package
    assert list((CHECKOUT / "datasets").rglob("*.py")) == []


def test_whichever_file_comes_first_the_threads_are_passive_before_torch_starts_them(policies):
    assert {file: policy for file, policy in policies.items() if policy != "PASSIVE"} == {}


def test_most_files_want_torch_so_that_the_law_above_says_something(policies):
    wanting = {
        "utils/model/loading.py",
        "extraction/4_fit_vectors.py",
        "extraction/fitting/methods.py",
        "analysis/steering/arms.py",
    }
    assert wanting <= policies.keys()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"OMP_NUM_THREADS": "3"}, "PASSIVE"),
        ({"OPENBLAS_NUM_THREADS": "2"}, "PASSIVE"),
    ],
)
def test_importing_traitscope_sets_the_threads_unless_they_are_set(setting, expected):
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))
    } | setting
    names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    script = f"import os, sys, traitscope; print(*(os.environ[n] for n in {names}), 'torch' in sys.modules)"
    policy, threads, blas, has_torch = subprocess.check_output(
        [sys.executable, "-c", script], cwd=CHECKOUT, env=env, text=True
    ).split()
    assert (policy, blas, has_torch) == (expected, setting.get("OPENBLAS_NUM_THREADS", "1"), "False")
    assert threads == setting.get("OMP_NUM_THREADS", threads)
    assert int(threads) >= 1


@pytest.mark.parametrize(
    "setting", [{}, {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "128"}]
)
def test_importing_traitscope_bounds_the_caches_of_products_unless_they_are_set(setting):
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    env = {name: value for name, value in os.environ.items() if name not in names} | setting
    script = f"import os, traitscope; print(*(os.environ[name] for name in {names}))"
    found = subprocess.check_output([sys.executable, "-c", script], cwd=CHECKOUT, env=env, text=True).split()
    assert found == [setting.get(name, "32") for name in names]


def test_nothing_asks_a_question_for_it_would_stop_a_run_overnight():
    asking = []
    for file in modules():
        calls = [node for node in ast.walk(ast.parse(source_of(file))) if isinstance(node, ast.Call)]
        asking += [file for call in calls if isinstance(call.func, ast.Name) and call.func.id == "input"]
    assert asking == ["inference/chat.py"]  # a chat is nothing but questions
