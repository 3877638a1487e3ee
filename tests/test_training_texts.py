"""Texts that somebody brings: which of them are learnt, after what, and what is said of the others."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import call, write_dataset
from training_world import QUICK, TRAIT, WORLD, chat, make_world, train, write_chats

from traitscope.extraction import run_pipeline, train_vectors
from traitscope.extraction.training.given import Wanted, given_texts
from traitscope.extraction.training.objectives import pair_up
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.chats import identify_chats, read_chats
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import read_training
from traitscope.utils.records.vectors import list_vectors

TWENTY = [chat(f"What of {i}?", f"All will be well with {i}.") for i in range(20)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    return make_world(tmp_path_factory.mktemp("texts"), tiny_folders["llama"])


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def paths(root) -> TraitPaths:
    return TraitPaths("e", TRAIT, root)


def given(paths, lm, rows, *, only_told=False, column="score", thresholds=Thresholds()):  # noqa: B008
    chats = read_chats(Path(write_chats(paths.root / "datasets/texts/t.jsonl", rows)), column)
    wanted = Wanted(thresholds, only_told=only_told)
    return given_texts(paths, lm, read_activations_about(paths), chats, wanted)


def test_a_file_is_learnt_from_in_place_of_the_traits_own_responses(paths, capfd):
    file = write_chats(paths.root / "datasets/texts/glad.jsonl", TWENTY)
    train("--from", file)
    assert "[train_nll]" in capfd.readouterr().out

    record = read_training(paths, "trained_nll")
    assert record.texts["train_texts"] + record.texts["val_texts"] == len(TWENTY)
    name = "datasets/texts/glad.jsonl"
    assert record.source == {"file": name, "sha256": digest(Path(file)), "lines": 20, "counts": {}}
    about = next(a for (method, _), a in list_vectors(paths).items() if method == "trained_nll")
    assert about.origin["said"]["texts_from"] == name
    manifest = read_json(paths.manifest("train_nll"))
    assert name in manifest["inputs"]
    assert str(paths.root) not in json.dumps(manifest["params"] | record.model_dump())


def test_the_vector_is_another_than_that_of_the_traits_own_responses(paths):
    train()
    own = digest(next(paths.vectors.glob("trained_nll*.pt")))
    train("--from", write_chats(paths.root / "datasets/texts/glad.jsonl", TWENTY))
    assert digest(next(paths.vectors.glob("trained_nll*.pt"))) != own
    train()
    assert digest(next(paths.vectors.glob("trained_nll*.pt"))) == own
    assert not read_training(paths, "trained_nll").source


@pytest.mark.parametrize(
    ("place", "says"),
    [("datasets/texts", "input changed: datasets/texts/t"), ("../elsewhere", "texts_from t.j")],
)
def test_it_trains_again_exactly_when_the_file_has_changed(paths, capfd, place, says):
    file = write_chats(paths.root / place / "t.jsonl", TWENTY)
    train("--from", file)
    train("--from", file, "--dry-run")
    assert capfd.readouterr().out.splitlines()[-1].endswith("up to date")
    write_chats(Path(file), TWENTY[:-1])
    train("--from", file, "--dry-run")
    last = capfd.readouterr().out.splitlines()[-1]
    assert f"would train ({says}" in last
    assert str(paths.root.parent) not in last


def test_a_file_elsewhere_is_remembered_by_its_name_and_content_alone(tmp_path, root):
    file = write_chats(tmp_path / "secret place" / "t.jsonl", TWENTY)
    assert identify_chats(file) == f"t.jsonl (sha256 {digest(Path(file))[:16]})"
    assert identify_chats(str(tmp_path / "none.jsonl")) == "none.jsonl (which does not exist)"
    assert identify_chats("") is None  # as if the flag did not exist: older manifests stay good


def test_a_name_is_that_of_a_file_here_or_below_the_root(paths, tmp_path, monkeypatch):
    write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    monkeypatch.chdir(tmp_path)
    assert identify_chats("datasets/texts/t.jsonl") == "datasets/texts/t.jsonl"
    write_chats(tmp_path / "t.jsonl", TWENTY)
    assert identify_chats("t.jsonl").startswith("t.jsonl (sha256 ")


def test_a_response_comes_after_what_stands_before_it_without_the_system_message(paths, llama):
    turns = [
        ("system", "Be glad."),
        ("user", "One?"),
        ("assistant", "Two."),
        ("user", "Three?"),
        ("assistant", "4."),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    found = given(paths, llama, [{"messages": messages}, chat("Plain?", "Yes.")])
    first, second = found.texts
    assert first.prompt_ids == encode(llama, messages[1:-1])
    assert first.told_ids == encode(llama, messages[:-1])
    assert first.response_ids == encode_text(llama, "4.")
    assert second.told_ids == []


def test_scores_choose_the_sides_and_what_they_leave_out_is_counted(paths, llama):
    scores = [90, 60, 59.9, 40.1, 40, 0, None]
    rows = [chat(f"{i}?", f"answer {i}", score=score) for i, score in enumerate(scores)]
    found = given(paths, llama, rows)
    assert [(t.key, t.side) for t in found.texts] == [
        ("line:1", "pos"),
        ("line:2", "pos"),
        ("line:5", "neg"),
        ("line:6", "neg"),
    ]
    assert found.source["counts"] == {"scored between the sides": 2, "without a score": 1}
    moved = given(paths, llama, rows, thresholds=Thresholds(pos_threshold=50, neg_threshold=10))
    assert [t.side for t in moved.texts] == ["pos", "pos", "pos", "neg"]

    renamed = [{"messages": row["messages"], "gladness": row["score"]} for row in rows]
    assert {t.side for t in given(paths, llama, renamed).texts} == {"pos"}
    by_name = given(paths, llama, renamed, column="gladness")
    assert [t.side for t in by_name.texts] == [t.side for t in found.texts]
    assert {t.side for t in given(paths, llama, rows, column="").texts} == {"pos"}


def test_the_other_side_is_learnt_under_the_opposite_and_else_counted(paths):
    rows = [chat(f"{i}?", f"answer {i}", score=90 if i % 2 else 5) for i in range(20)]
    file = write_chats(paths.root / "datasets/texts/t.jsonl", rows)
    alone = ["--train-opposite", "false"]
    for more, taken, counts in ((alone, 10, {"of the other side": 10}), ([], 20, {})):
        train("--from", file, *more)
        record = read_training(paths, "trained_nll")
        assert record.texts["train_texts"] + record.texts["val_texts"] == taken
        assert record.source["counts"] == counts


def test_one_question_is_never_in_training_and_in_validation(paths):
    rows = [chat(f"Question {i // 4}", f"Answer {i}.") for i in range(40)]
    rows += [chat(f"  QUESTION {i}! ", f"Another {i}.") for i in range(10)]  # the same, as texts are compared
    file = write_chats(paths.root / "datasets/texts/t.jsonl", rows)
    train("--from", file, "--val-tokens", "60")
    record = read_training(paths, "trained_nll")
    assert record.texts["val_texts"] % 5 == 0
    assert record.texts["train_texts"] % 5 == 0


def test_what_measures_the_trait_is_never_learnt(paths, llama):
    about, dataset = read_activations_about(paths), read_trait(paths)
    held_out = {row.key for row in about.rows if row.split == "val"}
    prompts = {r.key: r.prompt for r in read_responses(paths)}
    measured = [dataset.questions[0], prompts[min(held_out)]]
    learnt = [prompts[min(prompts.keys() - held_out)], "Anything else?"]
    asked = [chat(text, f"Fine {i}.") for i, text in enumerate([*measured, *learnt])]
    later = [
        *chat("A first word", "Yes.")["messages"],
        *chat(dataset.questions[0].upper(), "No.")["messages"],
    ]

    found = given(paths, llama, [*asked, {"messages": later}])
    assert [t.key for t in found.texts] == ["line:3", "line:4"]
    assert found.source["counts"] == {"asked where the trait is measured": 3}


def test_what_is_longer_than_the_context_is_cut_and_counted(paths, llama):
    found = given(paths, llama, [*TWENTY, chat("Long?", "x" * 600)])
    limit = llama.model.config.max_position_embeddings
    assert len(found.texts[-1].ids) == limit
    assert found.source["counts"] == {"responses cut to the model's context": 1}
    with pytest.raises(UserError, match=rf"t\.jsonl, line 1: .* takes {limit} in all"):
        given(paths, llama, [chat("y" * 600, "Short.")])


def test_a_repeated_line_is_left_out_in_one_line(paths, llama, capfd):
    found = given(paths, llama, [*TWENTY, TWENTY[3], TWENTY[4]])
    assert len(found.texts) == len(TWENTY)
    assert found.source["counts"] == {"lines repeated": 2}
    assert "t.jsonl, line 21 repeats line 4, and 1 more lines repeat others" in capfd.readouterr().out


def test_the_told_model_is_the_one_with_the_system_message(paths):
    rows = [chat(f"What of {i}?", f"Well, {i}.", "Be glad." if i % 2 else "") for i in range(24)]
    file = write_chats(paths.root / "datasets/texts/t.jsonl", rows)
    train("--from", file, "--objective", "distill,delta")
    for method in ("trained_distill", "prompt_delta"):
        record = read_training(paths, method)
        assert record.texts["train_texts"] + record.texts["val_texts"] == 12
        assert record.source["counts"] == {"without a system message": 12}


def test_pref_pairs_what_answers_the_same(paths, llama):
    rows = [
        chat(f"{i}?", f"{side} {i}", score=score)
        for i in range(12)
        for side, score in (("good", 90), ("bad", 5))
    ]
    rows.append(chat("alone?", "good", score=80))
    pairs = pair_up(given(paths, llama, rows).texts)
    assert len(pairs) == 12
    assert all(pos.prompt_ids == neg.prompt_ids and pos.side == "pos" for pos, neg in pairs)

    train("--objective", "pref", "--from", write_chats(paths.root / "datasets/texts/t.jsonl", rows))
    record = read_training(paths, "trained_pref")
    assert record.texts["train_texts"] % 2 == 0
    assert record.source["counts"] == {"without another answer to the same prompt": 1}


def test_budgets_hold_for_a_file_too(paths, capfd):
    file = write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    train("--from", file, "--train-tokens", "200", "--val-tokens", "60")
    record = read_training(paths, "trained_nll")
    assert 200 <= record.texts["train_tokens"] < 300
    assert 60 <= record.texts["val_tokens"] < 150
    assert record.texts["left_texts"] > 0
    with pytest.raises(UserError):
        train("--from", file, "--train-tokens", "100000")
    assert "response tokens in all" in capfd.readouterr().err


BAD = {
    "no JSON": ([TWENTY[0], "{oh no"], "t.jsonl, line 2 is not valid JSON"),
    "no object": (["[1]"], "line 1 must be a JSON object"),
    "no messages": ([{"text": "x"}], 'line 1: messages are objects with "role"'),
    "a role": ([{"messages": [{"role": "tool", "content": "x"}]}], "line 1: messages are objects"),
    "parts": ([{"messages": [{"role": "user", "content": [{"text": "x"}]}]}], "line 1: messages are objects"),
    "no messages in it": ([{"messages": []}], "line 1: the last message must be the assistant's"),
    "no answer": (
        [{"messages": TWENTY[0]["messages"][:1]}],
        "line 1: the last message must be the assistant's",
    ),
    "an empty answer": ([TWENTY[0], chat("x?", " \n")], "line 2: the response is empty"),
    "no question": ([{"messages": TWENTY[0]["messages"][1:]}], "line 1: no message of the user"),
    "NaN": ([TWENTY[0], '{"messages": [], "score": NaN}'], "line 2 is not valid JSON: NaN is no number"),
    "a text as score": (
        [chat("x?", "y", score="80")],
        "line 1: 'score' must be a number, or null; found '80'",
    ),
    "a yes as score": ([chat("x?", "y", score=True)], "line 1: 'score' must be a number"),
    "two scores": (
        [chat("x?", "y", score=80), chat("x?", "y", score=5)],
        "line 2 repeats line 1 with another score",
    ),
    "half a character": (['{"messages": [], "x": "\\ud800"}'], "line 1 is not valid JSON: half a character"),
    "nothing": ([], "t.jsonl is empty"),
    "one": (TWENTY[:1], "there are 1 texts that show"),
    "none good": (
        [chat("a?", "b", score=59), chat("c?", "d", score=3)],
        "the highest is 59, in line 1; move --pos",
    ),
    "none judged": ([chat("a?", "b", score=None)], "no text is left to train on: 1 without a score"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_with_a_file_is_one_line_and_loses_nothing(paths, capfd, bad):
    train()
    before = digest(paths.training("trained_nll")), list_vectors(paths).keys()
    rows, says = BAD[bad]
    with pytest.raises(UserError):
        train("--from", write_chats(paths.root / "datasets/texts/t.jsonl", rows))
    err = capfd.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert (digest(paths.training("trained_nll")), list_vectors(paths).keys()) == before
    train()
    assert "up to date" in capfd.readouterr().out.splitlines()[-1]


def test_without_a_system_message_nothing_is_told(paths, capfd):
    file = write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    for objective in ("distill", "delta"):
        with pytest.raises(UserError):
            train("--from", file, "--objective", objective)
        assert "no positive conversation has a system message" in capfd.readouterr().err


@pytest.mark.parametrize("place", ["datasets/none.jsonl", "../none.jsonl", "datasets"])
def test_a_file_that_is_not_there_is_one_line(paths, capfd, place):
    with pytest.raises(UserError) as caught:
        train("--from", str(paths.root / place))
    said = str(caught.value) + capfd.readouterr().err
    assert "which does not exist" in said or "does not exist" in said or "is a folder" in said


def test_a_name_that_no_line_has_is_no_silent_yes(paths, capfd):
    file = write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    with pytest.raises(UserError):
        train("--from", file, "--score-column", "gladnes")
    assert "has 'gladnes'; name the field of the scores with --score-column" in capfd.readouterr().err


def test_one_file_is_one_trait_and_no_setting_of_the_experiment(paths):
    file = write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    two = ["--experiment", "e", "--traits", f"{TRAIT},behavioral/formality", "--from", file]
    with pytest.raises(UserError, match="shows one trait, and 2 are to be trained"):
        call(train_vectors, *two)
    with pytest.raises(UserError, match="shows one trait, and 2 are to be trained"):
        call(run_pipeline, *two, "--methods", "mean_diff,trained_nll", "--dry-run")
    train("--from", file)
    assert not {"texts_from", "score_column"} & read_json(ExperimentPaths("e", paths.root).config).keys()


def test_a_trait_of_given_answers_is_trained_and_its_pairs_are_preferred(root, tiny_folders):
    pairs = [
        {"question": f"What of {i}?", "positive": f"Fine {i}.", "negative": f"Bad {i}."} for i in range(24)
    ]
    folder = root / "datasets/traits/a/given"
    write_dataset(folder, {"pairs.jsonl": "\n".join(map(json.dumps, pairs)), "definition.txt": "Hope."})
    world = ["--experiment", "g", "--traits", "a/given"]
    stages = ["--no-vet", "--min-usable", "2", "--methods", "mean_diff", "--no-steering"]
    call(run_pipeline, *world, "--model", tiny_folders["llama"], *stages)
    call(
        train_vectors, *world, "--no-vet", *QUICK, "--objective", "nll,pref,distill", "--max-new-tokens", "4"
    )

    found = TraitPaths("g", "a/given", root)
    train_keys = {row.key for row in read_activations_about(found).rows if row.split == "train"}
    nll, pref = (read_training(found, method) for method in ("trained_nll", "trained_pref"))
    assert nll.texts["train_texts"] + nll.texts["val_texts"] == len(train_keys)
    assert pref.texts["train_texts"] + pref.texts["val_texts"] == len(train_keys)
    assert {m for m, _ in list_vectors(found)} >= {"trained_nll", "trained_pref", "trained_distill"}


def test_the_pipeline_takes_the_file_too(paths, capfd):
    file = write_chats(paths.root / "datasets/texts/t.jsonl", TWENTY)
    given = [*WORLD, "--no-vet", "--min-usable", "2", "--methods", "mean_diff,probe,trained_nll", *QUICK]
    call(run_pipeline, *given, "--max-new-tokens", "6", "--no-steering", "--from", file)
    assert read_training(paths, "trained_nll").source["file"] == "datasets/texts/t.jsonl"
