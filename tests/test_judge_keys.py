"""Keys, servers, and ways of asking that change."""

import gc
import time

import pytest
from judge_server import KEYS, URLS
from test_judge_api import ANSWERS, judge_of

from traitscope.utils.errors import UserError
from traitscope.utils.judge import JudgeOptions, identify_judge, prepare_judge, remote

NAMES = list(KEYS)
pytestmark = pytest.mark.usefixtures("own_cache")


def test_what_is_remembered_of_one_key_does_not_hold_for_another(serve, monkeypatch):
    server = serve()
    judge_of()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    with pytest.raises(UserError, match="cannot be asked: HTTP 401"):
        judge_of()
    server.key, before = "sk-another-key", server.requests
    judge_of()
    assert server.requests == before + 1


def test_a_judge_that_was_met_is_met_again_after_ten_minutes(serve, monkeypatch):
    server = serve()
    judge = judge_of()
    before = server.requests
    prepare_judge(JudgeOptions("openai"))
    assert server.requests == before
    now = time.time()
    monkeypatch.setattr(remote.time, "time", lambda: now + remote.FRESH + 1)
    server.has_logprobs = False
    prepare_judge(JudgeOptions("openai"))
    assert server.requests > before
    assert judge.identity["mode"].endswith("/logprobs")
    assert judge_of().identity["mode"].endswith("/text")  # found anew, and remembered
    monkeypatch.setattr(remote.time, "time", lambda: now + 2 * remote.FRESH + 2)
    server.key = "sk-good-key-was-revoked"
    with pytest.raises(UserError, match="HTTP 401") as caught:
        prepare_judge(JudgeOptions("openai"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "localhost",
        "/v1",
        "http://",
        "http://host:port/v1",
        "http://host:0",
        "ftp://host/v1",
        "http://[::1",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_no_web_address_is_one_line(serve, monkeypatch, name, url):
    serve()
    monkeypatch.setenv(URLS[name], url)
    for call in (identify_judge, judge_of):
        with pytest.raises(UserError, match=f"{URLS[name]} is no web address") as caught:
            call(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_end_after_a_key_does_no_harm(serve, monkeypatch, name):
    server = serve()
    monkeypatch.setenv(KEYS[name], f" {server.key}\n")
    assert judge_of(name).score_responses(ANSWERS[:1])[0].state == "scored"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["“sk-good”", "sk good", "sk-gööd"])
def test_a_key_with_what_no_header_can_carry_is_one_line(serve, monkeypatch, name, key):
    server = serve()
    monkeypatch.setenv(KEYS[name], key)
    with pytest.raises(UserError, match=f"{KEYS[name]} holds .* without quotes") as caught:
        judge_of(name)
    assert key not in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("variable", "value"), [("ALL_PROXY", "socks5://127.0.0.1:9"), ("SSL_CERT_FILE", "/no/such/file")]
)
def test_a_shell_that_lets_no_client_be_made_is_one_line(serve, monkeypatch, capfd, name, variable, value):
    serve()
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match="no judge can be reached from this shell") as caught:
        judge_of(name)
    assert "\n" not in str(caught.value)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def without_words(payload):
    """Empty the text of an answer, in whichever protocol."""
    if isinstance(payload, dict):
        return {
            k: "" if k in ("content", "text") and isinstance(v, str) else without_words(v)
            for k, v in payload.items()
        }
    return list(map(without_words, payload)) if isinstance(payload, list) else payload


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_that_says_nothing_is_refused_at_the_door(serve, name):
    server = serve(has_logprobs=False, shape=without_words)
    with pytest.raises(UserError, match="its answer is empty"):
        judge_of(name)
    assert server.requests <= 8


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_line_end_after_a_server_does_no_harm(serve, monkeypatch, name):
    server = serve()
    monkeypatch.setenv(URLS[name], server.url + ("/v1" if name == "openai" else "") + "\n")
    assert judge_of(name).score_responses(ANSWERS[:1])[0].state == "scored"
