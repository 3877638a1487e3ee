"""What is damaged, odd or hostile on disk is named in one line, and costs nobody else's sight."""

import json
import os
import shutil
from pathlib import Path

import pytest
from dashboard_server import DECEPTION, FORMALITY, OPTIMISM
from starlette.testclient import TestClient

from traitscope.utils.files.paths import InferencePaths, TraitPaths
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library

OUTSIDE = "CANARY-4711"
SKIES = {"prompt_set": "skies", "prompt": "grim-0", "other": "twin"}
PAGES = [  # of one trait
    "vetting",
    "vectors",
    "similarity/methods?layer=12",
    "training",
    "steering",
    "steering/texts?part=dev&arm=unsteered",
    "steering/judging",
    "card",
]
SET_PAGES = [
    "prompts",
    "course",
    "comparison",
    "groups/stored?by=kind",
    "groups/by-field?by=kind&first=grim&second=sunny",
    f"groups/values?trait={OPTIMISM}&method=mean_diff&layer=12",
]


def client_of(root: Path) -> TestClient:
    return TestClient(build_app(Library(root)), base_url="http://localhost", raise_server_exceptions=False)


def put(file: Path, what: str | bytes) -> None:
    """Put something else in a file's place: bytes, or a pipe, a folder, or a link to somewhere ("-> …")."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a folder":
        file.mkdir()
    elif isinstance(what, str) and what.startswith("-> "):
        file.symlink_to(what[3:])
    else:
        file.write_bytes(what if isinstance(what, bytes) else what.encode())


ODD = ["a pipe", "a folder", "-> /dev/zero", "-> nowhere", "-> config.json"]
CONTENTS = ["[", "3", "null", '"x"', "[]", b"\xff\xfe", "[" * 100_000, '{"model": 3}', '{"model": "\\ud800"}']
CONTENTS += ['{"pos_threshold": NaN}', '{"pos_threshold": 1e400}', '{"pos_threshold": {}}', "-> ../../secret"]


@pytest.mark.parametrize("what", [*ODD, *CONTENTS], ids=lambda what: repr(what)[:24])
def test_a_bad_config_costs_only_its_own_experiment(tmp_path, what):
    (tmp_path / "secret").write_text(json.dumps({"model": OUTSIDE}))
    put(tmp_path / "experiments/bad/config.json", what)
    put(tmp_path / "experiments/good/config.json", '{"model": "embedded"}')
    client = client_of(tmp_path)
    bad, good = client.get("/api/experiments").json()
    assert (good["name"], good["model"], good["problem"]) == ("good", "embedded", "")
    assert bad["name"] == "bad"
    assert bad["model"] is None

    page = client.get("/api/experiments/bad").json()
    for problem in (bad["problem"], page["problem"]) if "threshold" not in str(what) else (page["problem"],):
        if (
            what != "-> nowhere"
        ):  # what is absent is no fault: a link to nothing there is like no config at all
            assert "experiments/bad/config.json" in problem or "config.json" in problem
            assert "\n" not in problem
        assert str(tmp_path) not in problem
    answers = [client.get(f"/api/experiments/bad/{p}") for p in ("chat", "prompt-sets", "vetting?trait=a/b")]
    assert all(answer.status_code in (200, 404, 409) for answer in answers)
    assert OUTSIDE not in "".join(answer.text for answer in answers) + str(page)


@pytest.mark.parametrize("name", [b"a\nb", b"a:b", b" a", b"a ", b"a\\b", b"a\xff", b"<img src=x>", b"-a"])
def test_a_name_that_no_command_takes_is_listed_with_why(tmp_path, name):
    folder = os.path.join(os.fsencode(tmp_path), b"experiments", name)
    os.makedirs(os.path.join(folder, b"extraction/mood/hope/stages"))
    (tmp_path / "experiments/good").mkdir()
    client = client_of(tmp_path)
    found = {e["name"]: e["problem"] for e in client.get("/api/experiments").json()}
    assert found.pop("good") == ""
    [(shown, problem)] = found.items()
    assert bool(problem) is (name not in (b"<img src=x>", b"-a"))
    assert "\n" not in problem
    page = client.get(f"/api/experiments/{shown.replace('%', '%25').encode('unicode_escape').decode()}")
    assert page.status_code in (200, 404)


def test_a_folder_that_is_a_link_in_a_circle_does_not_blank_the_list(tmp_path):
    (tmp_path / "experiments/good").mkdir(parents=True)
    (tmp_path / "experiments/circle").symlink_to("circle")
    assert [e["name"] for e in client_of(tmp_path).get("/api/experiments").json()] == ["good"]


def files_of(root: Path) -> dict[str, Path]:
    """Return one file of every kind that the dashboard reads."""
    trait, prompts = TraitPaths("demo", OPTIMISM, root), InferencePaths("demo", "skies", root)
    return {
        "scenario scores": trait.scenario_scores,
        "response scores": trait.response_scores,
        "responses": trait.responses("pos"),
        "activations": trait.activations_metadata,
        "vector": trait.vector("probe", 12),
        "about a vector": trait.vector_metadata("probe", 12),
        "manifest": trait.manifest("4_fit_vectors"),
        "verdict": trait.steering_results,
        "texts": trait.steering_responses("dev"),
        "index": prompts.index,
        "response": prompts.response("grim-0"),
        "projections": prompts.projections("grim-0"),
        "dynamics": prompts.dynamics(OPTIMISM),
        "groups": prompts.groups("kind"),
        "comparison": prompts.comparison("twin"),
        "dataset": trait.dataset / "definition.txt",
    }


@pytest.fixture(scope="module")
def copied(shown, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(shown, root, dirs_exist_ok=True)
    return root


DAMAGE = ["{", '{"rows": [3]}', b"\x80\x02\xff" * 70, "a pipe", "a folder", "-> /etc/passwd"]


@pytest.mark.parametrize("kind", files_of(Path()))
def test_a_damaged_file_is_one_line_and_costs_no_other_trait(copied, kind):
    client, file = client_of(copied), files_of(copied)[kind]
    before = file.read_bytes()
    for damage in DAMAGE:
        put(file, damage)
        pages = SET_PAGES if "inference" in file.parts else PAGES
        answers = [ask(client, page, SKIES | {"trait": OPTIMISM}) for page in pages]
        listed = client.get("/api/experiments").json()
        cards = {
            card["trait"]: card["problem"] for card in client.get("/api/experiments/demo").json()["cards"]
        }
        file.rmdir() if damage == "a folder" else file.unlink()

        for answer in answers:
            assert answer.status_code in (200, 404, 409), (damage, answer.url, answer.text)
            assert answer.status_code == 200 or "\n" not in answer.json()["detail"]
            assert "root:" not in answer.text
        assert [e["problem"] for e in listed] == [""] * 3
        assert (cards[FORMALITY], cards[DECEPTION]) == ("", "")
    file.write_bytes(before)


def ask(client: TestClient, page: str, query: dict[str, str]):
    path, _, more = page.partition("?")
    asked = query | dict(pair.split("=") for pair in more.split("&") if pair)
    return client.get(f"/api/experiments/demo/{path}", params=asked)


@pytest.mark.parametrize("part", ["vectors/probe_layer12.pt", "vectors/probe_layer12_metadata.json"])
def test_a_damaged_vector_is_left_out_where_traits_are_compared(copied, part):
    file = TraitPaths("demo", OPTIMISM, copied).dir / part
    before = file.read_bytes()
    file.write_bytes(b"{}")
    page = ask(client_of(copied), "similarity/traits", {"method": "probe", "layer": "12"}).json()
    file.write_bytes(before)
    assert (page["labels"], list(page["problems"])) == ([FORMALITY], [OPTIMISM])


def test_a_damaged_prompt_set_is_listed_beside_the_others(copied):
    (copied / "experiments/demo/inference/bad").mkdir()
    put(copied / "experiments/demo/inference/bad/index.json", "[]")
    listed = ask(client_of(copied), "prompt-sets", {}).json()
    shutil.rmtree(copied / "experiments/demo/inference/bad")
    assert [(s["name"], bool(s["problem"])) for s in listed] == [("bad", True), ("skies", False)]


@pytest.mark.parametrize("kind", ["a pipe", "a socket"])
def test_what_is_no_file_among_a_trait_s_files_hides_the_trait(copied, kind):
    odd = TraitPaths("demo", OPTIMISM, copied).dir / "odd"
    os.mknod(odd, 0o600 | (0o010000 if kind == "a pipe" else 0o140000))
    answer = ask(client_of(copied), "vetting", {"trait": OPTIMISM})
    odd.unlink()
    assert (answer.status_code, "neither a file nor a folder" in answer.json()["detail"]) == (409, True)


NONSENSE = ["%ff", "%00", "%ed%a0%80", "%0a", "a%0d%0aX:1", "%", "%zz", "9" * 400, "-1", "1e400", "NaN"]


@pytest.mark.parametrize("text", NONSENSE, ids=lambda t: t[:12])
def test_nonsense_in_an_address_is_4xx_in_one_line(shown, text):
    client = client_of(shown)
    for page in ("", f"/{text}", f"/card?trait={text}", f"/chat?x={text}"):
        assert client.get(f"/api/experiments/{text}{page}").status_code in (404, 422)
    for page in (*PAGES, *SET_PAGES):
        path, _, more = page.partition("?")
        for name in (
            "trait",
            "layer",
            "part",
            "arm",
            "prompt_set",
            "prompt",
            "window",
            "over",
            "by",
            "traits",
        ):
            answer = client.get(f"/api/experiments/demo/{path}?{more}&{name}={text}")
            assert 400 <= answer.status_code < 500 or answer.status_code == 200, (page, name)
            assert answer.json()
