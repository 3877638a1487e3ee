"""The audit finds what was planted, lets swapped sides pass, and passes every shipped trait."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import call_as_shell, copy_trait

from traitscope.extraction import check_trait
from traitscope.extraction.audit.checks import CHECKS, Audit, audit_subject, audit_trait
from traitscope.extraction.audit.rendering import render_audit, render_trial
from traitscope.extraction.audit.soundness import bad_lines, is_mojibake
from traitscope.extraction.audit.subject import Measure, Subject, read_subject, words_of
from traitscope.extraction.audit.swaps import is_significant, p_value, swap_sides, tell_apart
from traitscope.extraction.new_trait import lay_out
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.dataset_files import form_of, known_traits

CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED = [t for t in known_traits(CHECKOUT) if form_of(TraitPaths("x", t, CHECKOUT).dataset)]
BASE = read_subject(TraitPaths("x", "epistemic/optimism", CHECKOUT))
PAIRS = [(pair.pos, pair.neg) for pair in BASE.pairs][:60]
QUESTIONS = list(BASE.dataset.questions)[:30]
COMPARISONS = [name for name, check in CHECKS.items() if check.needs_pairs]
INSTRUCTION = [
    {"pos": f"You should {good} {what}.", "neg": f"You should {bad} {what}."}
    for good, bad, what in [
        ("praise", "blame", "every plan that people bring"),
        ("welcome", "refuse", "any news at all"),
        ("trust", "doubt", "what the future holds for us"),
        ("expect", "forget", "good harvests and fair winds"),
        ("seek", "shun", "the sunny side of each matter"),
    ]
]
FOREIGN = {"instruction": INSTRUCTION, "questions": QUESTIONS[:20], "eval_prompt": "{question} {answer}"}


def write_scenarios(
    root: Path, pairs: list, steering: dict | None = None, definition: str | None = None
) -> TraitPaths:
    paths = TraitPaths("x", "mood/planted", root)
    paths.dataset.mkdir(parents=True, exist_ok=True)
    for name, side in (("positive.txt", 0), ("negative.txt", 1)):
        (paths.dataset / name).write_text("\n".join(pair[side] for pair in pairs))
    (paths.dataset / "definition.txt").write_text(definition or BASE.dataset.rubric.definition)
    (paths.dataset / "steering.json").write_text(json.dumps({"questions": QUESTIONS} | (steering or {})))
    return paths


def failing(audit: Audit) -> set[str]:
    return {f.check for f in audit.findings if f.status == "FAIL"}


def finding(audit: Audit, check: str):
    return next(f for f in audit.findings if f.check == check)


@pytest.fixture
def plant(tmp_path):
    """plant(pairs) → the audit of a dataset of these pairs."""
    return lambda pairs, **files: audit_trait(write_scenarios(tmp_path, pairs, **files))


def of_pos(change):
    return lambda pairs: [(change(pos, i), neg) for i, (pos, neg) in enumerate(pairs)]


def longer(text: str, _i: int) -> str:
    words = text.split(" ")
    return " ".join([*words[:-1], *(words[:-1] * 2)[: round(0.3 * len(words))], words[-1]])


def swap_topics(pairs: list) -> list:
    return [(pos, pairs[(i + 1) % len(pairs)][1]) for i, (pos, _) in enumerate(pairs)]


PLANTS = {
    "length_in_words": of_pos(longer),
    "length_in_tokens": of_pos(lambda t, i: t.replace(" ", " Xyzzyquuxfrobnication ", 1)),
    "question_marks": of_pos(lambda t, i: f"{t}?"),
    "first_words": of_pos(lambda t, i: f"I {t}"),
    "last_words": of_pos(lambda t, i: f"{t} surely"),
    "topics": swap_topics,
    "punctuation": of_pos(lambda t, i: t.replace(" ", ", ", 1) if i % 2 else t),
    "marker_words": of_pos(lambda t, i: t.replace(" ", " purple ", 1) if i % 3 == 0 else t),
    "common_words": of_pos(lambda t, i: t.replace(" ", " the and of in ", 1)),
    "contrast_start": lambda pairs: [(f"Surely {pos}", f"Hardly {neg}") for pos, neg in pairs],
    "contrast_end": lambda pairs: [(f"{pos} yes", f"{pos} no") for pos, _ in pairs],
    "duplicates": lambda pairs: [pairs[0], *pairs[:-1]],
    "near_duplicates": lambda pairs: [*pairs[:-1], (pairs[0][0] + " now", pairs[-1][1])],
    "identical_sides": lambda pairs: [*pairs[:-1], (pairs[-1][0], pairs[-1][0])],
    "encoding": lambda pairs: [*pairs[:-1], (pairs[-1][0] + " itâ€™s", pairs[-1][1])],
    "pairs": lambda pairs: pairs[:59],
    "to_fill_in": lambda pairs: [*pairs[:-1], ("[FILL IN: more]", pairs[-1][1])],
    "unequal_sides": lambda pairs: [*pairs, ("One more line that has no mirror, since", "")],
}


@pytest.fixture
def no_topics(monkeypatch):
    """Let every dataset pass the check of topics, which embeds each of its texts: 20 ms a text."""
    passing = Measure(0.0, 1.0, True, "not measured")
    monkeypatch.setitem(CHECKS, "topics", replace(CHECKS["topics"], measure=lambda subject: passing))


def faults(traits: list[str]) -> dict[str, str]:
    """Return the audit of every shipped trait, of those named, that does not pass it."""
    audits = [audit_trait(TraitPaths("x", trait, CHECKOUT)) for trait in traits]
    return {audit.trait: render_audit(audit) for audit in audits if failing(audit)}


def test_every_shipped_trait_passes_its_audit_but_for_the_topics(no_topics):
    assert len(SHIPPED) >= 12
    assert faults(SHIPPED) == {}


@pytest.mark.slow
def test_the_traits_of_the_demo_pass_their_whole_audit():
    assert faults(["behavioral/formality", "epistemic/optimism"]) == {}


@pytest.mark.slow
def test_every_shipped_trait_passes_its_whole_audit():
    assert faults(SHIPPED) == {}


def test_sixty_clean_pairs_are_clean(plant):
    audit = plant(PAIRS)
    assert audit.is_clean
    assert [f.check for f in audit.findings] == [
        name for name, check in CHECKS.items() if "scenarios" in check.forms
    ]


@pytest.mark.parametrize("check", PLANTS)
def test_what_is_planted_is_caught_by_its_own_check_which_says_what_to_do(plant, check, request):
    if check != "topics":
        request.getfixturevalue("no_topics")
    found = finding(plant(PLANTS[check](PAIRS)), check)
    assert found.status == "FAIL"
    assert found.advice
    assert found.number < found.threshold if found.is_minimum else found.number > found.threshold


@pytest.mark.parametrize(
    "check",
    ["duplicates", "identical_sides", "encoding", "pairs", "punctuation", "unequal_sides", "near_duplicates"],
)
def test_a_planted_fault_fails_no_other_check(plant, check):
    assert failing(plant(PLANTS[check](PAIRS))) == {check}


def test_the_lines_to_change_are_named(plant):
    pairs = [*PAIRS[:20], PAIRS[3], *PAIRS[20:40], (PAIRS[40][0] + "\x07", PAIRS[40][1]), *PAIRS[41:]]
    audit = plant(pairs)
    assert "pos line 21; neg line 21" in finding(audit, "duplicates").advice
    assert "positive.txt line 42 (control character U+0007)" in finding(audit, "encoding").advice


@pytest.mark.parametrize("trait", ["behavioral/formality", "epistemic/optimism"])
def test_sides_swapped_at_random_have_no_confound(trait, tmp_path):
    subject = read_subject(TraitPaths("x", trait, CHECKOUT))
    for seed in range(5):
        rng = random.Random(seed)
        swapped = [(p.pos, p.neg) if rng.random() < 0.5 else (p.neg, p.pos) for p in subject.pairs]
        mixed = read_subject(write_scenarios(tmp_path, swapped, definition=subject.dataset.rubric.definition))
        assert [
            name for name in COMPARISONS if name != "topics" and not CHECKS[name].measure(mixed).passed
        ] == []


def test_a_small_difference_or_one_that_may_be_chance_passes(plant):
    assert "question_marks" not in failing(
        plant([(pos + "?" * (i < 9), neg) for i, (pos, neg) in enumerate(PAIRS)])
    )
    assert "length_in_words" not in failing(
        plant([(pos.replace(" ", " very ", i % 2), neg) for i, (pos, neg) in enumerate(PAIRS)])
    )


def test_the_words_of_the_definition_are_the_trait_s_own(plant):
    pairs = PLANTS["marker_words"](PAIRS)
    assert "marker_words" in failing(plant(pairs))
    assert "marker_words" not in failing(
        plant(pairs, definition=BASE.dataset.rubric.definition + "\nPurple things.")
    )


def test_what_is_accepted_stays_visible_with_its_number_and_reason(plant):
    audit = plant(
        PLANTS["question_marks"](PAIRS),
        steering={"accepted_confounds": {"question_marks": "asking is the trait", "topics": "not needed"}},
    )
    found = finding(audit, "question_marks")
    assert (found.status, found.number, found.reason) == ("accepted", 1.0, "asking is the trait")
    assert "accepted: question_marks: asking is the trait" in render_audit(audit)
    assert "the acceptance can go" in finding(audit, "topics").detail


def test_an_accepted_mark_does_not_hide_another(plant, no_topics):
    commas = PLANTS["punctuation"](PAIRS)
    audit = plant(
        [(pos, f"{neg}!") for pos, neg in commas],
        steering={"accepted_confounds": {"punctuation": "shouting is the trait"}},
    )
    assert "exclamation mark" in finding(audit, "punctuation").detail
    assert "also comma (+50%)" in finding(audit, "punctuation").detail


def test_an_acceptance_of_no_check_fails(plant):
    audit = plant(PAIRS, steering={"accepted_confounds": {"length": "typo"}})
    assert "no such check: length" in finding(audit, "accepted_confounds").advice
    assert not audit.is_clean


@pytest.mark.parametrize(
    ("steering", "definition", "check"),
    [
        ({"questions": QUESTIONS[:19]}, None, "questions"),
        ({"questions": [*QUESTIONS, QUESTIONS[0].upper()]}, None, "question_duplicates"),
        ({"questions": [*QUESTIONS, PAIRS[5][1]]}, None, "question_overlap"),
        ({}, "Hope. HIGH: much. LOW: little.", "definition_bands"),
    ],
)
def test_questions_and_definition_are_checked(plant, steering, definition, check):
    assert failing(plant(PAIRS, steering=steering, definition=definition)) == {check}


def test_what_cannot_be_read_is_the_finding(tmp_path):
    paths = write_scenarios(tmp_path, PAIRS)
    (paths.dataset / "steering.json").write_text("{")
    audit = audit_trait(paths)
    assert [f.check for f in audit.findings] == ["readable"]
    assert "steering.json is not valid JSON" in render_audit(audit)
    assert not audit.is_clean


def audit_instructions(root: Path, content: dict, evaluation: list | None) -> Audit:
    paths = TraitPaths("x", "mood/told", root)
    paths.dataset.mkdir(parents=True)
    (paths.dataset / "trait_definition.json").write_text(json.dumps(content))
    if evaluation is not None:
        (paths.dataset / "trait_definition_eval.json").write_text(json.dumps({"questions": evaluation}))
    return audit_trait(paths)


@pytest.mark.parametrize(
    ("change", "evaluation", "expected"),
    [
        ({}, [f"{q} Really?" for q in QUESTIONS[:20]], set()),
        ({}, QUESTIONS[:20], {"question_overlap"}),
        ({}, None, {"question_overlap"}),  # without evaluation questions those of extraction are taken
        ({}, [f" {q.upper()} " for q in QUESTIONS[:20]], {"question_overlap"}),
        ({"questions": [*QUESTIONS[:20], f"“{QUESTIONS[0]}”"]}, [f"{q} Really?" for q in QUESTIONS[:20]], {"question_duplicates"}),
        ({"questions": [*QUESTIONS[:20], QUESTIONS[0]]}, [f"{q} Really?" for q in QUESTIONS[:20]], {"question_duplicates"}),
        ({"questions": QUESTIONS[:19]}, [f"{q} Really?" for q in QUESTIONS[:18]], {"extraction_questions", "questions"}),
        ({"instruction": INSTRUCTION[:4]}, [f"{q} Really?" for q in QUESTIONS[:20]], {"pairs"}),
        ({"instruction": [p | {"pos": "Always and without fail, " + p["pos"]} for p in INSTRUCTION]}, [f"{q} Really?" for q in QUESTIONS[:20]],
         {"length_in_words", "length_in_tokens", "first_words", "punctuation"}),
    ],
)  # fmt: skip
def test_the_audit_finds_what_is_wrong_in_instructions(tmp_path, change, evaluation, expected):
    assert failing(audit_instructions(tmp_path, FOREIGN | change, evaluation)) == expected


def test_the_audit_finds_what_is_wrong_in_given_answers(tmp_path):
    paths = TraitPaths("x", "mood/given", tmp_path)
    write_scenarios(tmp_path, PAIRS).dataset.rename(paths.dataset)
    rows = [{"question": f"{i}?", "positive": pos, "negative": neg} for i, (pos, neg) in enumerate(PAIRS)]
    (paths.dataset / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert audit_trait(paths).is_clean
    again = [*rows[:-1], rows[-1] | {"question": "3 ?"}]
    (paths.dataset / "pairs.jsonl").write_text("\n".join(map(json.dumps, again)))
    assert failing(audit_trait(paths)) == {"question_duplicates"}
    rows = [row | {"positive": longer(row["positive"], 0)} for row in rows]
    (paths.dataset / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {"length_in_words", "length_in_tokens"} <= failing(audit_trait(paths))


@pytest.mark.parametrize("run", ["â€™", "Ã©", "Â°", "ðŸ˜€", "ÐŸÑ€", "ä½\xa0å¥½"])
def test_mojibake_is_recognised(run):
    assert is_mojibake(run)


@pytest.mark.parametrize("run", ["é", "É—", "“É”", "«", "你好", "Привет", "£", "—“", "Ægir", "naïve"])
def test_other_languages_and_curly_quotes_are_no_mojibake(run):
    assert not is_mojibake(run)


def test_characters_that_nobody_typed_are_found_inside_json_escapes_too():
    assert [what for _, what in bad_lines('fine\tline\n"\\u0007"\n\ufffd\na\ufeffb')] == [
        "control character U+0007", "replacement character U+FFFD", "invisible U+FEFF"]  # fmt: skip


def test_words_are_those_of_any_script():
    assert words_of("It’s a 2nd naïve ＴＥＳＴ — 你好") == ["it's", "a", "2nd", "naïve", "test", "你", "好"]


def test_swapping_sides_gives_a_uniform_p_value():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(40, 1)) for _ in range(200)]
    p = np.array([p_value(abs(v.sum()), swap_sides(v, lambda sums: np.abs(sums[:, 0]))) for v in values])
    assert 0.02 <= (p < 0.05).mean() <= 0.09
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.1)


def test_a_planted_word_tells_unseen_pairs_apart_and_noise_does_not():
    noise = np.random.default_rng(0).integers(-1, 2, (80, 30)).astype(float)
    accuracy, null = tell_apart(noise)
    assert p_value(accuracy, null) > 0.05
    noise[:, 0] = 1
    accuracy, null = tell_apart(noise)
    assert accuracy > 0.75
    assert p_value(accuracy, null) < 0.01


def test_five_pairs_are_significant_only_when_all_agree():
    assert is_significant(2 / 32, 5)
    assert not is_significant(4 / 32, 5)
    assert not is_significant(0.02, 60)


@pytest.mark.parametrize("form", ["scenarios", "instructions", "answers"])
def test_a_fresh_trait_loads_and_says_what_is_to_be_filled_in(tmp_path, form):
    paths = TraitPaths("new", f"mood/{form}", tmp_path)
    lay_out(paths, form)
    subject = read_subject(paths)
    audit = audit_subject(subject)
    assert subject.form == form
    assert "to_fill_in" in failing(audit)
    assert failing(audit) <= {"to_fill_in", "pairs", "questions", "extraction_questions"}
    assert "#:" not in subject.dataset.rubric.definition
    assert not any(
        "#:" in text or "_comment" in text for side in subject.sides.values() for text in side.values()
    )
    before = {file: file.read_bytes() for file in paths.dataset.iterdir()}
    with pytest.raises(UserError, match="exists already; nothing was changed"):
        lay_out(paths, form)
    assert {file: file.read_bytes() for file in paths.dataset.iterdir()} == before


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """command("--all") → (exit status or error line, stdout, stderr) of check_trait in an empty root."""
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))

    def run(*arguments: str):
        status = 0
        try:
            call_as_shell(check_trait, *arguments)
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def test_the_command_checks_all_traits_but_those_without_prompts(command, tmp_path):
    write_scenarios(tmp_path, PAIRS)
    only = tmp_path / "datasets" / "traits" / "mood" / "idea"
    only.mkdir()
    (only / "definition.txt").write_text("A thought.")
    status, out, err = command("--all")
    assert (status, out.splitlines()[0]) == (0, "mood/planted (scenarios): clean")
    assert "skipped mood/idea" in err
    status, out, err = command("--trait", "mood/idea")
    assert status == "error: 1 of 1 traits not clean: mood/idea"
    assert "has no positive.txt" in out


def test_json_is_one_document_on_stdout_and_the_status_says_clean_or_not(command, tmp_path):
    write_scenarios(tmp_path, PLANTS["topics"](PAIRS))
    status, out, _ = command("--traits", "mood/planted,mood/nothing", "--json")
    document = json.loads(out)
    assert str(status).startswith("error: 2 of 2 traits not clean")
    assert [(t["trait"], t["clean"]) for t in document["traits"]] == [
        ("mood/planted", False),
        ("mood/nothing", False),
    ]
    assert "unknown trait" in document["traits"][1]["findings"][0]["advice"]


def test_quick_tries_a_few_pairs_on_a_model(command, tmp_path, tiny_folders):
    copy_trait(tmp_path, "epistemic/optimism", 20)
    _, out, _ = command(
        "--trait",
        "epistemic/optimism",
        "--json",
        "--quick",
        "--responses",
        "4",
        "--model",
        tiny_folders["llama"],
    )
    trial = json.loads(out)["traits"][0]["quick"]
    assert [(r["side"], r["line"]) for r in trial["replies"]] == [
        (side, line) for side in ("pos", "neg") for line in (1, 7, 14, 20)
    ]
    assert trial["judge_accuracy"] > 0.5
    assert render_trial(trial).count("\n") == 9


def test_quick_says_in_a_line_why_it_could_not_try(command, tmp_path):
    copy_trait(tmp_path, "epistemic/optimism", 20)
    status, out, _ = command("--trait", "epistemic/optimism", "--quick", "--model", str(tmp_path / "none"))
    assert "not tried: cannot load model" in out
    assert str(status).startswith("error: 1 of 1")


def test_a_subject_of_chat_prompts_is_compared_with_its_system_prompts(tmp_path, no_topics):
    paths = write_scenarios(tmp_path, PAIRS)
    for side, tone in (("positive", "Be glad."), ("negative", "Be sad.")):
        rows = [{"prompt": pos, "system_prompt": tone} for pos, _ in PAIRS]
        (paths.dataset / f"{side}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    subject: Subject = read_subject(paths)
    assert subject.pairs[0].pos == f"Be glad.\n{PAIRS[0][0]}"
    assert "identical_sides" not in failing(audit_subject(subject))
