"""Datasets as other tools' users have them load unmodified; damaged ones load or are one clear line."""

import json
import random
import shutil

import pytest
from conftest import dataset_bytes, write_dataset

from traitscope.extraction.audit.checks import CHECKS
from traitscope.extraction.audit.subject import read_subject
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.dataset_files import dataset_files, form_of, known_traits, prompt_files

EVAL = "Rate {question} {answer}"
EXTRACT = {
    "instruction": [{"pos": "Hope.", "neg": "Fear."}, {"pos": "Smile.", "neg": "Frown."}],
    "questions": ["A?", "B?"],
    "eval_prompt": EVAL,
}
EVALUATE = EXTRACT | {"questions": ["C?", "D?", "E?"], "eval_prompt": "Judge {question} {answer}"}
SCENARIOS = {
    "positive.txt": "“Morgen,” sagte sie, „wird alles\r\n我觉得明天会更好，\nDie Sonne kommt\nIt’s going well, because",
    "negative.txt": "“Morgen,” sagte sie, „wird nichts\n我觉得明天会更糟，\nDer Regen kommt\nIt’s going badly, because",
    "definition.txt": "Hope.\nHIGH: sun. MID: mist. LOW: rain.\n",
    "steering.json": {
        "questions": ["Q1?", {"question": "Q2?"}],
        "eval_prompt": "{question} {response}",
        "direction": "positive",
    },
}
PAIR = {"question": "How?", "positive": "Well, I think.", "negative": "Badly, I think."}
ANSWERS = {
    "pairs.jsonl": [PAIR, PAIR | {"question": "When?"}, PAIR | {"question": "—?"}],
    "definition.txt": "hope",
}
FOREIGN = {  # persona_vectors' two files, as its users keep them
    "flat": ("trait_definition.json", "trait_definition_eval.json"),
    "suffixed": ("evil_extract.json", "evil_eval.json"),
    "other name": ("malice_extract.json", "malice_eval.json"),
    "folders": ("trait_data_extract/evil.json", "trait_data_eval/evil.json"),
    "folders, other name": ("trait_data_extract/malice.json", "trait_data_eval/malice.json"),
}
FORMS = {
    "scenarios": SCENARIOS,
    "answers": ANSWERS,
    **{name: {a: EXTRACT, b: EVALUATE} for name, (a, b) in FOREIGN.items()},
}


@pytest.fixture
def paths(tmp_path) -> TraitPaths:
    return TraitPaths("demo", "persona/evil", tmp_path)


def read(paths: TraitPaths, files: dict) -> TraitDataset:
    write_dataset(paths.dataset, files)
    return read_trait(paths)


def asked(dataset: TraitDataset) -> set[str]:
    return {item.prompt[-1]["content"] for item in dataset.items}


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_two_question_files_extract_with_one_and_evaluate_with_the_other(paths, names):
    dataset = read(paths, {names[0]: EXTRACT, names[1]: EVALUATE})
    assert dataset.form == "instructions"
    assert asked(dataset) == {"A?", "B?"}
    assert dataset.questions == ("C?", "D?", "E?")
    assert dataset.rubric.eval_prompt == "Judge {question} {answer}"
    assert [e.text for e in dataset.rubric.examples] == ["Hope.", "Fear.", "Smile.", "Frown."]
    assert {f.relative_to(paths.dataset).as_posix() for f in dataset_files(paths)} == set(names)
    assert {f.relative_to(paths.dataset).as_posix() for f in prompt_files(paths)} == {names[0]}
    assert known_traits(paths.root) == ["persona/evil"]


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
def test_without_the_second_file_the_questions_serve_for_both(paths, names):
    dataset = read(paths, {names[0]: EXTRACT})
    assert (asked(dataset), dataset.questions, dataset.rubric.eval_prompt) == (
        {"A?", "B?"},
        ("A?", "B?"),
        EVAL,
    )


def test_an_evaluation_file_without_a_prompt_keeps_the_first_one_s(paths):
    dataset = read(paths, {"evil_extract.json": EXTRACT, "evil_eval.json": {"questions": ["C?"]}})
    assert (dataset.questions, dataset.rubric.eval_prompt) == (("C?",), EVAL)


def test_steering_json_has_the_last_word(paths):
    files = {
        "trait_definition.json": EXTRACT,
        "trait_definition_eval.json": EVALUATE,
        "steering.json": {"questions": ["Z?"]},
    }
    assert read(paths, files).questions == ("Z?",)


