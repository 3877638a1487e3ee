from collections.abc import Sequence

import numpy as np
import pytest

from traitscope.utils.errors import UserError
from traitscope.utils.judge import Rubric
from traitscope.utils.measures.chance import compare_with_null
from traitscope.utils.measures.intervals import benjamini_hochberg
from traitscope.utils.measures.separation import auroc_interval, auroc_of, cohens_d, separation
from traitscope.utils.records.dataset import Item, TraitDataset
from traitscope.utils.records.questions import choose_questions, split_questions


def test_auroc_counts_pairs_with_ties_as_half():
    assert auroc_of(np.array([3.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert auroc_of(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0


def test_cohens_d_is_the_textbook_value():
    assert cohens_d(np.array([2.0, 4.0, 6.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx(0.5)


def test_auroc_interval_is_honest_at_one_and_shrinks_with_n():
    low, high = auroc_interval(1.0, 10, 10)
    assert high == 1.0
    assert 0.7 < low < 0.95
    assert auroc_interval(1.0, 100, 100)[0] > low


def test_auroc_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth, covered = 0.7602, 0  # Φ(1/√2)
    for _ in range(300):
        value = auroc_of(rng.normal(1, 1, 20), rng.normal(0, 1, 20))
        low, high = auroc_interval(value, 20, 20)
        covered += low <= truth <= high
    assert 0.91 <= covered / 300 <= 0.995


def test_separation_of_too_few_is_none_and_not_a_number():
    assert separation(np.array([1.0]), np.array([0.0, 0.1]), 0.5) is None


def test_separation_reports_sizes_and_accuracy_at_the_centre():
    result = separation(np.array([1.0, 2.0, 0.4]), np.array([0.0, 0.1]), 0.5)
    assert (result["n_pos"], result["n_neg"], result["accuracy"]) == (3, 2, 0.8)


def test_null_comparison_ranks_both_signs_and_never_reaches_zero():
    null = np.array([1.0, -2.0, 0.5, -0.5])
    assert compare_with_null(3.0, null)["p"] == pytest.approx(1 / 10)
    assert compare_with_null(1.5, null)["p"] == pytest.approx(2 / 10)
    assert compare_with_null(3.0, null)["range"] == [-2.0, 1.0]
    assert compare_with_null(3.0, null)["z"] == pytest.approx(3 / np.sqrt((1 + 4 + 0.25 + 0.25) / 4))


def test_questions_are_split_by_their_text_alone():
    questions = [f"What about {i}?" for i in range(60)]
    dev, test = split_questions(questions)
    assert not set(dev) & set(test)
    assert set(dev) | set(test) == set(questions)
    assert 12 <= len(dev) <= 36
    more_dev, more_test = split_questions([*reversed(questions), "One more?", "Two more?"])
    assert set(dev) <= set(more_dev)
    assert set(test) <= set(more_test)


def dataset_of(questions: list[str], used: Sequence[str] = ()) -> TraitDataset:
    items = tuple(Item("pos", i, i, 0, [{"role": "user", "content": q}]) for i, q in enumerate(used))
    return TraitDataset("a/b", "instructions", items, Rubric("a/b", "", ()), tuple(questions))


POOL = [f"Neutral question {i}?" for i in range(60)]


def test_questions_enough_are_the_traits_own_and_a_repeated_one_counts_once():
    questions = [f"What about {i}?" for i in range(60)]
    dev, test = split_questions(questions)
    for asked in (questions, questions + questions):
        found = choose_questions(dataset_of(asked), POOL)
        assert (found.dev, found.test, found.from_pool, found.note()) == (dev, test, {}, "")


def test_subset_keeps_the_first_of_each_part():
    questions = [f"What about {i}?" for i in range(60)]
    dev, test = split_questions(questions)
    found = choose_questions(dataset_of(questions), POOL, 5)
    assert (found.dev, found.test) == (dev[:5], test[:5])


@pytest.mark.parametrize("n", [0, 1, 5, 20])
def test_few_questions_are_filled_up_from_the_pool_and_it_is_said(n):
    questions = [f"What about {i}?" for i in range(n)]
    dev, test = split_questions(questions)
    found = choose_questions(dataset_of(questions), POOL)
    assert found.dev[: len(dev)] == dev
    assert found.test[: len(test)] == test
    assert min(len(found.dev), len(found.test)) == 12
    assert len(found.dev) - len(dev) == found.from_pool["dev"]
    assert len(found.test) - len(test) == found.from_pool["test"]
    assert not set(found.dev) & set(found.test)
    assert "neutral pool" in found.note()


def test_questions_that_extraction_used_are_left_out_and_named():
    questions = [f"What about {i}?" for i in range(60)]
    found = choose_questions(dataset_of(questions, [q.upper() for q in questions[:40]]), POOL)
    assert not set(found.dev + found.test) & set(questions[:40])
    assert found.left_out == questions[:40]
    assert "40 of its own were left out" in found.note()
    spared = choose_questions(dataset_of([], POOL[:5]), POOL)
    assert not set(spared.dev + spared.test) & set(POOL[:5])


def test_a_fresh_test_asks_what_no_test_has_seen():
    questions = [f"What about {i}?" for i in range(60)]
    first = choose_questions(dataset_of(questions), POOL, fresh=15)
    second = choose_questions(dataset_of(questions), POOL, fresh=15, seen=[*questions, *first.test])
    assert first.dev == second.dev == split_questions(questions)[0]
    assert len(set(first.test) | set(second.test)) == 30
    assert first.from_pool == {"dev": 0, "test": 15}
    with pytest.raises(UserError, match="left that no test has seen"):
        choose_questions(dataset_of(questions), POOL, fresh=15, seen=[*first.test, *second.test])
    with pytest.raises(UserError, match="0 or more"):
        choose_questions(dataset_of(questions), POOL, fresh=-3)


def test_a_question_of_the_pool_is_never_both_dev_and_test_whatever_is_asked():
    few, none = dataset_of(["What about it?"]), dataset_of([])
    runs = [
        choose_questions(d, POOL, subset, fresh) for d in (few, none) for subset in (0, 6) for fresh in (0, 9)
    ]
    dev, test = {q for r in runs for q in r.dev}, {q for r in runs for q in r.test}
    assert not dev & test


def test_benjamini_hochberg_worked_by_hand():
    # of five: 0.01·5/1, 0.02·5/2, 0.03·5/3, 0.2·5/4, 0.9·5/5, none above one that follows it
    expected = [0.25, 0.05, None, 0.9, 0.05, 0.05]
    assert benjamini_hochberg([0.2, 0.01, None, 0.9, 0.03, 0.02]) == pytest.approx(expected)
    assert benjamini_hochberg([None, None]) == [None, None]
    assert benjamini_hochberg([0.4, 1.0, 1.0]) == [1.0, 1.0, 1.0]


def test_benjamini_hochberg_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        p = rng.choice([rng.random(), 0.5, 1.0], 12) * rng.random(12).round(2)
        ranks = np.array([(p <= value).sum() for value in p])
        # the adjusted p: the least level at which a hypothesis with this p, or one above it, is rejected
        adjusted = [min(1.0, (p[p >= value] * len(p) / ranks[p >= value]).min()) for value in p]
        np.testing.assert_allclose(benjamini_hochberg(p.tolist()), adjusted, atol=1e-12)
