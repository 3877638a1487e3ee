"""What a hostile or broken server can send: it costs one question its answer, and nothing else."""

import asyncio
import gzip
import json
import re
import signal
import subprocess
import sys
import time
import zlib
from functools import cache
from pathlib import Path

import pytest
from judge_server import KEYS, JudgeServer
from test_judge_api import ANSWERS, RUBRIC, judge_of

from traitscope.utils.errors import UserError
from traitscope.utils.judge import asking, count_states
from traitscope.utils.judge.faults import read_fault
from traitscope.utils.judge.providers import PROVIDERS
from traitscope.utils.judge.transport import LARGEST, JudgeClient, RedirectError, UnreadableAnswerError

ROOT = Path(__file__).parents[1]
NAMES = list(KEYS)
ODD_ONE = 3  # the answer whose question is met with something odd


@pytest.fixture(autouse=True)
def few_short_tries(monkeypatch, own_cache):
    monkeypatch.setattr(asking, "LAST_WAIT", 0.02)
    monkeypatch.setattr(asking.Asker.__init__, "__defaults__", (2,))


def is_odd(body: dict) -> bool:
    """Tell the question that is met with something odd, in whichever protocol."""
    return f"response number {ODD_ONE}\n" in json.dumps(body, ensure_ascii=False).replace("\\n", "\n")


def scores_with(server: JudgeServer, name: str, *reply, **options):
    """Score eight answers, one of whose questions is met with `reply`."""
    judge = judge_of(name, **options)
    server.error = lambda body: reply if is_odd(body) else None
    return judge.score_responses(ANSWERS[:8])


def assert_only_one_is_lost(scores) -> str:
    """Return why the odd one has no score; all others must have theirs."""
    assert [s.state for s in scores] == ["error" if i == ODD_ONE else "scored" for i in range(8)]
    return scores[ODD_ONE].detail


# Redirects


@pytest.fixture
def elsewhere():
    with JudgeServer() as server:
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", NAMES)
def test_a_redirect_is_not_followed_and_says_where_it_pointed(serve, elsewhere, name, status):
    server = serve()
    target = f"{elsewhere.url}/{server.key}/v1"
    with pytest.raises(UserError, match=f"HTTP {status}: redirected to {elsewhere.url}/") as caught:
        scores_with(server, name, status, {}, {"location": f"{target}?key={server.key}"})
    assert elsewhere.requests == 0
    assert re.search(rf"set {PROVIDERS[name].server} to the final address", str(caught.value))
    assert "\n" not in str(caught.value)
    assert server.key not in str(caught.value)
    server.error, before = None, server.requests
    assert count_states(judge_of(name).score_responses(ANSWERS[:8])) == {"scored": 8}
    assert server.requests - before <= 8


@pytest.mark.parametrize(
    "location", ["/v2", "//evil.example/x", "http://[::1", "ftp://evil.example", "http://a:99999999", "\\"]
)
def test_any_place_a_redirect_names_is_one_short_line(serve, location):
    with pytest.raises(UserError, match="redirected to") as caught:
        scores_with(serve(), "openai", 302, {}, {"location": location + "x" * 5000})
    assert len(str(caught.value)) < 500


def test_a_key_is_not_shown_as_a_hosts_name_either(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-GOOD-key")
    fault = read_fault(RedirectError(302, "https://sk-good-key.evil.example/", "OPENAI_BASE_URL"))
    assert fault.kind == "fatal"
    assert "sk-good" not in str(fault)


def test_the_clients_ask_through_ours_and_keep_no_cookies(serve, monkeypatch):
    server = serve()
    sent = []
    plain = JudgeClient.send

    async def send(self, request, **options):
        sent.append(dict(request.headers))
        return await plain(self, request, **options)

    monkeypatch.setattr(JudgeClient, "send", send)
    server.error = lambda body: (500, {}, {"set-cookie": "a=b"})
    for name in NAMES:
        judge_error = None
        try:
            judge_of(name)
        except UserError as error:
            judge_error = error
        assert judge_error
    assert len(sent) == server.requests >= 3 * 2
    assert not [headers for headers in sent if "cookie" in headers]


# Size


@cache
def bomb(megabytes: int) -> bytes:
    """Return so many zeros, packed."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


async def endless(writer) -> None:
    """Write an answer that has no end, for as long as anybody reads it."""
    while not writer.is_closing():
        writer.write(b" " * 65536)
        await writer.drain()


async def empty_blocks(writer) -> None:
    """Write a packed answer that goes on and on and unpacks to nothing."""
    writer.write(zlib.compressobj(9, wbits=31).flush(zlib.Z_SYNC_FLUSH))
    while not writer.is_closing():
        writer.write(b"\x00\x00\x00\xff\xff" * 10_000)
        await writer.drain()


LARGE = {
    "a gzip bomb": (200, bomb(200), {"content-encoding": "gzip"}),
    "a bomb as an error": (500, bomb(200), {"content-encoding": "gzip"}),
    "a large error": (500, b"x" * 60_000_000, {}),
    "an endless answer": (200, endless, {}),
    "blocks of nothing": (200, empty_blocks, {"content-encoding": "gzip"}),
}
BEGINNING = f"""
import json, resource, sys
from traitscope.utils.judge import Answer, Example, JudgeOptions, Rubric, asking, load_judge
ANSWERS = {ANSWERS!r}
asking.Asker.__init__.__defaults__ = (2,)
asking.FIRST_WAIT = asking.LAST_WAIT = 0.02
judges = [load_judge(JudgeOptions(name, judge_timeout=5.0), {RUBRIC!r}) for name in {NAMES!r}]
"""
MEASURE = """
scored = [judge.score_responses(ANSWERS[20:30]) for judge in judges]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
states = [[(s.state, s.detail) for s in judge.score_responses(ANSWERS[:8])] for judge in judges]
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps([states, grown]))
"""


def run_child(script: str) -> subprocess.Popen:
    """Begin a script in a process of its own, with judges at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", BEGINNING + script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_no_answer_takes_more_memory_than_an_honest_one_may(serve):
    server = serve()
    replies = list(LARGE.values())
    server.error = lambda body: replies[n] if (n := number_of(body)) < len(replies) else None
    states, grown = json.loads(run_child(MEASURE).communicate(timeout=60)[0].splitlines()[-1])
    assert states == [[["error", "answer larger than 1 MB"]] * 5 + [["scored", ""]] * 3] * 3
    assert grown < 30  # MB; 200 and more, were one of them held


