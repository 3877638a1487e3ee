"""Live chat over the API: what the engine says, bounded, one at a time, for this page only."""

import asyncio
import json
from urllib.request import urlopen

import pytest
import torch
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_inference import OTHER, TRAIT, draw, plant

from traitscope.inference.watch.engine import ChatEngine, Talk
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.model.loading import LM
from traitscope.utils.records.choice import best_of
from traitscope.utils.records.vectors import read_vector
from traitscope.visualization import room as rooms
from traitscope.visualization.api.live_chat import MAX_CHARACTERS, ReplyStream
from traitscope.visualization.app import build_app
from traitscope.visualization.library import BusyError, Library
from traitscope.visualization.security import MAX_BODY

ASKED = {"messages": [{"role": "user", "content": "Is it late?"}], "max_new_tokens": 12}
PLACE = "/api/experiments/e/chat"
BAD_NUMBERS = ["NaN", "-Infinity", "1e400", "-1e400", "-3", "9" * 5000, "9" * 400, '"x"', "[]", "{}"]


@pytest.fixture
def world(tmp_path, llama, tiny_folders):
    """An experiment of a tiny model with two traits; returns the root and each trait's paths."""
    cells = {("mean_diff", layer): torch.zeros(1) for layer in (1, 2)}
    planted = {
        t: plant(tmp_path, llama, t, {cell: draw(10 * i + cell[1]) for cell in cells})
        for i, t in enumerate((TRAIT, OTHER))
    }
    write_json(tmp_path / "experiments/e/config.json", {"model": tiny_folders["llama"], "device": "cpu"})
    for paths in planted.values():
        write_json(
            paths.manifest("4_fit_vectors"),
            {"finished": "2026-01-01T00:00:00+0000", "params": {}, "inputs": {}, "outputs": []},
        )
    return tmp_path, planted


@pytest.fixture
def client(world) -> TestClient:
    return TestClient(
        build_app(Library(world[0])), base_url="http://localhost", raise_server_exceptions=False
    )


def read(response) -> tuple[list[dict], str]:
    """Return the tokens and why the reply ended."""
    assert response.status_code == 200, response.text
    *tokens, end = [json.loads(line) for line in response.text.splitlines()]
    return tokens, end["end"]


def test_it_says_what_is_watched_and_with_which_vector(client):
    state = client.get(PLACE).json()
    assert [(t["trait"], t["layer"], t["can_steer"]) for t in state["traits"]] == [
        (OTHER, 2, True),
        (TRAIT, 2, True),
    ]
    assert state["why_not"] == ""


