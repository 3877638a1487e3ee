"""What every message says stands in the prompt, whatever the chat template makes of it; or one line refuses it."""

import copy
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from conftest import CHATML, call, copy_trait

from traitscope.extraction import run_pipeline
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.model import generation, template
from traitscope.utils.model.encode import encode, encode_text, render_chat
from traitscope.utils.model.generation import Completion, _set_thought_apart
from traitscope.utils.model.loading import ModelOptions, _examine_template, load_lm, wrap
from traitscope.utils.model.template import examine, turn_end
from traitscope.utils.model.thoughts import answer_begins, close_thought, without_thoughts
from traitscope.utils.records.responses import read_responses

TEMPLATES = json.loads((Path(__file__).parent / "data" / "chat_templates.json").read_text())
SYSTEM = {"role": "system", "content": "Be cheerful."}
QUESTION = {"role": "user", "content": "What is rain?"}
ANSWER = {"role": "assistant", "content": "Water, mostly."}
MORE = {"role": "user", "content": "a"}  # a text that stands in many a template by chance


@pytest.fixture
def with_template(llama):
    """Return a function that gives the tiny model another chat template."""

    def make(text: str):
        tokenizer = copy.deepcopy(llama.tokenizer)
        tokenizer.chat_template = text
        return replace(llama, tokenizer=tokenizer)

    return make


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n != "raises a TypeError"])
@pytest.mark.parametrize("messages", [[QUESTION], [SYSTEM, QUESTION], [SYSTEM, QUESTION, ANSWER, MORE]])
def test_a_prompt_holds_what_every_message_says_in_order(with_template, name, messages):
    rendering = render_chat(with_template(TEMPLATES[name]), messages)
    said = re.sub(r"<[^>]*>", "", rendering)
    places = [said.find(m["content"]) for m in messages[:3]]
    assert all(place >= 0 for place in places)
    assert places == sorted(places)


def test_both_sides_of_an_instruction_pair_give_different_prompts(with_template):
    lm = with_template(TEMPLATES["ignores the system role"])
    sides = [[SYSTEM | {"content": text}, QUESTION] for text in ("Be cheerful.", "Be gloomy.")]
    assert encode(lm, sides[0]) != encode(lm, sides[1])


def test_a_short_system_message_that_stands_in_the_rest_by_chance_is_not_taken_for_said(with_template):
    lm = with_template(TEMPLATES["ignores the system role"])
    assert "a\n\nWhat is rain?" in render_chat(lm, [SYSTEM | {"content": "a"}, QUESTION])


def test_a_system_message_may_stand_beside_the_last_question(with_template):
    """As in Mistral's templates: no other form is tried for that."""
    text = (
        "{% set system = messages[0]['content'] %}{% for m in messages[1:] %}"
        "{% if loop.last %}{{ system }} {% endif %}[{{ m['content'] }}]{% endfor %}"
    )
    said = render_chat(with_template(text), [SYSTEM, QUESTION, ANSWER, QUESTION | {"content": "And snow?"}])
    assert said == "[What is rain?][Water, mostly.]Be cheerful. [And snow?]"


@pytest.mark.parametrize("thought", ["<think>wet</think>", "[THINK]wet[/THINK]"])
def test_a_template_may_drop_what_the_assistant_thought_before(with_template, thought):
    text = "{% for m in messages %}{{ m['content'].split('</think>')[-1].split('[/THINK]')[-1] }}{% endfor %}"
    talk = [QUESTION, ANSWER | {"content": f"{thought}Water."}, MORE]
    assert render_chat(with_template(text), talk) == "What is rain?Water.a"


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATES["raises a TypeError"],
        "{{ messages[0]['content'] }}",  # the last is lost
        "{% for m in messages %}{{ m['content'][:9] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}",
        "an assistant may say what a user asks",  # holds short messages by chance
        "{{ raise_exception('never') }}",
    ],
)
def test_a_template_that_cannot_say_it_all_is_refused_in_one_line(with_template, text):
    lm = with_template(text)
    with pytest.raises(UserError, match="--chat-template False") as caught:
        encode(lm, [QUESTION, ANSWER, MORE])
    assert "\n" not in str(caught.value)


def test_a_template_that_cannot_render_a_question_is_refused_when_its_model_loads(with_template):
    lm = with_template(TEMPLATES["raises a TypeError"])
    with pytest.raises(UserError, match="cannot render"):
        wrap(lm.model, lm.tokenizer, ModelOptions(model="m"))


def test_a_role_that_is_unknown_without_a_template_is_one_line(base_lm):
    with pytest.raises(UserError, match="unknown role 'tool'"):
        encode(base_lm, [QUESTION, {"role": "tool", "content": "4"}, MORE])


