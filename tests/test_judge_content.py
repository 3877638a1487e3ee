"""What may stand in the body of an answer, and what becomes of it: it costs one question its answer at most."""

import json
import time

import pytest
from judge_server import put
from test_judge_answers import CHOSEN, LISTED, TEXTS
from test_judge_api import ANSWERS, judge_of
from test_judge_transport import DEEP, NAMES, assert_only_one_is_lost, scores_with

from traitscope.utils.judge import asking, count_states, providers
from traitscope.utils.judge.faults import read_fault
from traitscope.utils.judge.parsing import parse_text


@pytest.fixture(autouse=True)
def few_short_tries(monkeypatch, own_cache):
    monkeypatch.setattr(asking, "LAST_WAIT", 0.02)
    monkeypatch.setattr(asking.Asker.__init__, "__defaults__", (2,))


CONTENT = {
    "no UTF-8": (200, b'{"choices": [{"message": {"content": "\xff\xfe\xc3"}}]}', {}),
    "deep JSON": (200, DEEP, {}),
    "deep JSON as an error": (500, DEEP, {}),
    "a deep message": (500, b'{"error": {"message": ' + b"[" * 800 + b"]" * 800 + b"}}", {}),
    "a page": (200, b"<html><body>Sign in</body></html>", {"content-type": "text/html"}),
    "nothing": (200, b"", {}),
    "no UTF-8 as an error": (503, b"\xff\xfe\xc3", {}),
    "a terminal's codes": (500, {"error": {"message": "\x1b[2J\r\x07 \ud83d"}}, {}),
}


@pytest.mark.parametrize("what", CONTENT)
@pytest.mark.parametrize("name", NAMES)
def test_a_body_of_any_content_costs_one_question_its_answer(serve, name, what):
    detail = assert_only_one_is_lost(scores_with(serve(), name, *CONTENT[what]))
    assert detail.isprintable()
    assert detail


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-" + "9" * 4000, "true"]
)
@pytest.mark.parametrize(
    ("name", "where"),
    [("openai", (*LISTED, 1, "logprob")), ("gemini", (*CHOSEN, 0, "candidates", 1, "logProbability"))],
)
def test_a_log_probability_that_is_no_number_is_no_candidate(serve, name, where, number):
    server = serve()
    judge = judge_of(name)
    server.shape = lambda payload: json.dumps(put(*where, "HERE")(payload)).replace('"HERE"', number).encode()
    scores = judge.score_responses(ANSWERS[:2])
    assert {s.state for s in scores} <= {"scored", "error"}
    assert all(0 <= s.value <= 100 for s in scores if s.value is not None)
    assert judge.score_responses(ANSWERS[:2])  # and from the cache


@pytest.mark.parametrize("tokens", [-(10**9), "Infinity", 1e999])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_below_none_pay_nothing_back(serve, name, tokens):
    server = serve()
    judge = judge_of(name, judge_price=(100.0, 100.0))
    fields = {"openai": "prompt_tokens", "anthropic": "input_tokens", "gemini": "promptTokenCount"}
    usage = "usageMetadata" if name == "gemini" else "usage"
    server.shape, spent = put(usage, fields[name], tokens), judge.grader.budget.spent
    judge.score_responses(ANSWERS[:1])
    assert judge.grader.budget.spent >= spent


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_sent_back_is_neither_shown_nor_kept(serve, own_cache, name):
    server = serve(has_logprobs=False)
    judge = judge_of(name)
    for i, text in enumerate(
        (f"no {server.key}", f"Score: 60\n{server.key}", f"I cannot. {'x' * 60}{server.key}")
    ):
        server.shape = put(*TEXTS[name], text)
        assert server.key[:9] not in str(judge.score_responses(ANSWERS[i : i + 1])[0])
    judge.grader.cache.close()
    assert server.key.encode() not in b"".join(path.read_bytes() for path in own_cache.iterdir())


def test_a_defect_of_ours_costs_one_question_its_answer_and_says_what_it_is(serve, monkeypatch):
    class OddDefect(RuntimeError):
        pass

    serve()
    judge = judge_of()
    plain = providers._read_openai
    calls = iter(range(1000))

    def read(answer):
        if next(calls) in (4, 5, 6):
            raise OddDefect("x")
        return plain(answer)

    monkeypatch.setattr(asking.Asker.__init__, "__defaults__", (1,))
    monkeypatch.setattr(providers, "_read_openai", read)
    scores = judge.score_responses(ANSWERS[:8])
    assert count_states(scores) == {"scored": 5, "error": 3}
    assert {s.detail for s in scores if s.state == "error"} == {"OddDefect: x"}


def test_running_out_of_memory_is_no_fault_of_a_question(serve, monkeypatch):
    serve()
    judge = judge_of()

    def read(answer):
        raise MemoryError

    monkeypatch.setattr(providers, "_read_openai", read)
    with pytest.raises(MemoryError):
        judge.score_responses(ANSWERS[:8])


def test_an_error_that_cannot_be_put_in_words_is_a_fault():
    class DeepError(Exception):
        def __str__(self) -> str:
            raise RecursionError

    fault = read_fault(DeepError())
    assert (fault.kind, str(fault)) == ("transient", "DeepError that cannot be read (RecursionError)")


@pytest.mark.parametrize("unit", ["\n", " ", "[[", "\t \n", "score: ", "1.", "(", "5\n", "a:"])
def test_a_long_answer_takes_no_time_to_read(unit):
    start = time.monotonic()
    for n in (15_000, 1_000_000):
        parse_text(f"7 {unit * (n // len(unit))} 7")
    assert time.monotonic() - start < 6  # seconds; it was a minute, and more
