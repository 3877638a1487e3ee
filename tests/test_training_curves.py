"""How training went, as pictures and on the dashboard."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from dashboard_browser import needs_browser, save, scroll_through
from dashboard_server import DECEPTION, FORMALITY, OPTIMISM
from matplotlib import pyplot as plt
from PIL import Image
from starlette.testclient import TestClient
from training_world import TRAIT, WORLD, make_world, train

from traitscope.analysis import draw_training
from traitscope.analysis.draw_training import COLOURS, draw_curves
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.trained import list_trainings, read_training
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library

VIEW = f"#/training?experiment=demo&trait={FORMALITY}"


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    """A trait with two trained methods."""
    folder = make_world(tmp_path_factory.mktemp("curves"), tiny_folders["llama"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        train("--objective", "nll,delta", "--layers", "1,2", "--seeds", "2")
    return folder


@pytest.fixture
def paths(made, tmp_path, monkeypatch) -> TraitPaths:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return TraitPaths("e", TRAIT, tmp_path / "root")


def test_the_picture_has_every_loss_and_the_kept_vector_stands_out(paths):
    training = read_training(paths, "trained_nll")
    figure = draw_curves(TRAIT, [training])
    assert [axes.get_title() for axes in figure.axes] == ["trained_nll, layer 1", "trained_nll, layer 2"]
    for axes, layer in zip(figure.axes, training.layers, strict=True):
        tried = [v for v in training.tried if v.layer == layer]
        named = {line.get_label(): line for line in axes.lines}
        for v in tried:
            name = f"rate {v.learning_rate:g}, seed {v.seed}{', kept' if v.is_kept else ''}"
            assert list(named[name].get_xdata()) == [step for step, _, _ in v.losses]
            assert np.allclose(named[name].get_ydata(), [loss for _, _, loss in v.losses])
        widths = {name: line.get_linewidth() for name, line in named.items() if name.startswith("rate")}
        assert max(widths, key=widths.get).endswith(", kept")
        assert list(named["unsteered"].get_ydata()) == [training.plain_loss] * 2
        kept = next(v for v in tried if v.is_kept)
        assert (kept.best_step, kept.best_loss) in [
            tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1
        ]
        assert {named[n].get_color() for n in widths} == set(COLOURS[:2])  # one a learning rate
    plt.close(figure)


def test_the_command_writes_one_picture_a_trait(paths, capfd):
    call(draw_training, *WORLD)
    file = paths.steering_figure("training")
    assert capfd.readouterr().out.strip() == paths.relative(file)
    assert min(Image.open(file).size) > 300
    before = file.read_bytes()
    call(draw_training, *WORLD)
    assert file.read_bytes() == before


def test_a_loss_that_was_not_finite_is_a_gap(paths):
    training = read_training(paths, "trained_nll")
    content = json.loads(training.model_dump_json())
    content["tried"][0]["losses"][3][1:] = [None, None]
    content["plain_loss"] = None
    figure = draw_curves(TRAIT, [type(training).model_validate(content)])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 4]
    assert any(np.isnan(np.asarray(line.get_ydata(), float)[3]) for line in lines)
    plt.close(figure)


@pytest.mark.parametrize("left", [(), ("prompt_delta",)])
def test_without_a_training_the_command_says_which_makes_one(paths, left):
    for method in list_trainings(paths).keys() - set(left):
        paths.training(method).unlink()
    with pytest.raises(UserError, match=f"run python extraction/train_vectors.py .* --traits {TRAIT}"):
        call(draw_training, *WORLD)


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"trait": 3}'])
def test_a_damaged_record_is_one_line_in_both_places(paths, damage):
    paths.training("trained_nll").write_text(damage)
    with pytest.raises(UserError, match=r"training/trained_nll\.json"):
        call(draw_training, *WORLD)
    answer = client(paths.root).get("/api/experiments/e/training", params={"trait": TRAIT})
    assert answer.status_code == 409
    assert "training/trained_nll.json" in answer.json()["detail"]
    assert str(paths.root) not in answer.text


def client(root: Path) -> TestClient:
    return TestClient(build_app(Library(root)), base_url="http://localhost", raise_server_exceptions=False)


def asked(root: Path, trait: str = TRAIT, experiment: str = "e") -> dict:
    return client(root).get(f"/api/experiments/{experiment}/training", params={"trait": trait}).json()


def test_the_dashboard_is_given_what_training_wrote(paths):
    page = asked(paths.root)
    assert [m["method"] for m in page["methods"]] == ["trained_nll", "prompt_delta"]
    record = read_training(paths, "trained_nll")
    assert page["methods"][0] == json.loads(record.model_dump_json()) | {"why_stale": ""}
    assert page["methods"][1]["tried"] == []


def test_a_training_whose_texts_changed_is_stale_and_says_why(paths):
    file = paths.responses("pos")
    file.write_bytes(file.read_bytes() + b"\n")
    whys = [m["why_stale"] for m in asked(paths.root)["methods"]]
    assert all(why.startswith("input changed: experiments/e/") for why in whys)
    paths.vector("trained_nll", 1).unlink()
    assert asked(paths.root)["methods"][0]["why_stale"].startswith("output missing: ")


def test_a_trait_without_any_says_how_to_train(shown):
    page = asked(shown, OPTIMISM, "demo")
    assert page["methods"] == []
    assert page["command"] == f"python extraction/train_vectors.py --experiment demo --traits {OPTIMISM}"
    assert client(shown).get("/api/experiments/demo/training", params={"trait": "a/none"}).status_code == 404


@needs_browser
def test_the_view_shows_curves_and_every_vector_that_was_tried(visit, tmp_path):
    page = visit.open(VIEW)
    scroll_through(page)
    rows = page.eval_on_selector_all("section table tbody tr", "rs => rs.map((r) => r.innerText)")
    assert len(rows) == 8
    assert sum("kept" in row for row in rows) == 2
    page.wait_for_selector("[data-plot=training_trained_nll_layer12] .plot-area[data-drawn=yes]")
    save(page, "training_trained_nll_layer12", "CSV").save_as(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "layer,learning_rate,seed,kept,step,training_loss,validation_loss"
    assert {line.split(",")[0] for line in lines[1:]} == {"12"}

    page.select_option("label:has-text('Layer') select", "16")
    page.wait_for_url("**layer=16**")
    page.wait_for_selector("[data-plot=training_trained_nll_layer16]")
    page.select_option("label:has-text('Method') select", "prompt_delta")
    page.wait_for_selector("text=Nothing was tried")
    controls = page.inner_text("section .controls").split()
    assert controls == ["Method", "trained_nll", "prompt_delta"]
    assert page.query_selector("section table") is None


@needs_browser
@pytest.mark.parametrize("trait", [OPTIMISM, DECEPTION])
def test_the_view_of_a_trait_without_any_says_how_to_train(visit, trait):
    page = visit.open(f"#/training?experiment=demo&trait={trait}")
    assert f"train_vectors.py --experiment demo --traits {trait}" in page.inner_text(".state.empty code")
