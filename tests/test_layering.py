"""Arrows point down: roof → stages → wings → utils. And whoever comes first, utils sets the threads before torch starts them."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
WINGS = ("extraction", "analysis", "inference")
PACKAGES = ("utils", *WINGS, "visualization")
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
    for name in [n for n in sys.modules if n.partition(".")[0] in ("utils", "extraction", "analysis", "inference", "visualization")]: del sys.modules[name]
    os.environ.pop("OMP_WAIT_POLICY", None)
    sys.argv, sys.path[0] = [file, "--help"], os.getcwd()
    try:
        module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        importlib.import_module(module) if file not in scripts else runpy.run_path(file, run_name="__main__")
    except Wanted:
        policies[file] = os.environ.get("OMP_WAIT_POLICY")
    except SystemExit:
        pass
print("\\n" + json.dumps(policies))
"""


def modules() -> list[str]:
    return sorted(file.relative_to(CHECKOUT).as_posix() for package in PACKAGES for file in (CHECKOUT / package).rglob("*.py"))


def is_stage(file: str) -> bool:
    return Path(file).name[0].isdigit()


def is_script(file: str) -> bool:
    """Tell a command-line script: unless it is a stage it may see every wing, and nothing may import it."""
    path = CHECKOUT / file
    return path.exists() and "if not __package__:" in path.read_text(encoding="utf-8")


def imported(file: str, source: str) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere in it, and those it loads by a text."""
    package = file.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*(package[: len(package) - node.level + 1] if node.level else []), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__", "run_path", "run_module"):
            yield from ("".join(c.value for c in ast.walk(arg) if isinstance(c, ast.Constant) and isinstance(c.value, str)) for arg in node.args)


def wrong_arrows(file: str, source: str) -> list[str]:
    """Return what a module imports though it may not."""
    if file.startswith("visualization/") or (is_script(file) and not is_stage(file)):
        return []
    package = file.split("/")[0]
    allowed = {"utils"} if package == "utils" else {"utils", *WINGS} if is_stage(file) else {"utils", package}
    ours = [name for name in imported(file, source) if name.split(".")[0] in PACKAGES]
    return [name for name in ours if name.split(".")[0] not in allowed or is_closed(name)]


def is_closed(name: str) -> bool:
    """Tell a stage or the roof, which nothing below the roof may import."""
    parts = name.split(".")
    is_unnamed = parts[0] == "extraction" and len(parts) > 1 and (parts[1] == "" or parts[1][:1].isdigit())
    return is_unnamed or any(name == script or name.startswith(f"{script}.") for script in scripts())


@cache
def scripts() -> list[str]:
    """Return the dotted names of the command-line scripts."""
    return [file.removesuffix(".py").replace("/", ".") for file in modules() if is_script(file)]


@pytest.fixture(scope="module")
def policies() -> dict[str, str | None]:
    """Return {file: OMP_WAIT_POLICY when it first wants torch}, for the files that do."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    runnable = [file for file in modules() if is_script(file)]
    out = subprocess.check_output([sys.executable, "-c", PROBE, json.dumps(runnable), json.dumps(modules())], cwd=CHECKOUT, env=env, text=True)
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("file", modules())
def test_imports_point_down(file):
    assert wrong_arrows(file, (CHECKOUT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("utils/model.py", "import extraction.traits"),
        ("utils/model.py", "def f():\n    from analysis import statistics"),
        ("utils/model.py", "from inference.chat import talk"),
        ("utils/judge/embedded.py", "from ...extraction import traits"),
        ("extraction/traits.py", "from analysis.separation import separation"),
        ("extraction/traits.py", "import inference"),
        ("analysis/steering/arms.py", "from extraction.methods import METHODS"),
        ("analysis/steering/arms.py", "from inference import monitor"),
        ("inference/monitor.py", "from analysis.separation import separation"),
        ("inference/monitor.py", "from extraction import traits as t"),
        ("extraction/4_fit_vectors.py", "from importlib import import_module\nimport_module('extraction.3_capture_activations')"),
        ("extraction/4_fit_vectors.py", "import importlib\nimportlib.import_module(f'extraction.{name}')"),
        ("extraction/4_fit_vectors.py", "from extraction.run_pipeline import load_stage"),
        ("extraction/4_fit_vectors.py", "from . import run_pipeline"),
        ("extraction/audit.py", "from extraction.check_trait import main"),
        ("extraction/traits.py", "__import__('extraction.1_generate_responses')"),
        ("extraction/4_fit_vectors.py", "from visualization.serve import app"),
        ("utils/stage.py", "import visualization"),
        ("analysis/steering/arms.py", "from analysis.judge_agreement import render"),
    ],
)
def test_a_wrong_arrow_is_found(file, source):
    assert len(wrong_arrows(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("extraction/4_fit_vectors.py", "from analysis.separation import separation\nfrom extraction import methods\nimport utils.stage, inference"),
        ("extraction/run_pipeline.py", "from importlib import import_module\nimport_module('extraction.0_vet_scenarios')"),
        ("visualization/serve.py", "from extraction import run_pipeline"),
        ("analysis/steering/arms.py", "from .. import separation\nimport torch\nfrom utils.hooks import steer"),
    ],
)
def test_a_right_arrow_is_let_through(file, source):
    assert wrong_arrows(file, source) == []