def test_of_several_traits_in_one_folder_the_one_of_its_name_counts(paths):
    dataset = read(
        paths,
        {
            "trait_data_extract/evil.json": EXTRACT,
            "trait_data_extract/kind.json": {},
            "trait_data_eval/evil.json": EVALUATE,
        },
    )
    assert dataset.questions == ("C?", "D?", "E?")


def test_several_traits_of_other_names_are_refused_in_a_line(paths):
    with pytest.raises(UserError, match=r"several traits \(a_extract.json, b_extract.json …\)"):
        read(paths, {"a_extract.json": EXTRACT, "b_extract.json": EXTRACT})


def test_scenarios_are_not_mistaken_for_instructions(paths):
    assert read(paths, SCENARIOS | {"notes_extract.json": "no dataset"}).form == "scenarios"


def test_a_broken_evaluation_file_is_named(paths):
    with pytest.raises(UserError, match=r"evil_eval.json must have a list 'questions'"):
        read(paths, {"evil_extract.json": EXTRACT, "evil_eval.json": {}})


def test_comments_are_blank_lines_and_the_judge_never_sees_them(paths):
    commented = {
        "positive.txt": "#: guidance\none\n#:\ntwo",
        "negative.txt": "#: the same\nun\n#:\ndeux",
        "definition.txt": "#: what\nhope\n#: more\nis good\n",
    }
    dataset = read(paths, commented)
    assert [(i.side, i.pair, i.prompt) for i in dataset.items] == [
        ("pos", 1, "one"),
        ("pos", 3, "two"),
        ("neg", 1, "un"),
        ("neg", 3, "deux"),
    ]
    assert dataset.rubric.definition == "hope\nis good"


@pytest.mark.parametrize("line", ["# a heading", "#hashtag", "##", "  #: indented", "a #: inside"])
def test_lines_that_people_already_begin_with_a_hash_are_prompts(paths, line):
    assert [i.prompt for i in read(paths, SCENARIOS | {"positive.txt": line}).items if i.side == "pos"] == [
        line
    ]


def test_comments_of_json_are_no_content(paths):
    records = [{"_comment": "guidance"}, PAIR, PAIR | {"_comment": "note"}]
    dataset = read(
        paths,
        {
            "pairs.jsonl": records,
            "definition.txt": "hope",
            "steering.json": {"_comment": ["x"], "accepted_confounds": {"_comment": "y"}},
        },
    )
    assert [item.pair for item in dataset.items] == [1, 1, 2, 2]
    assert dataset.accepted_confounds == {}


@pytest.mark.parametrize("accepted", [[], "length", {"topics": ""}, {"topics": None}, {"topics": ["x"]}])
def test_an_acceptance_needs_its_reason(paths, accepted):
    with pytest.raises(UserError, match="accepted_confounds must be an object of texts"):
        read(paths, SCENARIOS | {"steering.json": {"accepted_confounds": accepted}})


def test_instructions_may_accept_in_their_own_file(paths):
    dataset = read(
        paths,
        {"trait_definition.json": EXTRACT | {"accepted_confounds": {"first_words": "that is the trait"}}},
    )
    assert dataset.accepted_confounds == {"first_words": "that is the trait"}


def test_a_folder_with_only_a_definition_is_known_but_has_no_form(paths):
    write_dataset(paths.dataset, {"trait_definition.txt": "A thought."})
    assert known_traits(paths.root) == ["persona/evil"]
    assert form_of(paths.dataset) is None
    assert prompt_files(paths) == []
    with pytest.raises(UserError, match=r"has no positive.txt \(or positive.jsonl\)"):
        read_trait(paths)


def test_traits_may_lie_deeper_but_a_category_is_none(paths):
    base = paths.root / "datasets" / "traits"
    for folder in ("", "mood", "mood/hope", "mood/by/whom", "a/b/c/d/e", "a/b/c/d/e/f"):
        write_dataset(base / folder, {"definition.txt": "x"})
    assert known_traits(paths.root) == ["a/b/c/d/e", "mood/by/whom", "mood/hope"]


def test_the_scenarios_of_this_page_load_as_they_stand(paths):
    dataset = read(paths, SCENARIOS)
    assert [item.prompt for item in dataset.items if item.side == "pos"] == SCENARIOS["positive.txt"].replace(
        "\r\n", "\n"
    ).split("\n")
    assert (dataset.questions, dataset.rubric.eval_prompt) == (("Q1?", "Q2?"), "{question} {response}")


def random_json(rng: random.Random, depth: int = 0):
    leaves = [None, True, 0, -1.5, 10**400, "", " ", "text", "\ud83d", EVAL, float("nan"), "x" * 5000]
    keys = [
        "instruction",
        "questions",
        "eval_prompt",
        "pos",
        "neg",
        "question",
        "prompt",
        "direction",
        "accepted_confounds",
        "positive",
        "_comment",
    ]
    kind = rng.random()
    if depth > 3 or kind < 0.4:
        return rng.choice(leaves)
    if kind < 0.7:
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(keys): random_json(rng, depth + 1) for _ in range(rng.randrange(4))}


