"""The dashboard serves its own pages and the whitelisted artifacts, to its own pages only."""

import http.client
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dashboard_server import CODE, FORMALITY, OPTIMISM
from starlette.testclient import TestClient

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library
from traitscope.visualization.security import Guard

SECRET = "sk-secret"


def fetch(
    url: str, target: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], str]:
    """Ask for a raw target, which no client library may tidy first."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.putrequest(method, target, skip_host=headers is not None and "Host" in headers)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return (
        response.status,
        {k.lower(): v for k, v in response.getheaders()},
        response.read().decode(errors="replace"),
    )


CLIMBS = [
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    "..%5c",
    "..\\",
    "....//",
    "%252e%252e%252f",
    "..%c0%af",
    "..;/",
    "%2e%2e%00/",
]


@pytest.mark.parametrize("climb", CLIMBS)
@pytest.mark.parametrize(
    "place", ["/", "/css/", "/views/", "/api/", "/api/experiments/", "/api/experiments/demo/"]
)
def test_no_way_up_leads_out(dashboard, place, climb):
    for steps in (1, 2, 3, 4, 8):
        for goal in (".env", "experiments/demo/config.json", "visualization/serve.py", "etc/passwd"):
            status, _, body = fetch(dashboard, f"{place}{climb * steps}{goal}")
            assert status in (400, 404), (place, climb, goal)
            assert SECRET not in body
            assert "root:" not in body


@pytest.mark.parametrize(
    "target",
    [
        "/.env",
        "/experiments/demo/config.json",
        "/datasets/traits",
        "//etc/passwd",
        "/css",
        "/css/",
        "/views/",
        "/serve.py",
        "/app.py",
        "/../.env",
    ],
)
def test_what_is_not_on_the_list_is_not_served(dashboard, target):
    status, _, body = fetch(dashboard, target)
    assert status in (307, 400, 404)
    assert SECRET not in body


@pytest.mark.parametrize(
    "trait",
    [
        "../../../.env",
        "..%2f..%2f..",
        "epistemic/optimism/../optimism",
        "epistemic%2f%2e%2e%2foptimism",
        "/etc",
        "epistemic/optimism%00",
        ".",
    ],
)
def test_a_trait_is_one_of_those_there_are(dashboard, trait):
    for page in ("vetting", "vectors", "steering", "similarity/methods"):
        status, _, body = fetch(dashboard, f"/api/experiments/demo/{page}?layer=12&trait={trait}")
        assert status in (404, 422)
        assert SECRET not in body


def linked(shown: Path, root: Path) -> Path:
    shutil.copytree(shown, root, dirs_exist_ok=True)
    outside = root.parent / f"{root.name}_outside"
    shutil.copytree(shown / "experiments" / "demo", outside)
    return outside


@pytest.mark.parametrize("what", ["responses/pos.json", "vectors", "vectors/probe_layer12.pt", "vetting"])
def test_a_link_that_leads_out_is_not_followed(shown, tmp_path, what):
    outside = linked(shown, tmp_path)
    file = TraitPaths("demo", OPTIMISM, tmp_path).dir / what
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.symlink_to(outside / "extraction" / OPTIMISM / what)
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    for page in ("vetting", "vectors", "similarity/methods"):
        response = client.get(f"/api/experiments/demo/{page}", params={"trait": OPTIMISM, "layer": 12})
        assert response.status_code == 409
        assert "leads out" in response.json()["detail"]
    problems = {
        card["trait"]: card["problem"] for card in client.get("/api/experiments/demo").json()["cards"]
    }
    assert "leads out" in problems[OPTIMISM]
    assert problems[FORMALITY] == ""


def test_a_linked_experiment_or_config_is_not_shown(shown, tmp_path):
    outside = linked(shown, tmp_path)
    (tmp_path / "experiments" / "evil").symlink_to(outside)
    config = tmp_path / "experiments" / "demo" / "config.json"
    config.unlink()
    config.symlink_to(tmp_path / ".env")
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    assert client.get("/api/experiments/evil").status_code == 404
    page = client.get("/api/experiments/demo").json()
    assert "leads out" in page["problem"]
    assert (page["config"], page["cards"]) == ({}, [])
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    answers = [
        client.get("/api/experiments"),
        client.get("/api/experiments/demo/vetting", params={"trait": OPTIMISM}),
        client.get("/api/experiments/demo/chat"),
        client.post("/api/experiments/demo/chat", json=asked),
    ]
    assert [answer.status_code for answer in answers] == [200, 409, 200, 409]
    assert all("leads out" in answer.text and SECRET not in answer.text for answer in answers)


def test_a_link_behind_a_link_inside_is_not_followed(shown, tmp_path):
    outside = linked(shown, tmp_path)
    paths = TraitPaths("demo", OPTIMISM, tmp_path)
    shelf = tmp_path / "experiments" / "shelf" / "responses"
    shelf.parent.mkdir()
    paths.responses("pos").parent.rename(shelf)
    paths.responses("pos").parent.symlink_to(shelf)
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    query = {"trait": OPTIMISM}
    assert client.get("/api/experiments/demo/vetting", params=query).status_code == 200

    (shelf / "pos.json").unlink()
    (shelf / "pos.json").symlink_to(outside / "extraction" / OPTIMISM / "responses" / "pos.json")
    answer = client.get("/api/experiments/demo/vetting", params=query)
    assert (answer.status_code, "leads out" in answer.text) == (409, True)


@pytest.mark.parametrize("below", ["extraction", "inference"])
def test_not_even_the_names_behind_a_link_are_told(shown, tmp_path, below):
    outside = linked(shown, tmp_path)
    shutil.rmtree(tmp_path / "experiments" / "demo" / below)
    (tmp_path / "experiments" / "demo" / below).symlink_to(outside / below)
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    for page in ("", "/prompt-sets", "/chat", "/similarity/traits?method=probe&layer=12"):
        answer = client.get(f"/api/experiments/demo{page}")
        assert "leads out" in answer.text
        assert not {OPTIMISM, "skies"} & set(answer.text.split('"'))


def test_a_name_in_a_file_leads_nowhere_else(shown, tmp_path):
    secret = tmp_path / "secret.json"
    shutil.copytree(shown / "experiments" / "demo", tmp_path / "root/experiments/demo")
    paths = InferencePaths("demo", "skies", tmp_path / "root")
    response = read_json(paths.response("grim-0"))
    climb = "../../../../../../secret"
    write_json(secret, response | {"id": climb, "response": SECRET})
    index = read_json(paths.index)
    write_json(paths.index, index | {"prompts": [{"id": climb}, *index["prompts"]]})
    client = TestClient(build_app(Library(tmp_path / "root")), base_url="http://localhost")
    for prompt in (climb, "grim-0"):
        for page in ("prompts", "course", "groups/by-field"):
            query = {
                "prompt_set": "skies",
                "prompt": prompt,
                "by": "kind",
                "first": "grim",
                "second": "sunny",
            }
            answer = client.get(f"/api/experiments/demo/{page}", params=query)
            assert (answer.status_code, SECRET in answer.text) == (409, False)


def test_the_trait_of_a_projection_leads_nowhere_else(shown, tmp_path):
    shutil.copytree(shown / "experiments" / "demo", tmp_path / "experiments/demo")
    paths = InferencePaths("demo", "skies", tmp_path)
    content = read_json(paths.projections("grim-0"))
    content["vectors"] = [vector | {"trait": "../../../../secret"} for vector in content["vectors"]]
    write_json(paths.projections("grim-0"), content)
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    query = {"prompt_set": "skies", "prompt": "grim-0"}
    answer = client.get("/api/experiments/demo/course", params=query)
    assert (answer.status_code, "grim-0.json is damaged" in answer.text) == (409, True)


def test_links_inside_are_followed(shown, tmp_path):
    shutil.copytree(shown, tmp_path, dirs_exist_ok=True)
    (tmp_path / "experiments").rename(tmp_path / "large_disk")
    (tmp_path / "experiments").symlink_to(tmp_path / "large_disk")
    client = TestClient(build_app(Library(tmp_path)), base_url="http://localhost")
    assert [card["problem"] for card in client.get("/api/experiments/demo").json()["cards"]] == [""] * 3


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example:8000",
        "192.168.1.5",
        "",
        "a b",
        "[::1",
        "localhost:x",
    ],
)
def test_a_foreign_host_name_is_refused(dashboard, host):
    for target in ("/", "/api/experiments", "/plotly.min.js"):
        assert fetch(dashboard, target, {"Host": host})[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:8000"])
def test_this_machine_s_own_names_are_served(dashboard, host):
    assert fetch(dashboard, "/api/experiments", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Origin": "file://localhost"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),  # a link somebody shared
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
    ],
)
def test_another_site_may_not_ask(dashboard, headers, status):
    assert fetch(dashboard, "/api/experiments", headers)[0] == status


def test_the_page_s_own_origin_may_ask(dashboard):
    host = urlsplit(dashboard).netloc
    assert fetch(dashboard, "/api/experiments", {"Host": host, "Origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    ("bound", "names", "host", "known"),
    [
        ("0.0.0.0", [], "192.168.1.5:8000", True),  # an address cannot be pointed elsewhere
        ("0.0.0.0", [], "lab-machine:8000", False),
        ("0.0.0.0", ["lab-machine"], "lab-machine:8000", True),
        ("lab-machine", [], "LAB-machine:8000", True),
        ("127.0.0.1", [], "192.168.1.5:8000", False),
        ("::", [], "[fe80::1]:8000", True),
    ],
)
def test_names_that_are_served_when_others_may_reach_it(bound, names, host, known):
    assert Guard(None, bound, names).knows(host) is known


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/main.js",
        "/api/experiments",
        "/api/experiments/none",
        "/nothing",
        "/plotly.min.js",
        "/api/openapi.json",
    ],
)
def test_every_answer_carries_the_policy(dashboard, target):
    headers = fetch(dashboard, target)[1]
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(dashboard, method):
    for target in ("/", "/main.js", "/api/experiments", "/api/experiments/demo/vetting"):
        assert fetch(dashboard, target, method=method)[0] in (404, 405)


def test_it_listens_on_this_machine_only_unless_told(dashboard):
    assert urlsplit(dashboard).hostname == "localhost"
    read = "from traitscope.visualization.serve import ServeOptions as o"
    script = f"import sys; {read}; print(o.host, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CODE, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["127.0.0.1", "False"]


@pytest.mark.parametrize(
    "file", sorted((CODE / "visualization" / "static").rglob("*.js")), ids=lambda f: f.name
)
def test_texts_never_become_markup(file):
    source = file.read_text()
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "DOMParser",
        "createContextualFragment",
    ):
        assert sink not in source
    assert "fetch(" not in source or file.name == "data.js"
    assert "window.Plotly" not in source or file.name == "plots.js"


def test_every_module_is_asked_for_at_once():
    """A module that only its importer names would cost the page another round to the server."""
    static = CODE / "visualization" / "static"
    named = [
        line.split('"')[3]
        for line in (static / "index.html").read_text().splitlines()
        if "modulepreload" in line
    ]
    assert sorted([*named, "main.js"]) == sorted(
        file.relative_to(static).as_posix() for file in static.rglob("*.js")
    )


def test_nothing_is_loaded_from_elsewhere():
    for file in (CODE / "visualization" / "static").rglob("*.*"):
        assert not [
            line
            for line in file.read_text().splitlines()
            if "http://" in line.replace("http://www.w3.org/2000/svg", "") or "https://" in line
        ], file
