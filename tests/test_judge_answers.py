"""What becomes of what a judge says, and of what it is asked: odd answers, half characters, draws, modes."""

from functools import partial

import pytest
from judge_server import KEYS, MISSING, put
from test_judge_api import ANSWERS, EXAMPLES, judge_of

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.judge import Answer, Example, Rubric, Score, asking, explain_gaps

HALF = "\ud83d"  # half a character: text that has no bytes
JSON = Rubric("x/y", "", EXAMPLES, 'Q {question} A {answer}. Answer in JSON: {"score": number}')


@pytest.fixture(autouse=True)
def few_tries(monkeypatch, own_cache):
    monkeypatch.setattr(asking.Asker.__init__, "__defaults__", (2,))


# Answers of an odd shape, all with status 200

CHOICE, CANDIDATE = ("choices", 0), ("candidates", 0)
LOGPROBS, CHOSEN = (*CHOICE, "logprobs"), (*CANDIDATE, "logprobsResult", "topCandidates")
LISTED = (*LOGPROBS, "content", 0, "top_logprobs")
TEXTS = {
    "openai": (*CHOICE, "message", "content"),
    "anthropic": ("content", 0, "text"),
    "gemini": (*CANDIDATE, "content", "parts", 0, "text"),
}
ODD = {
    ("openai", "error"): [
        *((*CHOICE, "message", None), (*CHOICE, None), ("choices", []), ("choices", None)),
        *(
            (*LISTED, None),
            (*LISTED, []),
            (*LOGPROBS, "content", None),
            (*LOGPROBS, "content", [None]),
            (*LOGPROBS, None),
        ),
    ],
    ("openai", "scored"): [
        (*LISTED, 1, "logprob", None),
        (*LISTED, 1, "token", None),
        ("usage", None),
        ("usage", MISSING),
        ("usage", {}),
    ],
    ("anthropic", "error"): [("content", None), ("content", [None]), ("content", 0, "text", 5)],
    ("anthropic", "unparsable"): [("content", []), ("content", 0, "text", None)],
    ("anthropic", "scored"): [("usage", None), ("usage", MISSING), ("usage", {})],
    ("gemini", "error"): [
        ("candidates", []),
        ("candidates", [None]),
        (*CHOSEN, []),
        (*CHOSEN, [{}]),
        (*CHOSEN, [None]),
        (*CANDIDATE, "logprobsResult", {}),
    ],
    ("gemini", "scored"): [
        *(
            (*CHOSEN, 0, "candidates", 1, "logProbability", None),
            (*CHOSEN, 0, "candidates", 1, "logProbability", MISSING),
        ),
        *(("usageMetadata", MISSING), (*CANDIDATE, "content", None), (*CANDIDATE, "finishReason", "NEW")),
    ],
}
TRACEBACKS = [
    ("openai", put(*LISTED, 1, "token", 5)),
    ("openai", put(*LISTED, 1, "logprob", "low")),
    ("openai", put(*LISTED, 1, "logprob", 1000.0)),
    ("anthropic", put("usage", "input_tokens", "12")),
    ("gemini", lambda _: 5),
    ("gemini", put(*CANDIDATE, "finishReason", 5)),
]


@pytest.mark.filterwarnings("ignore:NEW is not a valid")
@pytest.mark.parametrize(("name", "state"), ODD)
def test_an_odd_answer_ends_in_a_state(serve, name, state):
    server = serve()
    judge = judge_of(name)
    for answer, where in zip(ANSWERS, ODD[name, state], strict=False):
        server.shape, before = put(*where), server.requests
        assert (where, judge.score_responses([answer])[0].state) == (where, state)
        assert server.requests - before == (2 if state == "error" else 1)


@pytest.mark.parametrize("name", KEYS)
def test_a_body_that_is_no_answer_at_all_ends_in_an_error(serve, name):
    server = serve()
    judge = judge_of(name)
    for body in ([], "text", {}, None):
        server.shape = partial(lambda body, _: body, body)
        assert (body, judge.score_responses(ANSWERS[:1])[0].state) == (body, "error")


@pytest.mark.parametrize(("name", "shape"), TRACEBACKS)
def test_a_value_of_the_wrong_type_ends_in_a_state(serve, name, shape):
    server = serve()
    judge = judge_of(name)
    server.shape = shape
    judge.score_responses(ANSWERS[:1])


def test_content_in_parts_ends_in_a_state(serve):
    server = serve(has_logprobs=False)
    judge = judge_of()
    server.shape = put(*TEXTS["openai"], [{"type": "text", "text": "60"}])
    judge.score_responses(ANSWERS[:1])


# What the service says of its own answer

BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 100}}


@pytest.mark.parametrize(
    ("name", "shape", "state"),
    [
        ("openai", put(*CHOICE, "finish_reason", "length"), "unparsable"),
        ("openai", put(*CHOICE, "finish_reason", "content_filter"), "refused"),
        ("openai", put(*CHOICE, "message", "refusal", "no"), "refused"),
        ("anthropic", put("stop_reason", "max_tokens"), "unparsable"),
        ("anthropic", put("stop_reason", "refusal"), "refused"),
        ("gemini", put(*CANDIDATE, "finishReason", "MAX_TOKENS"), "unparsable"),
        *(
            ("gemini", put(*CANDIDATE, "finishReason", reason), "refused")
            for reason in ("SAFETY", "PROHIBITED_CONTENT", "RECITATION")
        ),
        ("gemini", lambda _: BLOCKED, "refused"),
    ],
)
def test_a_cut_or_a_refusal_that_the_service_states_is_believed(serve, name, shape, state):
    server = serve(has_logprobs=False)
    judge = judge_of(name)
    server.shape = shape
    assert judge.score_responses(ANSWERS[:1])[0].state == state


