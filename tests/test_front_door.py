"""`import traitscope as ts`, wherever it is typed: the seven names, their examples, the page and the notebook that show them."""

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

import traitscope as ts
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.vectors import write_vector

CHECKOUT = Path(__file__).resolve().parents[1]
TRAIT = "behavioral/formality"
FORMAL = ["Dear Madam, I remain yours faithfully.", "We regret to inform you of the delay."]
CASUAL = ["hey, what's up with you?", "no worries mate, see ya!"]


@pytest.fixture(scope="module")
def root(tmp_path_factory, embedded) -> Path:
    """An experiment "demo" with one vector of the embedded model, and a file named utils.py that nobody should import."""
    folder = tmp_path_factory.mktemp("front")
    own = ts.fit(embedded, FORMAL, CASUAL, layer=12)
    paths = TraitPaths("demo", TRAIT, folder)
    about = own.about.model_dump(exclude={"trait", "method", "layer", "origin"})
    write_vector(paths, ("mean_diff", 12), own.tensor, about | {"val": about["train"]})
    norms = [float(own.mean_norm or 0)] * embedded.n_layers
    write_json(
        paths.activations_metadata, {"shape": [4, embedded.n_layers, embedded.d_model], "mean_norms": norms}
    )
    (folder / "utils.py").write_text("raise RuntimeError('a file of the user was imported')\n")
    return folder


@pytest.fixture
def vector(root, monkeypatch):
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
    return ts.load_vector("demo", TRAIT)


def test_every_name_at_the_door_has_an_example_that_runs(vector, embedded):
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in ts.__all__:
        (found,) = finder.find(getattr(ts, name), name, globs={"ts": ts, "lm": embedded, "vector": vector})
        assert found.examples, name
        assert runner.run(found).failed == 0, name


def test_the_door_is_short_and_opens_without_torch():
    assert len((CHECKOUT / "__init__.py").read_text().splitlines()) < 220
    script = "import sys, traitscope; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], cwd="/", text=True).strip() == "False"