def flip_bytes(rng: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    return bytes(flipped)


def mistype(rng: random.Random, data: bytes) -> bytes:
    """Put a value of any type in the place of one that is there."""
    try:
        content = json.loads(data.split(b"\n")[0])
    except (ValueError, RecursionError):
        return json.dumps(random_json(rng)).encode("utf-8", "surrogatepass")
    holder = content
    while isinstance(holder, dict) and holder and rng.random() < 0.9:
        key = rng.choice(sorted(holder))
        if not isinstance(holder[key], dict):
            holder[key] = random_json(rng)
            break
        holder = holder[key]
    return json.dumps(content).encode()


DAMAGES = {
    "truncated": lambda rng, data: data[: rng.randrange(len(data))],
    "wrong encoding": lambda rng, data: data.decode(errors="replace").encode(
        rng.choice(["utf-16", "utf-32", "utf-7", "cp1252", "gb18030", "shift_jis"]), "replace"
    ),
    "binary": lambda rng, data: rng.randbytes(rng.randrange(1, 3000)),
    "huge line": lambda rng, data: (
        rng.choice([b"x", b"\x00", b'"', "你".encode(), b"9", b"{"]) * rng.randrange(10**5, 10**6)
    ),
    "deep JSON": lambda rng, data: (
        rng.choice([b"[", b'{"a":', b'{"questions":[', b'[{"instruction":']) * rng.randrange(100, 50_000)
    ),
    "wrong types": mistype,
    "any JSON": lambda rng, data: json.dumps(random_json(rng)).encode(),
    "emptied": lambda rng, data: rng.choice(
        [b"", b"\n", b"\xef\xbb\xbf", b"  \n\t\n", b"{}", b"[]", b"null"]
    ),
    "bytes flipped": flip_bytes,
    "doubled": lambda rng, data: data + data,
    "line breaks": lambda rng, data: data.replace(
        b"\n", rng.choice([b"\r", b"\r\n", b"\n\n", b"\x00", b"\xe2\x80\xa8"])
    ),
}


def damage(rng: random.Random, files: dict) -> tuple[dict[str, bytes], str]:
    """Return a dataset's files with one to three of them damaged, and what was done."""
    kept = {name: dataset_bytes(name, content) for name, content in files.items()}
    done = []
    for _ in range(rng.randrange(1, 3)):
        name, how = (
            rng.choice(sorted(kept) or ["definition.txt"]),
            rng.choice([*DAMAGES, "swapped", "removed"]),
        )
        done.append(f"{name} {how}")
        data = kept.pop(name, b"") or b" "
        if how == "swapped" and kept:
            other = rng.choice(sorted(kept))
            kept[name], kept[other] = kept[other], data
        elif how in DAMAGES:
            kept[name] = DAMAGES[how](rng, data)
    return kept, ", ".join(done)


def read_damaged(paths: TraitPaths, files: dict[str, bytes]) -> TraitDataset | str:
    shutil.rmtree(paths.dataset, ignore_errors=True)
    paths.dataset.mkdir(parents=True)
    try:
        return read(paths, files)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    "seeds", [range(0, 1000, 8), pytest.param(range(1000), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_thousand_damaged_datasets_load_or_are_one_clear_line(tmp_path, seeds):
    paths, refused = TraitPaths("demo", "persona/evil", tmp_path), 0
    for seed in seeds:
        rng = random.Random(seed)
        files, done = damage(rng, FORMS[rng.choice(list(FORMS))])
        result = read_damaged(paths, files)
        if isinstance(result, str):
            refused += 1
            assert "\n" not in result, (seed, done)
            assert len(result) < 600, (seed, done)
            assert b"evil" in result.encode(), (seed, done)  # and it can be printed
        else:
            assert {item.side for item in result.items} == {"pos", "neg"}, (seed, done)
            assert all(question.strip() for question in result.questions), (seed, done)
            measure_all(paths)
    assert 0.2 < refused / len(seeds) < 0.8


def measure_all(paths: TraitPaths) -> None:
    """Run every check that needs no model: whatever loads can be audited."""
    subject = read_subject(paths)
    for name, check in CHECKS.items():
        if (
            name not in ("topics", "length_in_tokens")
            and subject.form in check.forms
            and len(subject.pairs) >= check.needs_pairs
        ):
            assert check.measure(subject).advice.encode() is not None
