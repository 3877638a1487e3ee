"""The pool of neutral questions, and when two texts are the same one."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths, question_pool
from traitscope.utils.judge.sentences import embed
from traitscope.utils.model.encode import text_of
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.dataset_files import form_of, known_traits
from traitscope.utils.records.questions import LEAST, read_pool
from traitscope.utils.records.texts import join_shared, normalised, repeated

CHECKOUT = Path(__file__).resolve().parents[1]
POOL = read_pool(CHECKOUT)


def all_of_the_library() -> set[str]:
    """Return every question that a shipped trait asks, of extraction and of evaluation, normalised."""
    found = set()
    for trait in known_traits(CHECKOUT):
        paths = TraitPaths("x", trait, CHECKOUT)
        if form_of(paths.dataset):
            dataset = read_trait(paths)
            found |= {*dataset.questions, *(text_of(item.prompt) for item in dataset.items)}
    return set(map(normalised, found))


def write_pool(root: Path, content) -> None:
    file = root / "datasets" / "questions" / "neutral.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "same",
    [
        ("What is jazz?", "what is  JAZZ ?", "“What is jazz?”", "What\nis jazz", "*What is ｊａｚｚ？*"),
        ("She said", 'She said "', "she said …"),
        ("Straße", "STRASSE"),
    ],
)
def test_texts_that_differ_in_case_spacing_and_edges_are_the_same(same):
    assert len(set(map(normalised, same))) == 1


@pytest.mark.parametrize(
    "other", [("What is C?", "What is C++?"), ("a b", "ab"), ("?", "!"), ("don't", "dont")]
)
def test_texts_that_differ_inside_are_not(other):
    assert len(set(map(normalised, other))) == 2


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    assert normalised(normalised(text)) == normalised(text)


def test_what_repeats_is_named_once_for_every_repetition():
    assert repeated(["a", "b?", "A.", "c", "B", "a"]) == ["A.", "B", "a"]


def test_numbers_are_joined_through_what_they_share():
    marks = [(3, "a"), (5, "b"), (5, "c"), (7, "d"), (8, "c"), (9, "a"), (9, "e"), (10, "x"), (10, "b")]
    assert join_shared(marks) == {3: 3, 5: 5, 7: 7, 8: 5, 9: 3, 10: 5}
    assert join_shared([(2, "a"), (4, "b"), (6, "a"), (6, "b")]) == {2: 2, 4: 2, 6: 2}


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abcdefgh")), max_size=20))
def test_joined_are_those_numbers_that_steps_over_shared_marks_reach_and_no_others(marks):
    firsts = join_shared(marks)
    own = {n: {mark for number, mark in marks if number == n} for n in firsts}
    reach = {n: {m for m in own if own[n] & own[m]} for n in own}
    for _ in own:
        reach = {n: set().union(*(reach[m] for m in reach[n])) for n in reach}
    assert firsts == {n: min(reach[n]) for n in reach}


def test_the_pool_is_open_questions_of_a_usual_length():
    assert len(POOL) >= 240
    assert all(q.endswith("?") and 6 <= len(q.split()) <= 20 for q in POOL)
    assert all(q.split()[0] in ("What", "How", "Which") for q in POOL)  # none that yes or no would answer


def test_no_question_of_the_pool_is_in_a_trait_of_the_library():
    used = all_of_the_library()
    assert len(used) > 1000  # so that the law says something
    assert [q for q in POOL if normalised(q) in used] == []


@pytest.mark.slow
def test_no_two_questions_of_the_pool_mean_the_same():
    vectors = embed(POOL)
    cosines = vectors @ vectors.T - np.eye(len(POOL))
    assert cosines.max() < 0.9


def test_a_root_of_its_own_has_this_checkout_s_pool_or_its_own(tmp_path):
    assert read_pool(tmp_path) == POOL
    own = [f"What about the number {i}?" for i in range(LEAST)]
    write_pool(tmp_path, {"questions": own})
    assert question_pool(tmp_path).is_relative_to(tmp_path)
    assert read_pool(tmp_path) == own


@pytest.mark.parametrize(
    ("questions", "complaint"),
    [
        ([f"What about {i}?" for i in range(LEAST - 1)], "at least 200"),
        ([*(f"What about {i}?" for i in range(LEAST)), "WHAT about 7"], "'WHAT about 7' twice"),
        ([*(f"What about {i}?" for i in range(LEAST)), " "], "list 'questions' of texts"),
        ([*(f"What about {i}?" for i in range(LEAST)), 3], "list 'questions' of texts"),
        ("What?", "list 'questions' of texts"),
        (None, "list 'questions' of texts"),
    ],
)
def test_a_pool_that_is_not_one_is_refused_in_a_line(tmp_path, questions, complaint):
    write_pool(tmp_path, {"questions": questions})
    with pytest.raises(UserError, match=complaint) as caught:
        read_pool(tmp_path)
    assert "\n" not in str(caught.value)
