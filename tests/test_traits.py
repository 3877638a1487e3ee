"""Three forms of dataset read into one thing; what is malformed is said in one line."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from conftest import dataset_bytes, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Example
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.dataset_files import DATASET_FILES, dataset_files, known_traits, prompt_files

CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED = ("behavioral/formality", "epistemic/optimism")
EVAL = "Rate {question} {answer}"
SCENARIOS = {"positive.txt": "sunny\nbright\n", "negative.txt": "rainy\ndark\n", "definition.txt": "hope"}
INSTRUCTION = {
    "instruction": [{"pos": "Hope.", "neg": "Fear."}, {"pos": "Smile.", "neg": "Frown."}],
    "questions": ["A?", "B?", "C?"],
    "eval_prompt": EVAL,
}
INSTRUCTIONS = {"trait_definition.json": INSTRUCTION}
PAIR = {"question": "How?", "positive": "Well.", "negative": "Badly."}
ANSWERS = {"pairs.jsonl": [PAIR, PAIR | {"question": "When?"}], "definition.txt": "hope"}
FORMS = {"scenarios": SCENARIOS, "instructions": INSTRUCTIONS, "answers": ANSWERS}


@pytest.fixture
def paths(tmp_path) -> TraitPaths:
    return TraitPaths("demo", "epistemic/optimism", tmp_path)


@pytest.fixture
def read(paths):
    """read({file name: content}): write a dataset and read it; None leaves a file out."""

    def read(files: dict) -> TraitDataset:
        write_dataset(paths.dataset, files)
        return read_trait(paths)

    return read


def prompts(dataset: TraitDataset, side: str) -> dict[int, object]:
    """Return {pair: prompt} of one side."""
    return {item.pair: item.prompt for item in dataset.items if item.side == side}


def system_user(system: str, user: str) -> list[dict]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def refused(read, files: dict) -> str:
    """Return the message of the UserError, which is one line."""
    with pytest.raises(UserError) as caught:
        read(files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_scenarios_are_prompts_that_pair_by_line(read):
    dataset = read(SCENARIOS)
    assert dataset.trait == "epistemic/optimism"
    assert [(i.side, i.pair, i.group, i.prompt) for i in dataset.items] == [
        ("pos", 0, 0, "sunny"),
        ("pos", 1, 1, "bright"),
        ("neg", 0, 0, "rainy"),
        ("neg", 1, 1, "dark"),
    ]
    assert dataset.rubric.definition == "hope"
    assert dataset.rubric.examples == (
        Example("pos", 0, "sunny"),
        Example("pos", 1, "bright"),
        Example("neg", 0, "rainy"),
        Example("neg", 1, "dark"),
    )
    assert (dataset.questions, dataset.direction, dataset.rubric.eval_prompt) == ((), "positive", None)


def test_instructions_meet_every_question(read):
    dataset = read(INSTRUCTIONS)
    expected = {
        (s, system, user)
        for pair in INSTRUCTION["instruction"]
        for s, system in pair.items()
        for user in INSTRUCTION["questions"]
    }
    assert {(i.side, i.prompt[0]["content"], i.prompt[1]["content"]) for i in dataset.items} == expected
    assert len(dataset.items) == len(expected) == 12
    assert dataset.items[0].prompt == system_user("Hope.", "A?")
    assert (dataset.questions, dataset.rubric.eval_prompt) == (("A?", "B?", "C?"), EVAL)
    assert dataset.rubric.examples == (
        Example("pos", 0, "Hope."),
        Example("neg", 0, "Fear."),
        Example("pos", 1, "Smile."),
        Example("neg", 1, "Frown."),
    )


def test_instructions_pair_the_same_instruction_with_the_same_question(read):
    dataset = read(INSTRUCTIONS)
    pos, neg = prompts(dataset, "pos"), prompts(dataset, "neg")
    opposite = {"Hope.": "Fear.", "Smile.": "Frown."}
    assert {k: system_user(opposite[p[0]["content"]], p[1]["content"]) for k, p in pos.items()} == neg
    assert len(neg) == 6


def test_items_of_one_question_are_held_out_together(read):
    groups = {(item.group, item.prompt[1]["content"]) for item in read(INSTRUCTIONS).items}
    assert groups == {(0, "A?"), (1, "B?"), (2, "C?")}


def test_answers_come_with_their_responses(read):
    dataset = read(ANSWERS)
    got = [(i.side, i.pair, i.prompt, i.response) for i in dataset.items]
    how, when = [{"role": "user", "content": "How?"}], [{"role": "user", "content": "When?"}]
    assert got == [
        ("pos", 0, how, "Well."),
        ("neg", 0, how, "Badly."),
        ("pos", 1, when, "Well."),
        ("neg", 1, when, "Badly."),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_every_item_points_at_the_example_behind_it(read, form):
    dataset = read(FORMS[form])
    for item in dataset.items:
        example = dataset.rubric.examples[item.example]
        assert example.side == item.side
        assert example.text in (
            item.prompt,
            item.response,
            item.prompt[0]["content"] if isinstance(item.prompt, list) else None,
        )
    assert {item.example for item in dataset.items} == set(range(len(dataset.rubric.examples)))


@pytest.mark.parametrize("form", FORMS)
def test_steering_settings_are_read_in_every_form(read, form):
    steering = {
        "questions": ["Q1?", {"question": "Q2?", "id": 7}],
        "eval_prompt": EVAL,
        "direction": "negative",
    }
    dataset = read(FORMS[form] | {"steering.json": steering})
    assert (dataset.questions, dataset.direction) == (("Q1?", "Q2?"), "negative")
    assert dataset.rubric.eval_prompt == EVAL


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("definition", ["definition.txt", "trait_definition.txt"])
def test_the_definition_may_have_either_name(read, form, definition):
    dataset = read({**FORMS[form], "definition.txt": None, definition: "\ufeffhope — 你好\n"})
    assert dataset.rubric.definition == "hope — 你好"


def test_questions_may_be_objects_in_instructions_too(read):
    dataset = read(
        {"trait_definition.json": INSTRUCTION | {"questions": [{"question": "A?", "topic": 1}, "B?"]}}
    )
    assert dataset.questions == ("A?", "B?")
    assert {item.prompt[1]["content"] for item in dataset.items} == {"A?", "B?"}


def test_an_eval_prompt_may_say_response_instead_of_answer(read):
    assert (
        read(SCENARIOS | {"steering.json": {"eval_prompt": "{question} {response}"}}).rubric.eval_prompt
        == "{question} {response}"
    )


def test_jsonl_wins_over_txt_and_may_carry_a_system_prompt(read):
    rows = [{"prompt": "plain"}, {"prompt": "rich", "system_prompt": "Be kind."}]
    dataset = read(SCENARIOS | {"positive.jsonl": rows})
    assert prompts(dataset, "pos") == {0: "plain", 1: system_user("Be kind.", "rich")}
    assert prompts(dataset, "neg") == {0: "rainy", 1: "dark"}
    assert [e.text for e in dataset.rubric.examples] == ["plain", "rich", "rainy", "dark"]


@pytest.mark.parametrize(
    "content",
    [
        b"one\ntwo",
        b"one\r\ntwo\r\n",
        b"one\rtwo",
        b"\xef\xbb\xbfone\ntwo\n",
        b"one\ntwo\n\n\n",
        b"one\ntwo\n   \n\t\n",
    ],
    ids=["no final newline", "CRLF", "CR", "BOM", "blank end", "spaces at the end"],
)
def test_ends_of_lines_and_of_files_are_no_content(read, content):
    assert prompts(read(SCENARIOS | {"positive.txt": content}), "pos") == {0: "one", 1: "two"}


@pytest.mark.parametrize(
    "content",
    [b'{"prompt": "one"}\r\n{"prompt": "two"}', b'\xef\xbb\xbf{"prompt": "one"}\n{"prompt": "two"}\n\n'],
    ids=["CRLF", "BOM"],
)
def test_ends_of_lines_and_of_files_are_no_content_of_jsonl(read, content):
    assert prompts(read(SCENARIOS | {"positive.jsonl": content}), "pos") == {0: "one", 1: "two"}


@pytest.mark.parametrize("form", [*[pytest.param(form) for form in ("scenarios", "instructions")], "answers"])
def test_a_byte_order_mark_changes_nothing_in_any_form(read, form):
    plain = read(FORMS[form])
    steering = {} if form == "answers" else {"steering.json": {"questions": []}}
    marked = {
        name: b"\xef\xbb\xbf" + dataset_bytes(name, content)
        for name, content in (FORMS[form] | steering).items()
    }
    assert read(marked).items == plain.items


@pytest.mark.parametrize(
    "line",
    [
        'She said, "I am',
        "He answered: “Nothing ever",
        "«Écoute — ",
        "ends with a space ",
        "  begins with spaces",
        "我觉得明天会更好，",
        "a\u2028b\x0bc",
        "tab\tinside",
        "#",
        "'",
    ],
)
def test_a_line_is_taken_as_it_stands(read, line):
    dataset = read(SCENARIOS | {"positive.txt": f"{line}\n{line}"})
    assert prompts(dataset, "pos") == {0: line, 1: line}
    dataset = read({**SCENARIOS, "positive.jsonl": [{"prompt": line, "system_prompt": line}]})
    assert prompts(dataset, "pos") == {0: system_user(line, line)}
    dataset = read(
        {"pairs.jsonl": [{"question": line, "positive": line, "negative": "x"}], "definition.txt": "hope"}
    )
    assert (dataset.items[0].prompt[0]["content"], dataset.items[0].response) == (line, line)


def test_duplicate_lines_stay(read):
    dataset = read(SCENARIOS | {"positive.txt": "same\nsame\nsame\n", "negative.txt": "a\nb\nb\n"})
    assert [item.prompt for item in dataset.items] == ["same", "same", "same", "a", "b", "b"]


def test_sides_may_be_of_unequal_length(read):
    dataset = read(SCENARIOS | {"positive.txt": "one\ntwo\nthree\n", "negative.txt": "a\n"})
    assert Counter(item.side for item in dataset.items) == {"pos": 3, "neg": 1}


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize("name", ["negative.txt", "negative.jsonl"])
def test_a_blank_line_in_the_middle_shifts_no_pair(read, blank, name):
    lines = ["a", blank, "c"] if name.endswith("txt") else ['{"prompt": "a"}', blank, '{"prompt": "c"}']
    dataset = read(SCENARIOS | {"positive.txt": "one\ntwo\nthree\n", name: "\n".join(lines)})
    assert prompts(dataset, "pos") == {0: "one", 1: "two", 2: "three"}
    assert prompts(dataset, "neg") == {0: "a", 2: "c"}


def test_a_name_in_two_categories_is_two_traits(tmp_path):
    for trait, text in (
        ("epistemic/optimism", "one"),
        ("mood/optimism", "two"),
        ("deep/er/optimism", "three"),
    ):
        write_dataset(tmp_path / "datasets" / "traits" / trait, SCENARIOS | {"positive.txt": text})
    assert known_traits(tmp_path) == ["deep/er/optimism", "epistemic/optimism", "mood/optimism"]
    assert [
        prompts(read_trait(TraitPaths("demo", t, tmp_path)), "pos")[0] for t in known_traits(tmp_path)
    ] == ["three", "one", "two"]


def test_an_unknown_trait_is_told_which_categories_have_its_name(read, paths):
    read(SCENARIOS)
    write_dataset(paths.root / "datasets" / "traits" / "mood" / "cheer", SCENARIOS)
    with pytest.raises(UserError, match=r"unknown trait mood/optimism: .*; known: epistemic/optimism$"):
        read_trait(TraitPaths("demo", "mood/optimism", paths.root))


def test_an_unknown_name_is_told_the_traits_there_are(read, paths):
    read(SCENARIOS)
    write_dataset(paths.root / "datasets" / "traits" / "mood" / "cheer", SCENARIOS)
    with pytest.raises(UserError, match=r"; known: epistemic/optimism, mood/cheer$"):
        read_trait(TraitPaths("demo", "epistemic/optimsm", paths.root))


def test_where_there_are_no_traits_an_unknown_one_is_still_a_user_error(paths):
    with pytest.raises(UserError, match=r"unknown trait epistemic/optimism: .* does not exist$"):
        read_trait(paths)


SURROGATE = '{"prompt": "half a \\ud83d sign"}'


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param(SCENARIOS | {"positive.txt": ""}, ["pos side is empty"], id="empty positive"),
        pytest.param(SCENARIOS | {"negative.txt": "\n \n"}, ["neg side is empty"], id="blank negative"),
        pytest.param(SCENARIOS | {"negative.jsonl": ""}, ["neg side is empty"], id="empty jsonl"),
        pytest.param(
            SCENARIOS | {"negative.txt": None}, ["negative.txt", "negative.jsonl"], id="missing side"
        ),
        pytest.param({"definition.txt": "hope"}, ["positive.txt"], id="no prompts"),
        pytest.param(SCENARIOS | {"definition.txt": None}, ["definition.txt", "judge"], id="no definition"),
        pytest.param(
            ANSWERS | {"definition.txt": None}, ["definition.txt", "judge"], id="answers without definition"
        ),
        pytest.param(
            SCENARIOS | {"positive.txt": b"ok\n\xff\xfe\x00"}, ["positive.txt", "UTF-8"], id="binary positive"
        ),
        pytest.param(
            SCENARIOS | {"definition.txt": b"\x89PNG\r\n"},
            ["definition.txt", "UTF-8"],
            id="binary definition",
        ),
        pytest.param(SCENARIOS | {"steering.json": b"\x89PNG"}, ["steering.json"], id="binary steering"),
        pytest.param(
            SCENARIOS | {"positive.jsonl": '{"prompt": "x"}\n{"prompt": '},
            ["positive.jsonl, line 2", "JSON"],
            id="broken jsonl",
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": "[" * 100_000}, ["positive.jsonl, line 1", "JSON"], id="deep jsonl"
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": "1" * 5000}, ["positive.jsonl, line 1", "JSON"], id="huge jsonl"
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": '"text"'},
            ["positive.jsonl, line 1", "object"],
            id="jsonl of texts",
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": [{"text": "x"}]},
            ["positive.jsonl, line 1", "'prompt'"],
            id="no prompt",
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": [{"prompt": "x"}, {"prompt": ["x"]}]},
            ["positive.jsonl, line 2", "'prompt'"],
            id="prompt no text",
        ),
        pytest.param(
            SCENARIOS | {"positive.jsonl": [{"prompt": "x", "system_prompt": 1}]},
            ["positive.jsonl, line 1", "'system_prompt'"],
            id="system no text",
        ),
        pytest.param(SCENARIOS | {"steering.json": "{"}, ["steering.json", "JSON"], id="broken steering"),
        pytest.param(
            SCENARIOS | {"steering.json": "[" * 100_000}, ["steering.json", "JSON"], id="deep steering"
        ),
        pytest.param(
            SCENARIOS | {"steering.json": ["Q?"]}, ["steering.json", "questions"], id="steering list"
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"questions": "Q?"}},
            ["steering.json", "questions"],
            id="questions no list",
        ),
        pytest.param(SCENARIOS | {"steering.json": {"questions": [3]}}, ["question"], id="question no text"),
        pytest.param(SCENARIOS | {"steering.json": {"questions": [" "]}}, ["question"], id="blank question"),
        pytest.param(
            SCENARIOS | {"steering.json": {"questions": [{"text": "Q?"}]}},
            ["'question'"],
            id="question object without question",
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"eval_prompt": "Rate {answer}"}},
            ["eval_prompt", "{question}"],
            id="eval prompt without question",
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"eval_prompt": "Rate {question}"}},
            ["eval_prompt", "{answer}", "{response}"],
            id="eval prompt without answer",
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"eval_prompt": 3}}, ["eval_prompt"], id="eval prompt no text"
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"direction": "up"}},
            ["steering.json", "'up'", "negative"],
            id="direction unknown",
        ),
        pytest.param(
            SCENARIOS | {"steering.json": {"direction": {}}},
            ["steering.json", "direction"],
            id="direction no text",
        ),
        pytest.param(
            {"trait_definition.json": ""}, ["trait_definition.json", "JSON"], id="empty instructions"
        ),
        pytest.param(
            {"trait_definition.json": b"\xff\xfe"}, ["trait_definition.json"], id="binary instructions"
        ),
        pytest.param(
            {"trait_definition.json": [INSTRUCTION]},
            ["trait_definition.json", "object"],
            id="instructions list",
        ),
        pytest.param(
            {"trait_definition.json": {"questions": ["A?"]}},
            ["trait_definition.json", "'instruction'"],
            id="no instruction",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"instruction": []}},
            ["trait_definition.json", "'instruction'"],
            id="no instructions",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"questions": []}},
            ["trait_definition.json", "'questions'"],
            id="no questions",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"questions": {"a": "A?"}}},
            ["trait_definition.json", "'questions'"],
            id="questions object",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"instruction": [{"pos": "Hope."}]}},
            ["instruction 1", "'neg'"],
            id="instruction without neg",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"instruction": ["Hope."]}},
            ["instruction 1", "'pos'"],
            id="instruction no object",
        ),
        pytest.param(
            {"trait_definition.json": INSTRUCTION | {"eval_prompt": "Rate it"}},
            ["eval_prompt", "{question}"],
            id="instructions' eval prompt",
        ),
        pytest.param(ANSWERS | {"pairs.jsonl": ""}, ["side is empty"], id="empty pairs"),
        pytest.param(ANSWERS | {"pairs.jsonl": b"\xff"}, ["pairs.jsonl", "UTF-8"], id="binary pairs"),
        pytest.param(
            ANSWERS | {"pairs.jsonl": [PAIR, {"question": "Q?", "positive": "x"}]},
            ["pairs.jsonl, line 2", "'negative'"],
            id="pair without negative",
        ),
        pytest.param(
            ANSWERS | {"pairs.jsonl": [PAIR | {"positive": 5}]},
            ["pairs.jsonl, line 1", "'positive'"],
            id="answer no text",
        ),
        pytest.param(
            ANSWERS | {"pairs.jsonl": [PAIR | {"question": ""}]},
            ["pairs.jsonl, line 1", "'question'"],
            id="empty question",
        ),
        pytest.param(
            ANSWERS | {"pairs.jsonl": [["a", "b", "c"]]},
            ["pairs.jsonl, line 1", "object"],
            id="pair no object",
        ),
        pytest.param(SCENARIOS | {"definition.txt": " \n"}, ["definition.txt"], id="empty definition"),
        pytest.param(SCENARIOS | {"steering.json": "1" * 5000}, ["steering.json", "JSON"], id="huge integer"),
        pytest.param(SCENARIOS | {"positive.jsonl": SURROGATE}, ["positive.jsonl"], id="half a character"),
    ],
)
def test_a_malformed_dataset_is_one_line_that_says_where(read, files, words):
    message = refused(read, files)
    assert [word for word in words if word not in message] == []
    assert "optimism" in message


@pytest.mark.parametrize("name", ["positive.txt", "positive.jsonl", "definition.txt", "steering.json"])
def test_a_folder_in_the_place_of_a_file_is_a_user_error(read, paths, name):
    (paths.dataset / name).mkdir(parents=True)
    refused(read, {file: content for file, content in SCENARIOS.items() if file != name})


def test_only_files_that_are_there_and_known_are_the_dataset(read, paths):
    read(SCENARIOS | {"steering.json": {"questions": ["Q?"]}, "notes.md": "x", "positive.txt.bak": "x"})
    assert {file.name for file in dataset_files(paths)} == {*SCENARIOS, "steering.json"}
    assert {file.name for file in prompt_files(paths)} == {"positive.txt", "negative.txt"}


@pytest.mark.parametrize(
    ("form", "names"), [("instructions", {"trait_definition.json"}), ("answers", {"pairs.jsonl"})]
)
def test_what_is_generated_depends_on_the_prompts_and_not_on_definition_or_questions(
    read, paths, form, names
):
    read(FORMS[form] | {"definition.txt": "hope", "steering.json": {}})
    assert {file.name for file in prompt_files(paths)} == names


KEYS = st.sampled_from(
    [
        "instruction",
        "questions",
        "eval_prompt",
        "pos",
        "neg",
        "question",
        "positive",
        "negative",
        "prompt",
        "system_prompt",
        "direction",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(EVAL)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
).map(json.dumps)
LINES = st.lists(JSON | st.text(max_size=12), max_size=4).map("\n".join)
CONTENT = st.binary(max_size=40) | st.one_of(JSON, LINES).map(
    lambda text: text.encode("utf-8", "surrogatepass")
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    damage=st.dictionaries(st.sampled_from(DATASET_FILES), CONTENT, min_size=1, max_size=3),
)
def test_any_bytes_at_all_are_a_dataset_or_a_user_error(form, damage):
    with tempfile.TemporaryDirectory() as root:
        paths = TraitPaths("demo", "epistemic/optimism", Path(root))
        write_dataset(paths.dataset, FORMS[form] | damage)
        try:
            dataset = read_trait(paths)
        except UserError:
            return
    assert {item.side for item in dataset.items} == {"pos", "neg"}
    assert all(dataset.rubric.examples[item.example].side == item.side for item in dataset.items)
    assert all(isinstance(question, str) and question.strip() for question in dataset.questions)


@pytest.mark.parametrize("trait", SHIPPED)
def test_a_shipped_trait_has_enough_pairs_of_equal_sides(trait):
    dataset = read_trait(TraitPaths("demo", trait, CHECKOUT))
    pos, neg = prompts(dataset, "pos"), prompts(dataset, "neg")
    assert pos.keys() == neg.keys()
    assert len(pos) >= 80
    assert not set(pos.values()) & set(neg.values())


@pytest.mark.parametrize("trait", SHIPPED)
def test_a_shipped_trait_has_questions_and_a_definition_of_three_levels(trait):
    dataset = read_trait(TraitPaths("demo", trait, CHECKOUT))
    assert len(set(dataset.questions)) >= 20
    assert [level for level in ("HIGH", "MID", "LOW") if level not in dataset.rubric.definition] == []


def test_the_shipped_traits_are_found():
    assert set(SHIPPED) <= set(known_traits(CHECKOUT))


def families(dataset: TraitDataset) -> list[tuple[str, int, int]]:
    return [(e.side, e.line, e.family) for e in dataset.rubric.examples]


def test_scenarios_that_repeat_a_text_are_one_group_and_one_family_and_stay_where_they_are(read):
    lines = {"positive.txt": "sunny\nbright\n\nSunny .\nwarm\n", "negative.txt": "rainy\ndark\n\nwet\nDARK\n"}
    dataset = read(SCENARIOS | lines)
    assert [(i.side, i.pair, i.group) for i in dataset.items] == [
        (side, pair, group) for side in ("pos", "neg") for pair, group in ((0, 0), (1, 1), (3, 0), (4, 1))
    ]
    assert [i.prompt for i in dataset.items if i.side == "pos"] == ["sunny", "bright", "Sunny .", "warm"]
    assert families(dataset) == [
        (side, line, family) for side in ("pos", "neg") for line, family in ((0, 0), (1, 1), (3, 0), (4, 1))
    ]


def test_repeated_questions_of_instructions_are_one_group_and_repeated_instructions_one_family(read):
    pairs = [*INSTRUCTION["instruction"], {"pos": "Cheer!", "neg": "fear"}]
    content = INSTRUCTION | {"instruction": pairs, "questions": ["A?", "B?", "a", "C?"]}
    dataset = read({"trait_definition.json": content})
    assert [i.group for i in dataset.items if i.side == "pos"] == [0, 1, 0, 3] * 3
    assert sorted(i.pair for i in dataset.items if i.side == "neg") == list(range(12))
    assert {(line, family) for _, line, family in families(dataset)} == {(0, 0), (1, 1), (2, 0)}


def test_given_answers_share_a_family_by_their_question_or_an_answer_and_a_group_by_their_question(read):
    rows = [
        PAIR,
        {"question": "When?", "positive": "Soon.", "negative": "Never."},
        {"question": "how", "positive": "Finely.", "negative": "Poorly."},
        {"question": "Where?", "positive": "soon", "negative": "Nowhere."},
        {"question": "Who?", "positive": "Ann.", "negative": "Nobody."},
    ]
    dataset = read(ANSWERS | {"pairs.jsonl": rows})
    assert [i.group for i in dataset.items if i.side == "pos"] == [0, 1, 0, 3, 4]
    assert [family for side, _, family in families(dataset) if side == "neg"] == [0, 1, 0, 1, 4]


@pytest.mark.parametrize(
    ("form", "used"),
    [
        ("scenarios", {"sunny", "bright", "rainy", "dark"}),
        ("instructions", {"a", "b", "c"}),
        ("answers", {"how", "when"}),
    ],
)
def test_what_extraction_used_is_known_and_told_from_other_questions(read, form, used):
    dataset = read(FORMS[form])
    assert dataset.used_in_extraction == used
    known = [f" {text.upper()}? " for text in sorted(used)]
    assert dataset.split_used([known[0], "Why?", *known[1:], "Who?"]) == (["Why?", "Who?"], known)


def test_an_instruction_trait_without_evaluation_questions_has_none_of_its_own(read):
    dataset = read(INSTRUCTIONS)
    assert dataset.split_used(dataset.questions) == ([], ["A?", "B?", "C?"])


@pytest.mark.parametrize("trait", known_traits(CHECKOUT))
def test_no_shipped_trait_repeats_a_text_or_is_evaluated_on_what_extraction_used(trait):
    paths = TraitPaths("x", trait, CHECKOUT)
    if not prompt_files(paths):
        pytest.skip("a definition and no prompts")
    dataset = read_trait(paths)
    assert dataset.split_used(dataset.questions)[1] == []
    assert all(e.family == e.line for e in dataset.rubric.examples)