def test_a_refusal_has_no_log_probabilities_and_is_not_asked_again(serve):
    server = serve()
    judge = judge_of()
    server.shape, before = (
        lambda p: put(*LOGPROBS, None)(
            put(*CHOICE, "message", {"role": "assistant", "content": None, "refusal": "no"})(p)
        ),
        server.requests,
    )
    assert judge.score_responses(ANSWERS[:1])[0].state == "refused"
    assert server.requests - before == 1


@pytest.mark.parametrize("has_logprobs", [True, False])
def test_thoughts_are_paid_for_and_not_read(serve, has_logprobs):
    server = serve(has_logprobs=has_logprobs)
    judge = judge_of("gemini", judge_price=(0.0, 1e6))
    before, spent = judge.usage.tokens_out, judge.usage.cost
    parts = [{"text": "12?", "thought": True}, {"text": "64"}]
    server.shape = lambda payload: put("usageMetadata", "thoughtsTokenCount", 500)(
        put(*CANDIDATE, "content", "parts", parts)(payload)
    )
    score = judge.score_responses(ANSWERS[:1])[0]
    assert has_logprobs or score.value == 64
    assert judge.usage.tokens_out - before == judge.usage.cost - spent == 501


# Half characters


@pytest.mark.parametrize("name", KEYS)
def test_half_a_character_in_what_is_asked_is_asked_as_a_question_mark(serve, name):
    server = serve()
    examples = (*EXAMPLES, Example("pos", 9, f"example {HALF}"))
    judge = judge_of(name, Rubric("x/y", f"warm {HALF}", examples))
    odd = [Answer(f"why {HALF}", f"because {HALF}")]
    scores = judge.score_responses(odd) + judge.score_coherence(odd) + judge.score_examples()
    assert {s.state for s in scores} == {"scored"}
    assert any("why ?" in text and "because ?" in text and "warm ?" in text for text in server.asked)
    assert judge_of(name, JSON).score_responses(odd)[0].state == "scored"


def test_half_a_character_in_an_eval_prompt_does_no_harm(serve):
    serve()
    assert (
        judge_of(rubric=Rubric("x/y", "", EXAMPLES, f"{HALF} {{answer}}. Number only."))
        .score_responses(ANSWERS[:1])[0]
        .state
        == "scored"
    )


@pytest.mark.parametrize("name", KEYS)
def test_half_a_character_in_an_answer_can_be_stored(serve, tmp_path, name):
    server = serve(has_logprobs=False)
    judge = judge_of(name)
    for i, (text, state) in enumerate(
        (
            (f"bah {HALF}", "unparsable"),
            (f"I cannot judge this. {HALF}", "refused"),
            (f"{HALF} Score: 60", "scored"),
        )
    ):
        server.shape = put(*TEXTS[name], text)
        score = judge.score_responses(ANSWERS[i : i + 1])[0]
        assert score.state == state
        write_json(tmp_path / "scores.json", score.as_json())


# Draws and modes


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("80 x x x", "unparsable"),
        ("80 60 x x", "scored"),
        ("80 60 70 x", "scored"),
        ("x x x x", "unparsable"),
    ],
)
def test_half_of_the_draws_must_score(serve, said, state):
    server = serve()
    judge = judge_of("anthropic", judge_draws=4)
    texts = iter(said.split())
    server.shape = lambda payload: put("content", 0, "text", next(texts))(payload)
    score = judge.score_responses(ANSWERS[:1])[0]
    assert (score.state, score.value) == (state, 70 if state == "scored" else None)
    assert state != "scored" or score.detail == f"{len(said.replace('x', '').split())} of 4 draws"


@pytest.mark.parametrize("name", ["openai", "gemini"])
@pytest.mark.parametrize("draws", [1, 3])
def test_several_draws_are_drawn_at_the_models_own_temperature(serve, name, draws):
    server = serve(has_logprobs=False)
    judge = judge_of(name, judge_draws=draws)
    before = len(server.bodies)
    judge.score_responses(ANSWERS[:2])
    bodies = [body.get("generationConfig", body) for body in server.bodies[before:]]
    assert [body.get("temperature") for body in bodies] == ([0.0] * 2 if draws == 1 else [None] * 6)


@pytest.mark.parametrize("name", KEYS)
def test_a_prompt_that_asks_for_json_is_read_as_text_and_says_so_beforehand(serve, name):
    serve()
    judge = judge_of(name, JSON)
    assert judge.identity["mode"] == judge.score_responses(ANSWERS[:1])[0].mode
    assert judge.identity["mode"].endswith("/text")


def test_scores_of_two_modes_are_never_compared():
    one, other, gap = (
        Score(50.0, mode="a/text"),
        Score(50.0, mode="a/logprobs"),
        Score(None, "error", "b/text"),
    )
    assert explain_gaps([one, one, gap], 0.5) == ""
    for scores in ([one, other], [one, gap, other, one]):
        with pytest.raises(UserError, match="a/logprobs, a/text"):
            explain_gaps(scores, 1.0)
