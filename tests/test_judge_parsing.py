"""From what a judge said to a score: laws, and the ways in which models spoil an answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitscope.utils.judge.budget import Budget
from traitscope.utils.judge.ledger import price_of
from traitscope.utils.judge.parsing import is_score, parse_text, weigh_tokens


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("72", 72),
            (" 72.\n", 72),
            ("**72**", 72),
            ("72/100", 72),
            ("72%", 72),
            ("72.5", 72.5),
            ("0", 0),
            ("100", 100),
        ),
        *(
            ("Score (0-100): 85", 85),
            ("**Score (0–100):** 85", 85),
            ("72 out of 100", 72),
            ("72\n\nIt has 3 signs.", 72),
            ("maybe 20?</think>\n72", 72),
        ),
        *(("Score: 72\nReason: 3 of 4 signs", 72), ("Rating (1-100): 90", 90)),
        *(
            ("Score: 72", 72),
            ("The score is 72.", 72),
            ("I would say 72.", 72),
            ("Rating: 72 / 100 because it is warm", 72),
        ),
        *(
            ('{"score": 72}', 72),
            ('```json\n{"score": 72, "reason": "mild"}\n```', 72),
            ('{"score": "72", "reason": "cut off in the mi', 72),
        ),
        *(
            ('{"reason": "2 of 3 signs", "score": 72}\nI hope this helps! 10/10', 72),
            ('{"trait_score": 72}', 72),
            ("<think>maybe 20? no, 90</think>\n72", 72),
        ),
        ('Sure! Here is my JSON:\n{\n  "rating": 72\n}', 72),
    ],
)
def test_the_score_that_a_judge_wrote_is_the_one_that_is_read(text, value):
    assert parse_text(text) == (value, "scored")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "warm",
            "101",
            "-5",
            "Score: -5",
            "1000",
            "60-70",
            "between 60 and 70",
            "0.85",
            "seventy",
            "7 2",
            "<think>72",
        ),
        *(
            "Score: 7/10",
            '{"score": "7/10"}',
            "Rating: 8 out of 10",
            "Score: 60-70",
            "60–70",
            "60 to 70",
            '{"score": "60-70"}',
            "Score: 50? No, 80.",
        ),
        *(
            "The score is not 100.",
            "Score: N/A. The 50 words",
            "Score: 1,000",
            "Score: 72,5",
            '{"score": 72,5}',
            '{"score": 1e2}',
            "−5",
            "<10",
            "7²",
        ),
        *("A score of 100 would mean pure optimism; this text deserves 15.", "grade 10 students like it. 95"),
        *(
            "Score: 60. On reflection, score: 80",
            '{"score": 60}\n{"score": 80}',
            '{"score": null}',
            '{"score": 720}',
        ),
        "The 3 answers mention 7 things in 12 lines and none of them tells much about the matter",
    ],
)
def test_what_is_no_clear_score_is_a_gap_and_not_a_guess(text):
    assert parse_text(text) == (None, "unparsable")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("<score>85</score>", 85), ("Reasoning: there are 3 reasons.\n\nScore: 85", 85)),
        *(("<thinking>I think 40</thinking>\n85", 85), ("[THINK]maybe 40[/THINK]85", 85)),
        *(("<think>maybe 40</think>85", 85), ("On a scale of 0 to 100, I would say 64.", 64)),
        *(("Step 1: the tone is plain.\nStep 2: no slang.\nScore: 40", 40), ("**Score:** 85", 85)),
        *(('{"reasoning": "100 percent", "score": 85}', 85), ("I give it 5 stars", None), ("5/5", None)),
        *(("8.5/10", None), ("85-90", None), ("0.85", None), ("<think>maybe 40\n", None), ("101", None)),
        *(("Score: 85,5", None), ("Trait: 85, coherence: 90", None)),
        # their relatives
        *(("\\boxed{85}", 85), ("Rating: [[85]]", 85), ("[RESULT] 85", 85), ("<answer>85</answer>", 85)),
        *(("<seed:think>3</seed:think>85", 85), ("__85__", 85), ("{'score': 85}", 85), ("得分：85", 85)),
        ("<|channel|>analysis<|message|>30<|end|><|start|>assistant<|channel|>final<|message|>85", 85),
        *(("There are 3 reasons.\n\n**Final Score: 85**", 85), ("Step 1: 30\nTotal score: 40", 40)),
        *(("On a 0-100 scale, I'd say 64", 64), ("My rating from 0 to 100 is 64", 64), ("85 points", 85)),
        *(("Score: 85\n\n---\n1. warm\n2. kind", 85), ("I give it 72 because it is warm.", 72)),
        *(("<score>85</score> <score>20</score>", None), ("<score>8/10</score>", None)),
        *(("It has 12 words.", None), ("Score: 5 stars", None), ("[THINK]40", None)),
        *(("Trait score: 85\nCoherence score: 90", None), ("There are 3.\nScore: 85 or 90", None)),
        # bounds, negatives, denials, what the text says of itself, and other quantities
        *(("minus 10", None), ("Score: minus 20", None), ("The score is less than 50.", None)),
        *(("Score: at least 90", None), ("Score: 90+", None), ("Is the score 50?", None)),
        *(("The text asks for a score of 100.", None), ("The answer is 42, it says.", None)),
        *(("The maximum score is 100.", None), ("Max score: 100", None), ("Far from 100.", None)),
        *(("Confidence: 95%", None), ("Word count: 50", None), ("See rule 4.", None), ("Rating: 4★", None)),
        *(("90\n\n20", None), ("60\n\n(Revised: 45)", None), ("90\n\nWait, no.", None)),
        *(("85 - clearly formal", 85), ("85\nFormal wording in 3 of 4 sentences.", 85), ("85 of 100", 85)),
        *(("Draft score: 40\n\nFinal score: 80", 80), ('{"score": 40, "confidence_score": 90}', 40)),
        *(("I cannot see any trait here. Score: 0", 0), ("Formality: 85", 85)),
        *(("64 on a scale of 0 to 10", None), ("Score 1: 40\nScore 2: 60", None)),
        # other scales: stars before or behind, places, and marks out of five or ten
        *(("★★★★☆ 4", None), ("Rating: ★★★★ 4", None), ("Stars: 4", None), ("five stars: 5", None)),
        *(("I would give it 4.5 stars", None), ("Rating: 4 out of 5 stars", None), ("#3", None)),
        *(("On a scale of 1-5: 4", None), ("Score (1-10): 7", None), ("On a five-point scale, 4", None)),
        # the range of the scale is no number of the answer, however it stands there
        *(("On a scale of 0 to 100, I would say 64", 64), ("Score [0-100]: 77", 77), ("Out of 100: 64", 64)),
        *(("Using a 0–100 scale, 64.", 64), ("On a scale from 0 to 100 I would say 64", 64)),
        # counts before the score
        *(("reasons: 3 … Score: 85", 85), ("Reasons: 3, score: 85", 85), ("3 reasons. Score: 85", 85)),
        *(("1. warm\n2. kind\n3. sure\nOverall: 85", 85), ("Tone: 80\nWarmth: 90\nAnswer: 85", 85)),
        *(("Were it formal, if only a little, score: 85", None), ("Score: 60\nOverall: 80", None)),
        *(("1. warm\n2. kind\nOverall: 4 stars", None), ("85?", None), ("Score: 85?", None)),
        # thoughts: more than one, nested, empty, in capitals, and after the score
        *(("<think>a</think><think>b 30</think>85", 85), ("<think>a <think>b</think> 30</think>85", 85)),
        *(("<think>\n\n</think>\n\n85", 85), ("<THINK>40</THINK>85", 85), ("85\n<think>hmm 40", 85)),
        *(("<thinking>Score: 40\n85", None), ("<think>Score: 40</think>", None), ("<score>85", None)),
        *(("<reasoning>3 signs</reasoning><score>85</score>", 85), ("<score> 85/100 </score>", 85)),
    ],
)
def test_scores_between_tags_after_thoughts_and_in_the_last_line_are_read_and_counts_are_not(text, value):
    assert parse_text(text)[0] == value


@pytest.mark.parametrize(
    "text",
    [
        "REFUSAL",
        "I'm sorry, I can't help with that.",
        "I cannot judge this text.",
        "As an AI, I won't rate 1 person",
        "I refuse to give a score of 100",
    ],
)
def test_a_refusal_is_a_state_of_its_own(text):
    assert parse_text(text) == (None, "refused")


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", None), ('{"score": 7', None), ('{"score": 72, "rea', 72), ("72.", None), ("Score: 7", None)],
)
def test_a_number_at_the_very_end_of_a_text_that_was_cut_may_be_half_a_number(text, value):
    assert parse_text(text, is_cut=True)[0] == value


@given(st.text(max_size=200), st.booleans())
def test_any_text_gives_a_score_on_the_scale_or_a_named_gap(text, is_cut):
    value, state = parse_text(text, is_cut)
    assert (state == "scored" and 0 <= value <= 100) or (value is None and state in ("refused", "unparsable"))


@given(st.integers(0, 100))
def test_a_sure_judge_is_believed(n):
    assert weigh_tokens([(str(n), 0.0)]) == (n, 1.0)


@given(
    st.dictionaries(st.integers(0, 100).map(str), st.floats(0.01, 1), min_size=1, max_size=15),
    st.floats(0.05, 3),
)
def test_the_weighted_mean_lies_between_its_numbers_whatever_the_mass(weights, total):
    share = total / sum(weights.values())
    value, mass = weigh_tokens([(token, math.log(p * share)) for token, p in weights.items()])
    assert mass == pytest.approx(total)
    if total > 0.2501:
        assert min(map(int, weights)) - 1e-9 <= value <= max(map(int, weights)) + 1e-9
    elif total < 0.2499:
        assert value is None


def test_words_fractions_and_numbers_off_the_scale_do_not_count():
    assert [t for t in ("7", "07", "101", "1.5", "-1", "٣", "²", "100", "", "00") if is_score(t)] == [
        "7",
        "100",
    ]
    value, mass = weigh_tokens(
        [("80", math.log(0.3)), (" 20", math.log(0.1)), ("101", math.log(0.3)), ("The", math.log(0.3))]
    )
    assert (value, mass) == (pytest.approx(65), pytest.approx(0.4))


def test_prices_are_found_by_model_and_dated_snapshots_of_it():
    assert price_of("gpt-4.1-mini-2025-04-14") == price_of("gpt-4.1-mini") != price_of("gpt-4.1")
    assert price_of("claude-haiku-4-5-20251001") == (1.0, 5.0)
    assert price_of("gpt-4.1-mini-ultra") is None
    assert price_of("mystery") is None
    assert price_of("mystery", (1.0, 2.0)) == price_of("gpt-4.1", (1.0, 2.0)) == (1.0, 2.0)


def test_what_a_call_may_cost_is_never_underestimated():
    budget = Budget(1.0, (2.0, 8.0))
    assert budget.most(10_000, 2048) >= budget.cost(10_000, 2048)
    assert Budget(0.0, None).cost(10**9, 10**9) == 0
