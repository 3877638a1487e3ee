"""The judge of coherence: what it counts, what it never takes for a value, and how well it tells held-out answers apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.coherence import as_texts, calibrate, read_held_out, tabulate
from traitscope.utils.errors import UserError
from traitscope.utils.judge import corpus as corpus_module
from traitscope.utils.judge import learned as learned_module
from traitscope.utils.judge.coherence import TokenText, token_losses
from traitscope.utils.judge.corpus import read_corpus
from traitscope.utils.judge.learned import MODE, LearnedCoherence
from traitscope.utils.judge.pieces import LONGEST, measure_losses, split_text
from traitscope.utils.judge.wording import distinct_share, measure_wording, words_of
from traitscope.utils.model.encode import encode, encode_text

QUESTION = "Why is the sea salty?"
PROSE = "Rivers carry dissolved minerals into the sea, and the water leaves again while the salt stays."
CHINESE = "海水为什么是咸的因为河流把盐带进海里"
BROKEN = {
    "echo",
    "counting",
    "loop_word",
    "loop_sentence",
    "filler",
    "grammar",
    "fragments",
    "drift",
    "garbage",
    "salad",
}


def text_of(lm, text: str, question: str = QUESTION) -> TokenText:
    return TokenText(
        encode(lm, [{"role": "user", "content": question}]), encode_text(lm, text), question, text
    )


def own_texts(lm) -> list[TokenText]:
    """Stand for a model's unsteered answers: random weights write what no tokenizer can show."""
    answers = {
        "tea": "a hot drink",
        "snow": "frozen rain that falls",
        "a dog": "a friend",
        "rain": "water, falling",
    }
    return [text_of(lm, f"It is {answer}.", f"What is {thing}?") for thing, answer in answers.items()]


@pytest.fixture
def few(monkeypatch, own_cache):
    """A corpus of every other text, and a cheap embedding in place of MiniLM: for laws, not for figures."""

    def cheap(texts):
        vectors = [np.random.default_rng(len(t)).normal(size=8) + 1 for t in texts]
        return np.array([v / np.linalg.norm(v) for v in vectors])

    rows = read_corpus()[::2]
    for module in (corpus_module, learned_module):
        monkeypatch.setattr(module, "read_corpus", lambda: rows)
    monkeypatch.setattr(corpus_module, "_known", {})
    return cheap


@pytest.fixture
def judge(lm, few):
    return LearnedCoherence(lm, own_texts(lm), few)


def test_both_corpora_are_labelled_and_share_no_question_and_no_text():
    shipped, held_out = read_corpus(), read_held_out()
    assert len(shipped) + len(held_out) >= 300
    assert {row["kind"] for row in shipped if row["label"] == "bad"} == BROKEN
    assert {row["kind"] for row in held_out if row["label"] == "bad"} == BROKEN | {"contradiction"}
    for name in ("question", "text"):
        assert not {row[name] for row in shipped} & {row[name] for row in held_out}


def test_wording_shows_loops_echoes_and_what_is_new():
    prose, loop, echo = (
        measure_wording(t, QUESTION) for t in (PROSE, "and so " * 12, f"{QUESTION} {QUESTION}")
    )
    assert prose["distinct_triples"] == 1
    assert loop["distinct_triples"] < 0.15
    assert loop["repeated"] > 0.5 > prose["repeated"] == 0
    assert loop["compressed"] < 0.5 < prose["compressed"]
    assert echo["asked_words"] == 1
    assert echo["new_words"] == 0 < prose["new_words"]
    assert measure_wording("", "")["distinct_pairs"] == 1


def test_a_text_without_spaces_is_counted_by_its_letters():
    assert words_of(CHINESE) == list(CHINESE)
    assert distinct_share(words_of("盐" * 30), 2) < 0.1


def test_a_long_text_is_cut_into_equal_pieces_that_are_the_text(lm):
    text = text_of(lm, " ".join([PROSE] * 5)[:420])
    pieces = split_text(lm, text)
    assert len(pieces) == 2
    assert [i for piece in pieces for i in piece.ids] == text.ids
    assert max(len(piece.text) for piece in pieces) <= LONGEST
    assert split_text(lm, text_of(lm, " \n ")) == split_text(lm, replace(text, ids=[])) == []


def test_losses_are_those_of_the_tokens_and_their_mean_is_the_likelihood(lm):
    texts = [text_of(lm, t) for t in (PROSE, "x")]
    for text, losses in zip(texts, token_losses(lm, texts), strict=True):
        with torch.no_grad():
            logits = lm.model(torch.tensor([text.prompt_ids + text.ids])).logits[0]
        told = logits[len(text.prompt_ids) - 1 : -1].log_softmax(-1)
        assert torch.allclose(losses, -told[range(len(text.ids)), text.ids], atol=1e-3)