def test_the_tree_is_really_walked():
    found = modules()
    assert {"utils/stage.py", "utils/judge/__init__.py", "extraction/0_vet_scenarios.py", "analysis/steering/arms.py"} <= set(found)
    assert list(imported("utils/stage.py", (CHECKOUT / "utils/stage.py").read_text())).count("utils.errors.UserError") == 1


@pytest.mark.parametrize("file", modules())
def test_no_module_is_named_like_the_standard_library_s(file):
    assert set(Path(file).with_suffix("").parts) & sys.stdlib_module_names == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_is_a_package(package):
    folders = {(CHECKOUT / file).parent for file in modules() if file.startswith(f"{package}/")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_datasets_holds_no_python():
    # with an __init__.py it would shadow the Hugging Face package
    assert list((CHECKOUT / "datasets").rglob("*.py")) == []


@pytest.mark.parametrize("file", modules())
def test_whichever_file_comes_first_the_threads_are_passive_before_torch_starts_them(policies, file):
    assert policies.get(file, "PASSIVE") == "PASSIVE"


def test_most_files_want_torch_so_that_the_law_above_says_something(policies):
    assert {"utils/model.py", "extraction/4_fit_vectors.py", "extraction/vectors.py", "analysis/steering/arms.py"} <= policies.keys()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"OMP_NUM_THREADS": "3"}, "PASSIVE"), ({"OPENBLAS_NUM_THREADS": "2"}, "PASSIVE")],
)
def test_importing_utils_sets_the_threads_unless_they_are_set(setting, expected):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "OPENBLAS_"))} | setting
    script = "import os, sys, utils; print(*(os.environ[n] for n in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')), 'torch' in sys.modules)"
    policy, threads, blas, has_torch = subprocess.check_output([sys.executable, "-c", script], cwd=CHECKOUT, env=env, text=True).split()
    assert (policy, blas, has_torch) == (expected, setting.get("OPENBLAS_NUM_THREADS", "1"), "False")
    assert threads == setting.get("OMP_NUM_THREADS", threads)
    assert int(threads) >= 1


@pytest.mark.parametrize("setting", [{}, {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "128"}])
def test_importing_utils_bounds_the_caches_of_products_unless_they_are_set(setting):
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    env = {name: value for name, value in os.environ.items() if name not in names} | setting
    script = f"import os, utils; print(*(os.environ[name] for name in {names}))"
    found = subprocess.check_output([sys.executable, "-c", script], cwd=CHECKOUT, env=env, text=True).split()
    assert found == [setting.get(name, "32") for name in names]


@pytest.mark.parametrize("file", [file for file in modules() if file != "inference/chat.py"])  # a chat is nothing but questions
def test_nothing_asks_a_question(file):
    calls = [node for node in ast.walk(ast.parse((CHECKOUT / file).read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "input"]  # it would stop a run overnight
