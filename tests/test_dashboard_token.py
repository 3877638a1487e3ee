"""Where others can reach the dashboard, they can read; whoever wants more must show the token."""

import re
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from conftest import call
from dashboard_server import DashboardServer
from starlette.testclient import TestClient

from traitscope.utils.errors import UserError
from traitscope.visualization import serve
from traitscope.visualization.app import build_app
from traitscope.visualization.library import Library
from traitscope.visualization.security import COOKIE, is_open, needs_token

TOKEN = "ein Schlüssel; 鍵=%41"
CHAT = "/api/experiments/e/chat"
BEARERS = [f"Bearer {TOKEN}".encode(), f"bearer  {TOKEN}".encode()]
WRONG = [
    b"",
    b"Bearer",
    b"Bearer ",
    b"Bearer x",
    TOKEN.encode(),
    f"Basic {TOKEN}".encode(),
    b"Bearer \xff\xfe",
]
WRONG += [f"Bearer {TOKEN}x".encode(), f"Bearer {TOKEN[:-1]}".encode()]


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "experiments/e").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def client(root) -> TestClient:
    return TestClient(
        build_app(Library(root), token=TOKEN), base_url="http://localhost", follow_redirects=False
    )


@pytest.mark.parametrize("header", BEARERS)
def test_the_right_header_opens_the_chat(client, header):
    answer = client.get(CHAT, headers={b"Authorization": header})
    assert (answer.status_code, "names no known model" in answer.json()["why_not"]) == (200, True)
    assert client.post(CHAT, json={}, headers={b"Authorization": header}).status_code == 422


@pytest.mark.parametrize("header", WRONG)
def test_a_wrong_header_opens_nothing(client, header):
    for answer in (client.get(CHAT, headers={b"Authorization": header}), client.post(CHAT)):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "open the link" in answer.json()["detail"]


def test_the_printed_link_becomes_a_cookie_and_leaves_the_address(client):
    answer = client.get(f"/?token={quote(TOKEN)}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert re.search(r"; HttpOnly; Path=/; SameSite=strict$", answer.headers["set-cookie"])
    assert client.get(CHAT).status_code == 200  # the client keeps cookies as a browser does
    client.cookies.clear()
    assert client.get(CHAT).status_code == 401


@pytest.mark.parametrize("token", ["", "x", "%ff%00", "%ed%a0%80", quote(TOKEN)[:-1], "x" * 9000])
def test_a_wrong_link_or_cookie_opens_nothing(client, token):
    answer = client.get(f"/?token={token}")
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert client.get(CHAT, headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/api/experiments", "/api/experiments/e", "/api/openapi.json"]
)
def test_reading_takes_no_token(client, path):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_every_other_method_takes_it(client, method):
    assert client.request(method, "/api/experiments").status_code == 401


@pytest.mark.parametrize(
    "path", ["/api/experiments/e/chat/", "/api/experiments/e%2f/chat", "/api/experiments//chat"]
)
def test_no_spelling_of_the_chat_goes_round_it(client, path):
    answer = client.get(path)
    assert answer.status_code in (401, 404)
    assert "why_not" not in answer.text


def test_an_experiment_that_is_called_chat_can_be_read():
    assert not needs_token({"method": "GET", "path": "/api/experiments/chat"})
    assert needs_token({"method": "GET", "path": "/api/experiments/chat/chat"})


def test_without_a_token_everybody_who_is_here_may_chat(root):
    client = TestClient(build_app(Library(root)), base_url="http://localhost")
    assert client.get(CHAT).status_code == 200
    assert client.get("/?token=x").status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("LocalHost", False)]
    + [(host, True) for host in ("0.0.0.0", "::", "", "192.168.1.5", "lab-machine")],
)
def test_which_addresses_others_can_reach(host, expected):
    assert is_open(host) is expected


@pytest.mark.parametrize("token", [" x", "x\n", "a\nb", "\udcff", "a\x07"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(UserError, match="--token is a text in one line"):
        call(serve, "--port", "0", f"--token={token}")


def ask(url: str, path: str, headers: dict[str, str]) -> int:
    connection = HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


def test_an_open_dashboard_says_what_it_exposes_and_makes_a_token_up(root):
    with DashboardServer(root, "--host", "0.0.0.0", "--allow-hosts", "lab") as running:
        assert running.process.stdout.readline().startswith(
            "note: everybody who reaches this machine can read"
        )
        found = re.fullmatch(r"http://lab:\d+/\?token=([\w-]{40,})", running.url)
        assert ask(running.url, CHAT, {}) == 401
        assert ask(running.url, "/api/experiments", {}) == 200
        assert ask(running.url, CHAT, {"Authorization": f"Bearer {found[1]}"}) == 200
        assert ask(running.url, CHAT, {"Cookie": f"{COOKIE}={found[1]}"}) == 200


def test_a_dashboard_of_this_machine_has_the_token_that_it_was_given(root):
    with DashboardServer(root, "--token", "secret") as running:
        assert running.url.endswith("/?token=secret")
        assert ask(running.url, CHAT, {}) == 401