@pytest.mark.parametrize("doses", [{}, {TRAIT: 0.4}])
def test_a_reply_is_the_engines_token_by_token(client, world, llama: LM, doses):
    tokens, end = read(client.post(PLACE, json=ASKED | {"doses": doses}))
    vectors = [read_vector(world[1][t], *best_of(world[1][t])) for t in (OTHER, TRAIT)]
    steps = list(ChatEngine(llama, vectors).reply(ASKED["messages"], doses, Talk(max_new_tokens=12)))
    assert [t["text"] for t in tokens] == [s.text for s in steps]
    for token, step in zip(tokens, steps, strict=True):
        assert token["scores"] == pytest.approx(step.scores, abs=1e-3)
    assert end == ("length" if len(steps) == 12 else "finished")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"max_new_tokens": 401}, 422),
        ({"doses": {TRAIT: 3}}, 422),
        ({"doses": {"no/such": 0.1}}, 409),
        ({"messages": []}, 422),
        ({"messages": [{"role": "assistant", "content": "Yes."}]}, 409),
        ({"messages": [{"role": "user", "content": " "}]}, 409),
        ({"messages": [{"role": "tool", "content": "x"}]}, 422),
        ({"messages": [{"role": "user", "content": "x"}] * 65}, 422),
        ({"messages": [{"role": "user", "content": "x" * (MAX_CHARACTERS // 2)}] * 3}, 409),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, 409),  # longer than this model's context
        ({"messages": [{"role": "user", "content": "x" * MAX_BODY}]}, 413),
    ],
)
def test_a_chat_that_asks_too_much_is_refused(client, changes, status):
    response = client.post(PLACE, json=ASKED | changes)
    assert response.status_code == status
    assert len(response.text) < 2000 + MAX_BODY


SAID = '{"messages": [{"role": "user", "content": "x"}], %s}'
NONSENSE = [
    *(
        SAID % f'"{name}": {value}'
        for name in ("temperature", "seed", "max_new_tokens")
        for value in BAD_NUMBERS
    ),
    *(SAID % f'"doses": {{"mood/hope": {value}}}' for value in BAD_NUMBERS),
    SAID % '"doses": {"\\ud800": 9}',
    SAID % '"doses": [1]',
    SAID % '"max_new_tokens": 1.5',
    SAID.replace('"x"', '"\\ud800"') % '"seed": 1',
    SAID.replace('"user"', '"\\udfff"') % '"seed": 1',
    SAID.replace('"x"', "[" * 5000 + "]" * 5000) % '"seed": 1',
    "[" * 90_000,
    '{"messages": ' * 7000,
    '{"messages": {"a": NaN}}',
    "NaN",
    "1e999",
    '"\\ud800"',
    "null",
    "",
    "{",
]


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: body[-60:])
def test_nonsense_is_refused_in_words_that_json_can_carry(client, body):
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "?", ""):
        answer = client.post(PLACE, content=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        assert answer.json()["detail"]
        assert len(answer.text) < 8000


@pytest.mark.parametrize("body", [b"\xff\xfe", b"\x00" * 50, b'{"messages": "\xed\xa0\x80"}'])
def test_bytes_that_are_no_text_are_refused(client, body):
    for kind in ("application/json", "text/plain"):
        answer = client.post(PLACE, content=body, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422)
        assert answer.json()["detail"]


@pytest.mark.parametrize(
    "changes", [{"temperature": -0.0}, {"temperature": 5e-324}, {"doses": {TRAIT: -0.0}}]
)
def test_numbers_at_the_edge_are_answered(client, changes):
    tokens, _ = read(client.post(PLACE, json=ASKED | {"max_new_tokens": 2} | changes))
    assert len(tokens) <= 2


def test_a_body_must_say_how_long_it_is(client):
    response = client.post(
        PLACE, content=iter([json.dumps(ASKED).encode()]), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 413


def test_a_reply_ends_when_its_time_is_over(client, monkeypatch):
    monkeypatch.setattr(rooms, "SECONDS", 0.0)
    tokens, end = read(client.post(PLACE, json=ASKED))
    assert (len(tokens), end) == (1, "time")


def test_one_reply_at_a_time_few_wait_and_whoever_leaves_makes_room(world, monkeypatch):
    monkeypatch.setattr(rooms, "PATIENCE", 0.05)
    room = rooms.Room(Library(world[0]))
    first = room.reply("e", ASKED["messages"], {}, Talk(max_new_tokens=12))
    next(first)
    with pytest.raises(BusyError, match="answering somebody else"):
        next(room.reply("e", ASKED["messages"], {}, Talk()))
    first.close()
    assert len(list(room.reply("e", ASKED["messages"], {}, Talk(max_new_tokens=3)))) == 4
    held = [room._places.acquire(blocking=False) for _ in range(rooms.PLACES)]
    assert all(held)
    with pytest.raises(BusyError, match="others wait already"):
        next(room.reply("e", ASKED["messages"], {}, Talk()))


def test_a_reader_who_leaves_stops_the_model(world):
    room, written = rooms.Room(Library(world[0])), []

    def lines():
        for step in room.reply("e", ASKED["messages"], {}, Talk(max_new_tokens=400)):
            written.append(step)
            yield "a line\n"

    async def leave_after_three() -> None:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        async def receive() -> dict:
            while len(sent) < 4:
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        await ReplyStream(lines())({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)

    asyncio.run(leave_after_three())
    assert 3 <= len(written) < 300
    assert not room._speaking.locked()


@pytest.mark.parametrize("name", ["gone", "gone/" + "x" * 5000, "gone\0", "gone<script>"])
def test_a_model_that_cannot_be_had_is_told(client, world, name):
    write_json(world[0] / "experiments/e/config.json", {"model": str(world[0] / name)})
    response = client.post(PLACE, json=ASKED)
    assert response.status_code == 409
    assert "gone" in response.json()["detail"]


def test_an_experiment_without_vectors_says_so(client, world):
    write_json(world[0] / "experiments/bare/config.json", {"model": "embedded"})
    assert "has no vectors" in client.get("/api/experiments/bare/chat").json()["why_not"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_another_site_may_not_chat(client, origin):
    assert client.post(PLACE, json=ASKED, headers={"Origin": origin}).status_code == 403
    assert (
        client.post(PLACE, content="x", headers={"Origin": origin, "Content-Type": "text/plain"}).status_code
        == 403
    )


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_a_foreign_websocket_is_refused(client, headers):
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/", headers=headers):
        pass
    assert refused.value.code == 1008


def test_a_dashboard_without_torch_says_what_is_missing(dashboard):
    state = json.load(urlopen(f"{dashboard}api/experiments/demo/chat"))
    assert "needs torch" in state["why_not"]
