"""What a service can do to us, with the official clients on loopback: kinds of fault, waiting, money."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from judge_server import KEYS, URLS, JudgeServer, error, first
from test_judge_api import ANSWERS, RUBRIC, asked_text, judge_of

from traitscope.utils.errors import UserError
from traitscope.utils.judge import Answer, asking, budget, count_states
from traitscope.utils.judge.faults import Fault, read_fault
from traitscope.utils.judge.language import LanguageJudge
from traitscope.utils.judge.prompts import ask_trait
from traitscope.utils.judge.providers import PROVIDERS, Want

NAMES = list(KEYS)
PRICE = {"judge_price": (100.0, 100.0)}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch, own_cache):
    monkeypatch.setattr(asking, "LAST_WAIT", 0.02)


def price_of_asking(judge: LanguageJudge, answer: Answer) -> float:
    """What one question may cost at most."""
    n_bytes = sum(len(m["content"].encode()) for m in ask_trait(RUBRIC, answer).messages)
    return judge.grader.budget.most(n_bytes, judge.grader.want.max_tokens)


def fault_of(server: JudgeServer, name: str, answer: Callable[[dict], tuple]) -> Fault:
    """Return what the library makes of an error that the official client raises."""
    server.error = answer

    async def ask() -> Fault | None:
        async with PROVIDERS[name].connect("m", 5.0) as one:
            try:
                await one(({"role": "user", "content": "x"},), Want("logprobs", 0.0))
            except Exception as raised:
                return read_fault(raised)
        return None

    fault = asyncio.run(ask())
    assert fault is not None
    return fault


# Kinds of fault, and how long they make us wait


@pytest.mark.parametrize(
    ("name", "answer", "kind"),
    [
        *((name, error(400, "the prompt is too odd"), "rejected") for name in NAMES),
        *((name, error(403, "not in your country"), "fatal") for name in NAMES),
        *((name, error(429, "too fast"), "transient") for name in NAMES),
        *((name, error(503, "busy"), "transient") for name in NAMES),
        ("openai", error(429, "You exceeded your current quota", code="insufficient_quota"), "fatal"),
        ("openai", error(403, "You are not allowed to request logprobs from this model"), "unsupported"),
        ("openai", error(400, "flagged", code="content_filter"), "refused"),
        ("openai", error(402, "pay first"), "fatal"),
        ("anthropic", error(400, "Your credit balance is too low"), "fatal"),
        ("anthropic", error(529, "Overloaded"), "transient"),
        ("gemini", error(400, "API key not valid. Please pass a valid API key."), "fatal"),
    ],
)
def test_a_fault_is_of_the_kind_that_its_service_means(serve, name, answer, kind):
    fault = fault_of(serve(), name, answer)
    assert fault.kind == kind
    assert not fault.is_billed
    assert fault.is_limit == (str(fault)[:8] in ("HTTP 429", "HTTP 529"))


RETRY_INFO = {"details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        *(
            ({"retry-after": "3"}, 3),
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"retry-after": "99999"}, 600),
        ),
        *(({"retry-after": "soon"}, 0), ({"retry-after": formatdate(0, usegmt=True)}, 0), ({}, 0)),
    ],
)
def test_the_seconds_that_a_service_names_are_waited(serve, headers, seconds):
    server = serve()
    assert [fault_of(server, name, error(429, "too fast", headers)).retry_after for name in NAMES] == [
        seconds
    ] * 3


def test_a_date_and_googles_own_field_are_read_too(serve):
    server = serve()
    for name in NAMES:
        date = formatdate(time.time() + 300, usegmt=True)
        assert 290 < fault_of(server, name, error(429, "too fast", {"retry-after": date})).retry_after <= 300
    assert fault_of(server, "gemini", error(429, "too fast", **RETRY_INFO)).retry_after == 7.5


def test_no_part_of_a_key_is_left_by_the_cut(serve):
    server = serve()
    for where in range(265, 300, 7):
        fault = fault_of(
            server, "openai", error(400, "." * (where - len("HTTP 400: ")) + server.key + "." * 300)
        )
        assert len(str(fault)) == 300
        assert server.key[:4] not in str(fault)


def test_one_rejected_question_is_a_gap_of_its_own_and_is_not_asked_again(serve):
    server = serve()
    judge = judge_of()
    rejected = error(400, "the prompt is too odd")
    server.error = lambda body: (
        rejected(body) if body["messages"][-1]["content"] == asked_text(ANSWERS[3]) else None
    )
    scores = judge.score_responses(ANSWERS[:10])
    assert count_states(scores) == {"scored": 9, "error": 1}
    assert "too odd" in scores[3].detail
    assert server.asked[asked_text(ANSWERS[3])] == 1


def test_an_empty_account_stops_at_once(serve):
    server = serve()
    judge = judge_of(judge_concurrency=2)
    server.error, before = error(429, "quota", code="insufficient_quota"), server.requests
    with pytest.raises(UserError, match="insufficient_quota"):
        judge.score_responses(ANSWERS)
    assert server.requests - before <= 2


def test_a_model_that_forbids_logprobs_is_read_as_text(serve):
    forbidden = error(403, "You are not allowed to request logprobs from this model")
    serve(error=lambda body: forbidden(body) if body.get("logprobs") else None)
    judge = judge_of("openai:gpt-5-mini")
    assert judge.identity["mode"] == "openai:gpt-5-mini/text"
    assert "not allowed" in judge.identity["why"]
    assert judge.score_responses(ANSWERS[:2])[0].state == "scored"


# Too fast


def test_being_too_fast_is_no_try(serve):
    server = serve()
    judge = judge_of()
    server.error = first(asking.ATTEMPTS * 2, error(429, "too fast", {"retry-after": "0.01"}))
    assert judge.score_responses(ANSWERS[:1])[0].state == "scored"
    assert server.asked[asked_text(ANSWERS[0])] == asking.ATTEMPTS * 2 + 1


def test_a_token_bucket_is_served_to_the_end_and_not_hammered(serve):
    server = serve()
    judge = judge_of()
    server.rate, server.retry_after, before = 40.0, "0.1", server.requests
    assert count_states(judge.score_responses(ANSWERS[:80])) == {"scored": 80}
    assert server.requests - before <= 5 * 80


def test_the_door_closes_to_all_for_the_time_that_is_named(serve):
    server = serve(latency=0.02)
    judge = judge_of(judge_concurrency=4)
    server.error, before = first(1, error(429, "too fast", {"retry-after": "0.5"})), server.requests
    assert count_states(judge.score_responses(ANSWERS[:40])) == {"scored": 40}
    arrivals = server.arrivals[before:]
    assert len(arrivals) == 41
    assert not [t for t in arrivals if 0.15 < t - arrivals[0] < 0.45]


def test_tokens_a_minute_are_kept(serve):
    serve()
    n_bytes = sum(len(m["content"].encode()) for m in ask_trait(RUBRIC, ANSWERS[0]).messages)
    judge = judge_of(judge_tpm=n_bytes // 4 * 600)  # ten questions a second
    start = time.monotonic()
    judge.score_responses(ANSWERS[:6])
    assert time.monotonic() - start >= 0.45


# Money


def test_many_at_once_do_not_spend_the_last_cent_twice(serve):
    server = serve(latency=0.02)
    limit = 1.2 * price_of_asking(judge_of(**PRICE), ANSWERS[49])
    budget._own_accounts.clear()  # another run
    judge = judge_of(max_cost=limit, judge_concurrency=50, **PRICE)
    with pytest.raises(UserError, match="--max-cost"):
        judge.score_responses(ANSWERS[:50])
    assert server.busiest == 1
    assert 0 < judge.grader.budget.spent <= limit
    assert not judge.grader.budget.is_waiting
    assert [account.set_aside for account in budget._own_accounts.values()] == [pytest.approx(0)]


@pytest.mark.parametrize("fault", ["truncated", "reset", "malformed", "hang"])
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_is_lost_is_taken_for_paid(serve, monkeypatch, name, fault):
    monkeypatch.setattr(asking.Asker.__init__, "__defaults__", (3,))
    server = serve(hang_seconds=1.0)
    judge = judge_of(name, judge_timeout=0.5 if fault == "hang" else 5.0, **PRICE)
    server.fault_share, server.faults, before = 1.0, (fault,), server.requests
    spent = judge.grader.budget.spent
    assert judge.score_responses(ANSWERS[:1])[0].state == "error"
    assert server.requests - before == 3
    assert judge.grader.budget.spent - spent == pytest.approx(3 * price_of_asking(judge, ANSWERS[0]))


def test_an_answer_that_came_and_that_the_client_could_not_read_is_taken_for_paid():
    class UnreadError(Exception):
        status_code = 200

    fault = read_fault(UnreadError("no JSON"))
    assert (fault.kind, fault.is_billed) == ("transient", True)


@pytest.mark.parametrize("name", NAMES)
def test_a_connection_that_is_refused_costs_nothing(serve, monkeypatch, name):
    serve()
    judge = judge_of(name, **PRICE)
    spent = judge.grader.budget.spent
    monkeypatch.setenv(URLS[name], "http://127.0.0.1:9")
    assert judge.score_responses(ANSWERS[:1])[0].state == "error"
    assert judge.grader.budget.spent == spent > 0