def test_the_clock_in_a_template_stands_still_and_is_stored(with_template, capsys, monkeypatch):
    lm = with_template(TEMPLATES["has the clock in it"])
    first = encode(lm, [QUESTION])
    monkeypatch.setattr(template.chat_template_utils, "datetime", _Later)
    assert encode(lm, [QUESTION]) == first
    assert _examine_template(lm.tokenizer, "m") == {"template_clock": "2026-01-01 12:00:00"}
    assert "asks for the time" in capsys.readouterr().out


class _Later(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2040, 1, 1)


def test_what_is_said_of_a_template_is_what_it_does(with_template):
    facts = {name: examine(with_template(text).tokenizer, name) for name, text in _usable().items()}
    assert facts["ignores the system role"].moves_system
    assert facts["opens a thought"].closes_thought
    assert facts["has the clock in it"].clock
    assert facts["plain"] == template.Facts()


def _usable() -> dict[str, str]:
    return {n: t for n, t in TEMPLATES.items() if n != "raises a TypeError"} | {"plain": CHATML}


def test_a_thought_that_a_template_opens_is_closed_before_the_model_writes(with_template):
    rendering = render_chat(with_template(TEMPLATES["opens a thought"]), [QUESTION])
    assert rendering.endswith("<think>\n\n</think>\n\n")
    assert close_thought("no thought") == "no thought"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<think>It is wet.</think>\n\nWater.", "Water."),
        ("To end a thought, write </think>. That is all.", "To end a thought, write </think>. That is all."),
        ("Put <reasoning>steps</reasoning> first.", "Put <reasoning>steps</reasoning> first."),
        ("Water.\n<think>again</think>", "Water.\n<think>again</think>"),
        ("<|START_THINKING|>wet<|END_THINKING|>Water.", "Water."),
        ("[THINK]wet[/THINK]Water.", "Water."),
        ("<think>one</think><think>two</think>Water.", "Water."),
        (
            "<|channel|>analysis<|message|>wet<|end|><|start|>assistant<|channel|>final<|message|>Water.",
            "Water.",
        ),
        ("<think>It is", ""),
        ("<THINK>wet</THINK>Water.", "Water."),
        ("Water, they <think> say.", "Water, they <think> say."),
    ],
)
def test_an_answer_begins_after_the_thought(llama, said, answer):
    assert without_thoughts(said) == answer
    ids = encode(llama, said)
    apart = _set_thought_apart(llama, Completion(ids, True))
    assert apart.thought + apart.ids == ids
    assert llama.tokenizer.decode(apart.ids) == said[answer_begins(said) :].lstrip() or not apart.thought
    assert llama.tokenizer.decode(apart.ids) == answer


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", None),
        # the prompt for the assistant stands there whether it is asked for or not
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}<|im_start|>assistant", None),
        ("{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}", None),
    ],
)
def test_the_end_of_a_turn_is_the_token_that_follows_what_the_assistant_said(with_template, text, end):
    lm = with_template(text)
    assert turn_end(lm.tokenizer) == (lm.tokenizer.convert_tokens_to_ids(end) if end else None)


def test_a_thought_stands_with_the_prompt_and_is_neither_judged_nor_pooled(
    tmp_path, monkeypatch, tiny_folders, capfd
):
    """Half of the texts end in the middle of their thought."""
    trait = "behavioral/formality"
    copy_trait(tmp_path, trait, 4)
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))

    def write(lm, batch, _sampling, _positions):
        said = ["<think>hm</think>\n\nYes, sir.", "<think>hm, hm"]
        return [Completion(encode_text(lm, said[i % 2]), True) for i, _ in enumerate(batch)]

    monkeypatch.setattr(generation, "_generate_batch", write)
    about = ("--experiment", "e", "--model", tiny_folders["llama"], "--traits", trait)
    call(run_pipeline, *about, "--stages", "1,3")

    paths = TraitPaths("e", trait, tmp_path)
    lm = load_lm(ModelOptions(model=tiny_folders["llama"]))
    rows = read_responses(paths)
    assert {r.response for r in rows} == {"Yes, sir.", ""}
    for row in rows:
        assert lm.tokenizer.decode(row.prompt_ids).endswith(
            "<think>hm</think>\n\n" if row.response else "<think>hm, hm"
        )
        assert lm.tokenizer.decode(row.response_ids) == row.response
    left_out = read_json(paths.activations_metadata)["left_out_without_tokens"]
    assert len(left_out) == sum(not r.response for r in rows) > 0
    assert "thoughts without an answer (raise --max-new-tokens)" in capfd.readouterr().out