def number_of(body: dict) -> int:
    """Return which answer a question is about."""
    found = re.search(r"response number (\d+)", json.dumps(body))
    return int(found[1]) if found else 10**6


def read_answer(body: bytes, encoding: str, status: int = 200) -> bytes:
    """Return what our client makes of a body."""
    headers = {"content-encoding": encoding} if encoding else {}

    async def ask(url: str) -> bytes:
        async with JudgeClient("X", 5.0) as client:
            return (await client.post(url, json={"messages": [{"content": "x"}]})).content

    with JudgeServer(key=None, error=lambda _: (status, body, headers)) as server:
        return asyncio.run(ask(server.url))


@pytest.mark.parametrize("size", [0, 1, LARGEST - 1, LARGEST])
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
    ],
)
def test_what_fits_comes_as_it_was_sent(encoding, pack, size):
    plain = (b'{"text": "\xc3\xa9"}' * (size // 10 + 1))[:size]
    assert read_answer(pack(plain), encoding) == plain


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (b" " * (LARGEST + 1), "", "larger than 1 MB"),
        (gzip.compress(b" " * (LARGEST + 1)), "gzip", "larger than 1 MB"),
        (gzip.compress(b"{}") + b"x" * LARGEST, "gzip", "larger than 1 MB"),
        (gzip.compress(b"{}")[:-9], "gzip", "cut off"),
        (b"{}", "gzip", "damaged"),
        (gzip.compress(gzip.compress(b"{}")), "gzip, gzip", "not asked for: gzip, gzip"),
        (b"{}", "br", "not asked for: br"),
        (b"{}", "zstd", "not asked for: zstd"),
    ],
    ids=range(8),
)
def test_what_does_not_fit_or_unpack_is_refused(body, encoding, why):
    with pytest.raises(UnreadableAnswerError, match=why):
        read_answer(body, encoding)


@pytest.mark.parametrize("name", NAMES)
def test_a_charset_is_not_heeded(serve, name):
    """An answer is JSON and so UTF-8; there are codecs that unpack, and codecs that read no text."""
    server = serve()
    judge = judge_of(name)
    server.headers = {"content-type": "application/json; charset=zlib_codec"}
    assert count_states(judge.score_responses(ANSWERS[:2])) == {"scored": 2}
    server.headers = {"content-type": "text/plain; charset=hex"}
    odd = scores_with(server, name, 500, b"sorry", server.headers)
    assert "AssertionError" not in assert_only_one_is_lost(odd)


# Time

DEEP = b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


async def drip(writer) -> None:
    """Write a byte now and then, for ever."""
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_drips_is_not_waited_for(serve, name):
    start = time.monotonic()
    scores = scores_with(serve(), name, 200, drip, {}, judge_timeout=0.5)
    assert assert_only_one_is_lost(scores) == "TimeoutError"
    assert time.monotonic() - start < 6


STORM = """
for judge in judges:
    try:
        judge.score_responses(ANSWERS)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_control_c_ends_a_storm_within_two_seconds(serve):
    server = serve()
    replies = [*LARGE.values(), (200, drip, {}), (200, DEEP, {})]
    server.error = lambda body: replies[n % len(replies)] if (n := number_of(body)) < 10**6 else None
    child = run_child(STORM)

    for _ in NAMES:
        before = server.requests
        while server.requests < before + 60 and child.poll() is None:
            time.sleep(0.01)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert b"interrupted\n" in iter(child.stdout.readline, b"")
        assert time.monotonic() - start < 2

    assert b"Traceback" not in child.communicate(timeout=20)[1]