def test_the_order_of_the_words_is_worth_something_in_prose_formal_or_casual_and_nothing_in_salad(embedded):
    """The sign by which grammar is told from a register, on real weights and by itself."""
    casual = "So basically the rivers keep carrying salt down there, and only the water ever gets out again!"
    salad = "the Rivers leaves salt minerals into and stays. again water sea, carry the while dissolved the"
    pieces = [split_text(embedded, text_of(embedded, t))[0] for t in (PROSE, casual, salad)]
    formal, casual, salad = (1 - r.plain.mean() / r.shuffled.mean() for r in measure_losses(embedded, pieces))
    assert min(formal, casual) > 0.3
    assert abs(salad) < 0.1


def test_every_text_has_a_finite_score_of_this_mode_and_a_low_one_says_why(judge):
    texts = [text_of(judge.lm, t) for t in (PROSE, "a", PROSE * 4, "haha " * 40, CHINESE)]
    texts.append(replace(texts[0], question="", response=""))
    for score in judge.score([*own_texts(judge.lm), *texts]):
        assert score.state == "scored"
        assert score.mode == MODE
        assert (score.detail in BROKEN) == (score.value < 70)


@pytest.mark.parametrize("text", ["", " \n ", "\n\n\n"])
def test_an_empty_or_blank_text_holds_nothing_together(judge, text):
    blank, _ = judge.score([text_of(judge.lm, t) for t in (text, PROSE)])
    assert blank.value == 0
    assert judge.score([]) == []


def test_a_likelihood_that_is_not_finite_is_a_state_and_no_value(judge, monkeypatch):
    plain = learned_module.measure_losses

    def broken(lm, pieces):
        first, *rest = plain(lm, pieces)
        return [replace(first, plain=first.plain * np.nan), *rest]

    monkeypatch.setattr(learned_module, "measure_losses", broken)
    found = judge.score([text_of(judge.lm, t) for t in (PROSE, PROSE)])
    assert [s.state for s in found] == ["error", "scored"]


def test_the_same_texts_calibrate_the_same_judge_and_unreadable_ones_change_nothing(judge, few):
    lm, own = judge.lm, own_texts(judge.lm)
    odd = [replace(own[0], ids=ids) for ids in ([], own[0].ids[:1], encode_text(lm, " \n \n"))]
    assert LearnedCoherence(lm, [*own, *odd], few).identity == judge.identity
    with pytest.raises(UserError, match="raise --max-new-tokens"):
        LearnedCoherence(lm, odd, few)


def test_the_corpus_is_read_once_for_a_model_and_again_for_other_weights_of_its_name(lm, few, monkeypatch):
    monkeypatch.setattr(corpus_module, "WORTH_KEEPING", 0)
    read = []
    plain = corpus_module.measure_losses
    monkeypatch.setattr(corpus_module, "measure_losses", lambda *a: read.append(len(a[1])) or plain(*a))
    first = corpus_module.read_with(lm, few)
    monkeypatch.setattr(corpus_module, "_known", {})  # as in another process
    second = corpus_module.read_with(lm, few)
    assert len(read) == 1
    assert np.allclose(first.losses[3].plain, second.losses[3].plain, atol=1e-3)

    embedding = lm.model.get_input_embeddings().weight
    was = embedding.data.clone()
    embedding.data.mul_(0.5)
    try:
        corpus_module.read_with(lm, few)
    finally:
        embedding.data.copy_(was)
    assert len(read) == 2


@pytest.mark.slow
def test_held_out_answers_are_told_apart_whatever_their_register(embedded):
    judge, rows = calibrate(embedded), read_held_out()
    assert judge.identity["cross_validated_auroc"] >= 0.95

    values = np.array([s.value for s in judge.score(as_texts(embedded, rows))])
    good, *broken = tabulate(rows, values)
    shares = {row["kind"]: row["right"] for row in broken}
    assert good["auroc"] >= 0.9  # against all kinds, contradiction included
    assert good["mean"] >= 80
    assert good["right"] >= 0.75
    assert all(row["mean"] <= 40 for row in broken if row["kind"] != "contradiction")
    assert sum(share >= 0.8 for share in shares.values()) >= 9
    assert (
        shares["contradiction"] < 0.5
    )  # out of this model's reach: the day it is not, the documents are wrong

    registers = {row["kind"] for row in rows if row["label"] == "good"}
    # slang is half out of reach, and the one long answer strays far enough to pass for drifting
    for register in registers - {"slang", "long"}:
        these = [row["kind"] == register for row in rows]
        assert values[these].mean() >= 60, register


@pytest.mark.slow
def test_an_answer_that_the_limit_cut_off_is_no_worse_for_it(embedded):
    judge = calibrate(embedded)
    good = [row for row in read_held_out() if row["label"] == "good"]
    whole = [text for text in as_texts(embedded, good) if len(text.ids) > 25]
    cut = [replace(t, ids=t.ids[: int(0.7 * len(t.ids))]) for t in whole]
    before, after = (np.mean([s.value for s in judge.score(part)]) for part in (whole, cut))
    assert after >= before - 8
