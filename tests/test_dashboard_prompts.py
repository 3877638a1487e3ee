"""What the API says of captured prompts is what inference/ and analysis/ found, number by number."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from dashboard_server import FORMALITY, OPTIMISM, SUNNY
from starlette.testclient import TestClient

from traitscope.inference.watch.dynamics import DynamicsOptions, describe, smooth
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.records.readings import read_projections
from traitscope.utils.records.recorded import read_record
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library


def client_of(root: Path) -> TestClient:
    return TestClient(build_app(Library(root)), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def ask(shown):
    client = client_of(shown)

    def answer(path: str, **query):
        response = client.get(f"/api/experiments/demo/{path}", params={"prompt_set": "skies"} | query)
        assert response.status_code == 200, response.text
        return response.json()

    return answer


@pytest.fixture
def paths(shown) -> InferencePaths:
    return InferencePaths("demo", "skies", shown)


def test_prompts_come_with_their_responses_and_what_they_can_be_split_by(ask, paths):
    about = {"name": "skies", "description": "Weather, grim and sunny.", "prompts": 8, "problem": ""}
    assert ask("prompt-sets") == [about]
    page = ask("prompts")
    assert [p["id"] for p in page["prompts"]] == [p["id"] for p in read_json(paths.index)["prompts"]]
    for prompt in page["prompts"]:
        record = read_record(paths, prompt["id"])
        assert (prompt["prompt"], prompt["response"], prompt["n_tokens"]) == (
            record.prompt,
            record.response,
            len(record.ids),
        )
    assert page["fields"] == {
        "kind": {"grim": 3, "sunny": 3},
        "note": {f"made for tests, {kind}": 3 for kind in ("grim", "sunny")},
    }
    assert [p["values"].get("kind") for p in page["prompts"]] == ["grim"] * 3 + ["sunny"] * 3 + [None] * 2
    assert page["splits"][0]["groups"] == {
        kind: [f"{kind}-{i}" for i in range(3)] for kind in ("grim", "sunny")
    }
    assert page["others"] == ["twin"]
    assert page["prompts"][3]["prompt"][-1]["content"] == SUNNY[0]


@pytest.mark.parametrize("scale", ["raw", "centered", "cosine"])
@pytest.mark.parametrize("window", [1, 4])
def test_courses_are_the_projections_on_a_scale_smoothed_turn_by_turn(ask, paths, scale, window):
    page, record = ask("course", prompt="sunny-1", scale=scale, window=window), read_record(paths, "sunny-1")
    assert page["tokens"] == record.tokens
    assert [(c["trait"], c["layer"]) for c in page["courses"]] == [(FORMALITY, 12), (OPTIMISM, 12)]
    stored = {(s.origin["trait"], s.origin["layer"]): s for s in read_projections(paths, "sunny-1")}
    for course in page["courses"]:
        scores, n = stored[course["trait"], course["layer"]], record.prompt_tokens
        divisor = scores.norms if scale == "cosine" else 1
        expected = scores.raw / divisor - (scores.origin["centre"] if scale == "centered" else 0)
        assert course["scores"][0] is course["smoothed"][0] is None  # the attention sink is no reading
        np.testing.assert_allclose(course["scores"][1:], expected[1:], rtol=1e-4)
        apart = [smooth(expected[1:n], window), smooth(expected[n:], window)]
        np.testing.assert_allclose(course["smoothed"][1:], np.concatenate(apart), rtol=1e-3, atol=1e-4)
        assert course["velocity"][1] is course["velocity"][n] is None
        np.testing.assert_allclose(course["velocity"][n + 1 :], np.diff(apart[1]), rtol=1e-3, atol=1e-3)


def test_a_course_has_the_figures_and_the_known_point_of_monitor_dynamics(ask, paths):
    for vector in read_json(paths.dynamics(OPTIMISM))["vectors"]:
        name = f"{vector['origin']['method']} {vector['origin']['layer']}"
        for row in vector["prompts"]:
            [course] = ask("course", prompt=row["id"], traits=OPTIMISM, vector=name)["courses"]
            assert course["response"] == {k: v for k, v in row.items() if k != "id"}
        [turn] = vector["known_points"]["turns"]
        [course] = ask("course", prompt="turns", traits=OPTIMISM, vector=name)["courses"]
        assert course["known_point"] == {k: turn[k] for k in ("where", "expect", "token", "change")}


def test_figures_are_the_stored_ones_where_they_describe_just_what_is_shown_and_else_computed(
    shown, tmp_path
):
    shutil.copytree(shown / "experiments/demo/inference", tmp_path / "experiments/demo/inference")
    client, paths = client_of(tmp_path), InferencePaths("demo", "skies", tmp_path)
    record, options = read_record(paths, "grim-0"), DynamicsOptions()
    scores = next(s for s in read_projections(paths, "grim-0") if s.label == f"{OPTIMISM} mean_diff 12")
    course = scores.on("centered")[record.span("response")]
    whole = read_json(paths.dynamics(OPTIMISM))
    for vector in whole["vectors"]:
        for row in vector["prompts"]:
            row["mean"] = 123.0  # what only the file says

    def mean(window: int = options.window) -> float:
        query = {"prompt_set": "skies", "prompt": "grim-0", "traits": OPTIMISM, "vector": "mean_diff 12"}
        [found] = client.get("/api/experiments/demo/course", params=query | {"window": window}).json()[
            "courses"
        ]
        described = describe(course, scores.origin["norm"], DynamicsOptions(window=window))
        assert {k: v for k, v in found["response"].items() if k != "mean"} == {
            k: v for k, v in described.items() if k != "mean"
        }
        return found["response"]["mean"]

    computed = pytest.approx(course.mean(), abs=1e-6)
    write_json(paths.dynamics(OPTIMISM), whole)
    assert mean() == 123.0
    assert mean(options.window + 1) == computed  # smoothed otherwise
    for other in ({"over": "all"}, {"tolerance": 0.2}, {"window": 1}):
        write_json(paths.dynamics(OPTIMISM), whole | other)
        assert mean() == computed, other
    refitted = [v | {"origin": v["origin"] | {"sha256": "another"}} for v in whole["vectors"]]
    write_json(paths.dynamics(OPTIMISM), whole | {"vectors": refitted})
    assert mean() == computed
    paths.dynamics(OPTIMISM).unlink()  # nobody ran monitor_dynamics
    assert mean() == computed


def test_the_other_models_scores_are_those_it_was_captured_with(ask, paths):
    page = ask("comparison", other="twin", prompt="grim-0", scale="raw", window=1, vector="mean_diff 16")
    theirs = {
        (s.origin["trait"], s.origin["layer"]): s for s in read_projections(paths.within("twin"), "grim-0")
    }
    n = read_record(paths, "grim-0").prompt_tokens
    assert [v["trait"] for v in page["vectors"]] == [FORMALITY, OPTIMISM]
    for vector in page["vectors"]:
        np.testing.assert_allclose(
            vector["theirs"][n:], theirs[vector["trait"], 16].raw[n:], rtol=1e-3, atol=2e-3
        )
        assert vector["theirs"][:n] == vector["differences"][:n] == [None] * n  # the prompt was not compared
        [row] = [
            r
            for r in read_json(paths.comparison("twin"))["vectors"]
            if (r["trait"], r["layer"]) == (vector["trait"], 16)
        ]
        shown = {name: vector["difference"][name] for name in row["difference"]}
        assert (shown, vector["q"]) == (row["difference"], row["q"])
    assert (
        ask("comparison", other="twin", prompt="grim-0", scale="cosine")["vectors"][0]["theirs"][-1] is None
    )


def test_a_split_by_a_field_is_the_one_that_compare_groups_makes(ask, paths):
    stored, page = (
        ask("groups/stored", by="kind"),
        ask("groups/by-field", by="kind", first="grim", second="sunny"),
    )
    written = read_json(paths.groups("kind"))
    assert stored["vectors"] == written["vectors"]
    assert page == stored | {"how": "by the field kind"}
    values = ask("groups/values", trait=OPTIMISM, method="mean_diff", layer=12)["values"]
    [vector] = [v for v in written["vectors"] if (v["trait"], v["layer"]) == (OPTIMISM, 12)]
    for mean, name in zip(vector["means"], written["groups"], strict=True):
        assert np.mean([values[id_] for id_ in written["groups"][name]]) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("prompts", {"prompt_set": "none"}, 404),
        ("prompts", {"prompt_set": "../../demo"}, 404),
        ("course", {"prompt": "none"}, 404),
        ("course", {"prompt": "../index"}, 404),
        ("course", {"prompt": "sunny-1", "window": 0}, 422),
        ("comparison", {"prompt": "sunny-1", "other": "demo"}, 404),
        ("groups/stored", {"by": "note"}, 404),
        ("groups/by-field", {"by": "kind", "first": "grim", "second": "grim"}, 409),
        ("groups/values", {"trait": OPTIMISM, "method": "mean_diff", "layer": 99}, 404),
    ],
)
def test_what_is_not_there_is_said_in_one_line(shown, path, query, status):
    response = client_of(shown).get(f"/api/experiments/demo/{path}", params={"prompt_set": "skies"} | query)
    assert response.status_code == status
    assert response.json()["detail"]


@pytest.mark.parametrize("content", [[], {"prompts": 3}, {"prompts": [{"id": 3}], "prompt_set": {}}])
@pytest.mark.parametrize("file", ["index", "response", "projections", "comparison", "groups", "dynamics"])
def test_a_damaged_file_costs_one_line(shown, tmp_path, file, content):
    shutil.copytree(shown / "experiments/demo/inference", tmp_path / "experiments/demo/inference")
    paths = InferencePaths("demo", "skies", tmp_path)
    damaged = {
        "index": paths.index,
        "response": paths.response("grim-0"),
        "projections": paths.projections("grim-0"),
    }
    damaged |= {"comparison": paths.comparison("twin"), "groups": paths.groups("kind")}
    damaged |= {"dynamics": paths.dynamics(OPTIMISM)}
    write_json(damaged[file], content)
    client = client_of(tmp_path)
    query = {
        "prompt_set": "skies",
        "prompt": "grim-0",
        "other": "twin",
        "by": "kind",
        "first": "grim",
        "second": "sunny",
    }
    answers = [
        client.get(f"/api/experiments/demo/{page}", params=query)
        for page in ("prompts", "course", "comparison", "groups/stored", "groups/by-field")
    ]
    assert {a.status_code for a in answers} - {200}, "nobody noticed"
    assert all(a.status_code in (200, 404, 409) for a in answers), [a.text for a in answers]
    assert str(tmp_path) not in "".join(a.text for a in answers)


def test_what_changes_on_disk_changes_on_the_page(shown, tmp_path):
    shutil.copytree(shown / "experiments/demo/inference", tmp_path / "experiments/demo/inference")
    client, paths = client_of(tmp_path), InferencePaths("demo", "skies", tmp_path)

    def said() -> str:
        return client.get("/api/experiments/demo/prompts", params={"prompt_set": "skies"}).json()["prompts"][
            0
        ]["response"]

    before, index = said(), read_json(paths.index)
    file = paths.response("grim-0")
    write_json(file, read_json(file) | {"response": "Something else."})
    index["responses"]["grim-0"] = digest(file)
    write_json(paths.index, index)
    assert (before != "Something else.", said()) == (True, "Something else.")


@pytest.mark.parametrize(
    "what", ["skies", "skies/index.json", "skies/responses/grim-0.json", "skies/projections"]
)
def test_a_link_that_leads_out_of_the_experiments_is_not_followed(shown, tmp_path, what):
    shutil.copytree(shown / "experiments/demo/inference", tmp_path / "root/experiments/demo/inference")
    place = tmp_path / "root/experiments/demo/inference" / what
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    client = client_of(tmp_path / "root")
    for page in ("prompts", "course", "groups/by-field"):
        response = client.get(
            f"/api/experiments/demo/{page}",
            params={
                "prompt_set": "skies",
                "prompt": "grim-0",
                "by": "kind",
                "first": "grim",
                "second": "sunny",
            },
        )
        assert response.status_code in (404, 409)
        assert SUNNY[0] not in response.text