def shown_code(page: Path) -> str:
    """Return the Python of a page or a notebook, in order."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    return "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("page", ["python.md", "quickstart.ipynb"])
def test_what_a_page_shows_runs_in_a_folder_with_a_utils_py(root, page, monkeypatch, capsys):
    code = shown_code(CHECKOUT / "docs" / page)
    assert code.count("ts.") >= 6
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    plt.switch_backend("agg")
    monkeypatch.setattr(ts.ask, "__defaults__", (8, *ts.ask.__defaults__[1:]))  # short answers show as much
    code = re.sub(r"max_new_tokens=\d+", "max_new_tokens=8", code)
    exec(compile(code, page, "exec"), {"__name__": "__main__"})
    assert "mean_diff 12" in capsys.readouterr().out


def test_a_utils_py_beside_a_script_is_never_imported(root):
    script = root / "script.py"
    script.write_text(
        "import traitscope.utils.stage.command, traitscope.utils.records.vectors as v; print(v.__name__)"
    )
    done = subprocess.run([sys.executable, script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "traitscope.utils.records.vectors"), done.stderr


def test_the_page_names_every_function_at_the_door():
    text = (CHECKOUT / "docs" / "python.md").read_text()
    assert [name for name in ts.__all__ if f"| `{name}` |" not in text] == []


def test_steering_adds_dose_times_the_mean_norm_and_ends_with_its_block(vector, embedded):
    text = "The sun rose over the hills."
    before = ts.record(embedded, text)
    with ts.steering(embedded, vector, dose=0.3):
        during = ts.record(embedded, text)
    assert torch.equal(ts.record(embedded, text), before)

    moved = (during - before)[vector.layer]
    assert torch.allclose(moved, 0.3 * vector.mean_norm * vector.unit.expand_as(moved), atol=2e-2)
    assert torch.equal(during[: vector.layer], before[: vector.layer])


def test_a_coefficient_is_the_same_push_as_its_dose(vector, embedded):
    coefficient = 0.3 * vector.mean_norm / float(vector.tensor.norm())
    streams = []
    for strength in ({"dose": 0.3}, {"coefficient": coefficient}):
        with ts.steering(embedded, vector, **strength):
            streams.append(ts.record(embedded, "Rain fell."))
    assert torch.equal(*streams)


@pytest.mark.parametrize("strength", [{}, {"dose": 0.1, "coefficient": 1.0}])
def test_steering_without_one_strength_is_refused(vector, embedded, strength):
    with (
        pytest.raises(ValueError, match="a dose or a coefficient"),
        ts.steering(embedded, vector, **strength),
    ):
        pass


def test_a_vector_of_another_model_is_refused_before_it_acts(vector, llama):
    with pytest.raises(UserError, match="does not fit"), ts.steering(llama, vector, dose=0.1):
        pass


def test_projecting_says_where_the_fitted_sides_lie(vector, embedded):
    formal, casual = (
        sum(score for text in texts for _, score in ts.project(embedded, vector, text))
        for texts in (FORMAL, CASUAL)
    )
    assert formal > 0 > casual


def test_a_planted_direction_is_found_by_fit(llama):
    # texts of one letter against texts of another: the direction between their means, whatever the method's name
    pos, neg = ["aaa aaaa", "aa aaa aa"], ["bbbb bb", "bbb bbbbb"]
    means = [torch.stack([ts.record(llama, t)[2, 1:].mean(0) for t in texts]).mean(0) for texts in (pos, neg)]
    found = ts.fit(llama, pos, neg, layer=2)
    assert torch.allclose(found.tensor, means[0] - means[1], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a b"], ["c d", "e f"]), "examples"),
        ((["a b", ""], ["c d", "e f"]), "fewer than two tokens"),
        ((["a b", "b c"], ["c d", "e f"], 99), "no layer 99"),
    ],
)
def test_texts_from_which_nothing_follows_are_refused(llama, arguments, words):
    with pytest.raises(ValueError, match=words):
        ts.fit(llama, *arguments)


def test_every_argument_at_the_door_is_annotated():
    for name in ts.__all__:
        parameters = inspect.signature(getattr(ts, name)).parameters.values()
        assert [p.name for p in parameters if p.annotation is inspect.Parameter.empty] == []


def test_nothing_inside_imports_by_a_bare_name():
    tops = {"utils", "extraction", "analysis", "inference", "visualization"}
    files = [f for top in tops for f in (CHECKOUT / top).rglob("*.py")]
    wrong = [
        (file.name, ast.unparse(node))
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] in tops for a in node.names))
        or (isinstance(node, ast.ImportFrom) and node.level == 0 and str(node.module).split(".")[0] in tops)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda lm, v: ts.steering(lm, v, dose=float("nan")).__enter__(), "finite"),
        (lambda lm, v: ts.steering(lm, v, coefficient=float("inf")).__enter__(), "finite"),
        (lambda lm, v: ts.steering(lm, v).__enter__(), "a dose or a coefficient"),
        (lambda lm, v: ts.fit(lm, "joyful", "dullest"), "a list of texts"),
        (lambda lm, v: ts.fit(lm, FORMAL, FORMAL, layer=15), "layer 15"),
        (lambda lm, v: ts.fit(lm, FORMAL[:1], CASUAL), "at least 2"),
    ],
)
def test_a_call_that_cannot_be_meant_is_a_value_error_that_says_why(embedded, vector, ask, words):
    with pytest.raises(ValueError, match=words) as caught:
        ask(embedded, vector)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda lm, v: ts.record(lm, ""), "no tokens"),
        (lambda lm, v: ts.project(lm, v, ""), "no tokens"),
        (lambda lm, v: ts.ask(lm, []), "a prompt is"),
        (lambda lm, v: ts.ask(lm, [{"rol": "user"}]), "a prompt is"),
        (lambda lm, v: ts.ask(lm, None), "a prompt is"),
        (lambda lm, v: ts.ask(lm, "word " * 9000), "tokens; embedded takes"),
        (lambda lm, v: ts.ask(lm, [{"role": "system", "content": "Be brief."}]), "a prompt is"),
        (lambda lm, v: ts.load_model("embedded", dtype="float7"), "float7"),
        (lambda lm, v: ts.load_vector("demo", "mood/none"), "--traits mood/none"),
    ],
)
def test_what_a_user_can_mend_is_one_line(embedded, vector, ask, words):
    with pytest.raises(UserError, match=words) as caught:
        ask(embedded, vector)
    assert "\n" not in str(caught.value)


def test_two_seeds_give_two_answers_and_one_seed_the_same(embedded):
    said = [ts.ask(embedded, "Tell me a story.", 12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_the_numbers_of_a_vector_cannot_be_changed_by_accident(embedded, vector):
    for one in (vector, ts.fit(embedded, FORMAL, CASUAL, layer=12)):
        with pytest.raises(ValueError, match="read-only"):
            one.values[0] = 1.0
