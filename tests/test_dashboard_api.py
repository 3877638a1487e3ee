"""What the dashboard's API says is what the pipeline wrote, and it says so without torch."""

import shutil

import pandas as pd
import pytest
import schemathesis
import torch
from conftest import call
from dashboard_server import DECEPTION, FORMALITY, MARKUP, OPTIMISM, SMALL, WIDTH
from hypothesis import HealthCheck, given, settings
from starlette.testclient import TestClient

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.files.tensors import load_tensor
from traitscope.utils.records.rollouts import read_rollouts
from traitscope.visualization import serve
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library


@pytest.fixture(scope="module")
def client(shown) -> TestClient:
    return TestClient(build_app(Library(shown)), base_url="http://localhost")


@pytest.fixture
def ask(client):
    def answer(path: str, **query) -> dict:
        response = client.get(f"/api/experiments/demo{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    return answer


def test_experiments_are_listed_with_what_they_are(client, shown):
    found, empty, _ = client.get("/api/experiments").json()
    assert (found["name"], found["model"], found["judge"], found["traits"]) == (
        "demo",
        str(shown / "model"),
        "embedded",
        [DECEPTION, FORMALITY, OPTIMISM],
    )
    assert (empty["name"], empty["traits"], empty["updated"]) == ("nothing", [], None)


def test_freshness_comes_from_the_manifests(ask):
    states = {card["trait"]: {s["stage"][0]: s["state"] for s in card["stages"]} for card in ask("")["cards"]}
    assert states[OPTIMISM] == dict.fromkeys("012345", "done")
    assert states[FORMALITY] == dict.fromkeys("01234", "done") | {"5": "missing"}
    assert states[DECEPTION] == {"0": "stale"} | dict.fromkeys("12345", "missing")
    stale = next(card for card in ask("")["cards"] if card["trait"] == DECEPTION)["stages"][0]
    assert stale["why"] == f"input changed: datasets/traits/{DECEPTION}/definition.txt"


def test_a_single_card_is_the_one_among_all(ask):
    assert [ask("/card", trait=card["trait"]) for card in ask("")["cards"]] == ask("")["cards"]


def test_what_reads_a_stale_stage_is_stale(shown, tmp_path):
    shutil.copytree(shown, tmp_path, dirs_exist_ok=True)
    responses = TraitPaths("demo", FORMALITY, tmp_path).responses("pos")
    responses.write_text(responses.read_text() + "\n")  # other bytes than stages 2 and 3 read
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    cards = client.get("/api/experiments/demo").json()["cards"]
    stages = {
        s["stage"][0]: (s["state"], s["why"])
        for s in next(c for c in cards if c["trait"] == FORMALITY)["stages"]
    }
    assert stages["1"][0] == "stale"  # it did not write these bytes
    assert (
        stages["2"]
        == stages["3"]
        == ("stale", f"input changed: experiments/demo/extraction/{FORMALITY}/responses/pos.json")
    )
    assert stages["4"] == ("stale", "reads what 2_vet_responses, 3_capture_activations left, which is stale")


def test_a_card_has_the_figures_of_the_summary(ask, shown):
    [written] = [
        row for row in read_json(shown / "experiments/demo/summary.json") if row["trait"] == DECEPTION
    ]  # of the last run
    cards = {card["trait"]: card["summary"] for card in ask("")["cards"]}
    assert cards[DECEPTION] == {k: v for k, v in written.items() if k in cards[DECEPTION]}
    results = read_json(TraitPaths("demo", OPTIMISM, shown).steering_results)
    assert (
        cards[OPTIMISM]["verdict"],
        cards[OPTIMISM]["effect"],
        cards[OPTIMISM]["held_out"]["n_pos"] > 1,
    ) == (results["verdict"], results["effect"], True)


@pytest.mark.parametrize("part", ["scenarios", "responses"])
def test_every_judged_text_is_there_in_full_with_its_score(ask, shown, part):
    paths = TraitPaths("demo", OPTIMISM, shown)
    written = read_json(paths.scenario_scores if part == "scenarios" else paths.response_scores)["rows"]
    page = ask("/vetting", trait=OPTIMISM)
    texts = page[part]["texts"]
    assert [(t["side"], t["value"], t["state"]) for t in texts] == [
        (r["side"], r["value"], r["state"]) for r in written
    ]
    assert [t["passed"] for t in texts] == [
        t["value"] >= SMALL["pos_threshold"] if t["side"] == "pos" else t["value"] <= SMALL["neg_threshold"]
        for t in texts
    ]
    assert {t["passed"] for t in texts} == {True, False}
    assert texts[0]["prompt"] == MARKUP
    responses = {
        r["key"]: r["response"] for side in ("pos", "neg") for r in read_json(paths.responses(side))["rows"]
    }
    assert [t["response"] for t in texts] == (
        [None] * 28 if part == "scenarios" else [responses[t["id"]] for t in texts]
    )


def test_what_has_not_been_vetted_is_null(ask):
    page = ask("/vetting", trait=DECEPTION)
    assert len(page["scenarios"]["texts"]) == 28
    assert page["responses"] is None


def test_vectors_are_those_of_the_metadata(ask, shown):
    page, paths = ask("/vectors", trait=FORMALITY), TraitPaths("demo", FORMALITY, shown)
    fitted = {(m, layer) for m in ("mean_diff", "probe", "random") for layer in range(8, 18)}
    trained = {("trained_nll", 12), ("trained_nll", 16), *(("prompt_delta", layer) for layer in range(20))}
    assert {(v["method"], v["layer"]) for v in page["vectors"]} == fitted | trained
    for vector in page["vectors"]:
        written = read_json(paths.vector_metadata(vector["method"], vector["layer"]))
        assert vector == {key: written[key] for key in vector}
    held_out = {(v["method"], v["layer"]): v["val"] for v in page["vectors"] if v["method"] != "random"}
    best = max(held_out, key=lambda key: (held_out[key]["auroc"], held_out[key]["cohens_d"]))
    assert tuple(page["best"]) == best  # the page marks what the pipeline's own rule finds best


def test_similarities_are_the_cosines_of_the_vectors(ask, shown):
    def load(trait: str, method: str) -> torch.Tensor:
        return load_tensor(TraitPaths("demo", trait, shown).vector(method, 12), (WIDTH,)).double()

    methods = ask("/similarity/methods", trait=OPTIMISM, layer=12)
    traits = ask("/similarity/traits", method="probe", layer=12)
    assert (methods["labels"], traits["labels"]) == (["mean_diff", "probe", "random"], [FORMALITY, OPTIMISM])
    for found, rows in (
        (methods, [load(OPTIMISM, m) for m in methods["labels"]]),
        (traits, [load(t, "probe") for t in traits["labels"]]),
    ):
        unit = torch.nn.functional.normalize(torch.stack(rows), dim=1)
        assert torch.allclose(torch.tensor(found["cosines"]).double(), unit @ unit.T, atol=6e-5)


def test_every_cell_s_texts_stand_beside_the_unsteered_ones(ask, shown):
    results = ask("/steering", trait=OPTIMISM)
    assert len(results["dev"]) == 2  # two doses, one place
    written = read_json(TraitPaths("demo", OPTIMISM, shown).steering_responses("dev"))["rows"]
    for cell in results["dev"]:
        page = ask("/steering/texts", trait=OPTIMISM, part="dev", arm=f"plus {cell['cell']}")
        assert [row["response"] for row in page["steered"]] == [
            r["response"] for r in written if r["arm"] == f"plus {cell['cell']}"
        ]
        assert (
            [row["question"] for row in page["unsteered"]]
            == [row["question"] for row in page["steered"]]
            == results["questions"]["dev"]
        )
        moved = [
            s["trait"]["value"] - u["trait"]["value"]
            for s, u in zip(page["steered"], page["unsteered"], strict=True)
        ]
        assert sum(moved) / len(moved) == pytest.approx(cell["effect"], abs=1e-3)


def test_rollouts_are_those_of_the_table_with_every_text(ask, shown):
    paths, page = TraitPaths("demo", OPTIMISM, shown), ask("/rollouts", trait=OPTIMISM)
    table = pd.read_csv(paths.rollouts_table("variants.csv")).set_index("variant")
    assert [v["variant"] for v in page["variants"]] == list(table.index)
    assert page["questions"] == 3

    rows = read_rollouts(paths).rows.to_pylist()
    for variant in page["variants"]:
        name, found = variant["variant"], variant["scores"]["trait"]
        assert found["mean"] == pytest.approx(table.loc[name, "trait"])
        assert variant["scores"]["coherence"] | {"unasked": 6, "mean": None} == variant["scores"]["coherence"]
        own = [row for row in rows if row["variant"] == name]
        shown_texts = ask("/rollouts/texts", trait=OPTIMISM, variant=name)
        assert [t["response"] for t in shown_texts["texts"]] == [row["response"] for row in own]
        assert [t["scores"]["trait"]["value"] for t in shown_texts["texts"]] == [
            r["trait_score"] for r in own
        ]
        assert len(shown_texts["plain"]) == (0 if name == "plain" else 6)


def test_a_trait_without_rollouts_has_none_and_damaged_ones_are_named(ask, shown, tmp_path):
    assert ask("/rollouts", trait=FORMALITY)["variants"] == []
    shutil.copytree(shown, tmp_path, dirs_exist_ok=True)
    file = TraitPaths("demo", OPTIMISM, tmp_path).rollout_rows
    file.write_bytes(file.read_bytes()[:-9])
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    response = client.get("/api/experiments/demo/rollouts", params={"trait": OPTIMISM})
    assert response.status_code == 409
    assert response.json()["detail"].startswith(
        f"experiments/demo/rollouts/{OPTIMISM}/rows.parquet was changed"
    )


def test_judging_shows_the_definition(ask, shown):
    page = ask("/steering/judging", trait=OPTIMISM)
    assert page["definition"] in (shown / "datasets/traits" / OPTIMISM / "definition.txt").read_text()
    assert (page["judge"]["judge"], page["prompts"]) == ("embedded", [])


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/experiments/none", {}),
        ("/api/experiments/demo/vetting", {"trait": "no/such"}),
        ("/api/experiments/demo/card", {"trait": "no/such"}),
        ("/api/experiments/demo/vetting", {"trait": "../../.."}),
        ("/api/experiments/demo/steering", {"trait": FORMALITY}),
        ("/api/experiments/demo/vectors", {"trait": DECEPTION}),
        ("/api/experiments/demo/similarity/methods", {"trait": OPTIMISM, "layer": 99}),
        ("/api/experiments/demo/similarity/traits", {"method": "*", "layer": 12}),
        ("/api/experiments/demo/steering/texts", {"trait": OPTIMISM, "part": "dev", "arm": "none"}),
        ("/api/experiments/demo/rollouts/texts", {"trait": OPTIMISM, "variant": "none"}),
    ],
)
def test_what_is_not_there_is_404_with_one_line(client, path, query):
    response = client.get(path, params=query)
    assert response.status_code == 404
    assert response.json()["detail"]


@pytest.mark.parametrize("content", ["{", '{"trait": 3}', "[]"])
def test_a_damaged_file_is_named_and_costs_only_its_own_trait(shown, tmp_path, content):
    shutil.copytree(shown, tmp_path, dirs_exist_ok=True)
    file = TraitPaths("demo", OPTIMISM, tmp_path).steering_results
    file.write_text(content)
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    response = client.get("/api/experiments/demo/steering", params={"trait": OPTIMISM})
    assert response.status_code == 409
    assert response.json()["detail"].startswith(
        f"experiments/demo/steering/{OPTIMISM}/results.json"
    )  # where the root lies is not told
    cards = client.get("/api/experiments/demo").json()["cards"]
    assert [bool(card["problem"]) for card in cards] == [False, False, True]


def test_the_pages_and_plotly_are_served(client):
    assert "<title>traitscope</title>" in client.get("/").text
    assert client.get("/plotly.min.js").headers["content-type"].startswith("text/javascript")
    assert {"/api/experiments", "/api/experiments/{experiment}/vetting"} <= client.get(
        "/api/openapi.json"
    ).json()["paths"].keys()


def test_a_port_that_is_taken_is_one_line(dashboard):
    port = dashboard.rstrip("/").rsplit(":", 1)[1]
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port} .* choose another --port"):
        call(serve, "--port", port)


REAL = {
    "experiment": "demo",
    "trait": OPTIMISM,
    "method": "probe",
    "layer": 12,
    "part": "dev",
    "arm": "unsteered",
    "variant": "plain",
}
REAL |= {
    "prompt_set": "skies",
    "prompt": "grim-0",
    "other": "twin",
    "by": "kind",
    "first": "grim",
    "second": "sunny",
}


@pytest.mark.parametrize("names", [{}, REAL, REAL | {"trait": DECEPTION}], ids=["any", "real", "incomplete"])
def test_the_api_keeps_its_own_description_whatever_is_asked(shown, names):
    schema = schemathesis.openapi.from_asgi(
        "/api/openapi.json", build_app(Library(shown), names=["testserver"])
    )
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 22
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def keeps_it(case):
            case.path_parameters |= {k: v for k, v in names.items() if k in case.path_parameters}
            case.query |= {k: v for k, v in names.items() if k in case.query}
            if isinstance(case.body, dict):
                case.body |= {"max_new_tokens": 1}  # the model is real
            case.call_and_validate()

        keeps_it()
