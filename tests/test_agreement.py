"""Do two judges agree? Planted agreement and disagreement, and the command line."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import call_with, copy_trait
from judge_server import JudgeServer

from traitscope.analysis import judge_agreement
from traitscope.analysis.judging.agreement import band_confusion, compare_scores, kappa
from traitscope.analysis.judging.labels import read_labels
from traitscope.analysis.judging.texts import StoredText, pooled, take_sample
from traitscope.extraction import run_pipeline
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Answer, Score
from traitscope.utils.records.verdict import write_texts

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(0, 100, 200)
GROUPS = np.arange(200) // 2


def test_a_judge_agrees_with_itself():
    same = compare_scores(SCORES, SCORES, GROUPS, 40, 60)
    assert [same[k]["value"] for k in ("rank_correlation", "mean_difference", "same_band", "kappa")] == [
        1,
        0,
        1,
        1,
    ]


def test_a_shift_is_a_mean_difference_and_no_loss_of_rank():
    shifted = compare_scores(SCORES * 0.8 + 15, SCORES * 0.8, GROUPS, 40, 60)
    assert shifted["rank_correlation"]["value"] == 1
    assert shifted["mean_difference"] == {"value": 15, "low": 15, "high": 15}
    assert shifted["kappa"]["value"] < 0.8


def test_noise_has_no_correlation_and_no_kappa_and_intervals_say_so():
    noise = compare_scores(SCORES, RNG.permutation(SCORES), GROUPS, 40, 60)
    for name in ("rank_correlation", "kappa"):
        assert noise[name]["low"] < 0 < noise[name]["high"]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.normal(50, 10, 80)
        found = compare_scores(
            np.clip(truth + 5 + rng.normal(0, 8, 80), 0, 100),
            np.clip(truth, 0, 100),
            np.arange(80),
            40,
            60,
            draws=300,
        )["mean_difference"]
        hits += found["low"] <= 5 <= found["high"]
    assert hits >= 52  # 95 % of 60 is 57


def test_texts_that_one_judge_could_not_score_are_counted_and_left_out():
    gaps = SCORES.copy()
    gaps[:50] = np.nan
    found = compare_scores(gaps, SCORES, GROUPS, 40, 60)
    assert (found["n"], found["n_asked"]) == (150, 200)
    assert np.sum(found["confusion"]["counts"]) == 150
    assert compare_scores(np.full(5, np.nan), np.ones(5), np.arange(5), 40, 60)["kappa"] is None


def test_a_judge_with_one_score_for_all_has_no_rank_correlation():
    assert compare_scores(np.full(200, 50.0), SCORES, GROUPS, 40, 60)["rank_correlation"] is None


def test_the_thresholds_belong_to_the_passing_bands():
    assert band_confusion(np.array([40.0, 60.0, 41.0]), np.array([40.0, 60.0, 59.0]), 40, 60).tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]
    assert kappa(np.diag([5, 0, 0])) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b\n1,2\n", "no column 'trait'"),
        ("trait,key,score\nx/y,k,often\n", "line 2"),
        ("trait,key,score\nx/y,k,101\n", "0 to 100"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, text, match):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=match):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(UserError, match="cannot read"):
        read_labels(tmp_path / "none.csv")


TRAIT = {"experiment": "demo", "traits": ("epistemic/optimism",), "judge": "embedded"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, tiny_folders) -> Path:
    """A root in which stage 1 has run, of a tiny model on a few pairs."""
    root = tmp_path_factory.mktemp("agreement")
    copy_trait(root, "epistemic/optimism", 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(root))
        call_with(run_pipeline, **TRAIT, model=tiny_folders["llama"], stages="1", max_new_tokens=8)
    return root


@pytest.fixture
def compare(experiment, monkeypatch, capsys):
    """Run the command in that root, and return what it prints."""
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(experiment))

    def run(**flags) -> str:
        capsys.readouterr()
        call_with(judge_agreement, **TRAIT, **flags)
        return capsys.readouterr().out

    return run


def test_the_command_compares_two_judges_and_stores_what_it_says(compare, experiment, tmp_path, monkeypatch):
    with JudgeServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.key)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("TRAITSCOPE_CACHE", str(tmp_path))
        said = compare(against="openai")
    assert "epistemic/optimism: embedded against openai, 20 of 20 texts scored by both" in said
    stored = json.loads(next(experiment.rglob("embedded__vs__openai.json")).read_text())
    assert stored["second"]["mode"] == "openai:gpt-4.1-mini/logprobs"
    assert stored["second"]["usage"]["calls"] == 21
    assert np.sum(stored["confusion"]["counts"]) == 20


def test_hand_labels_are_written_filled_in_and_compared(compare, tmp_path):
    file = tmp_path / "labels.csv"
    assert f"8 texts to label: {file}" in compare(write_labels=file, sample=8)
    table = pd.read_csv(file)
    assert len(table) == 8
    assert sorted(table["key"].str.split(":").str[0]) == ["neg"] * 4 + ["pos"] * 4
    with pytest.raises(UserError, match="has no score"):
        compare(labels=file)
    table["score"] = [90 if key.startswith("pos") else 10 for key in table["key"]]
    table.to_csv(file, index=False)
    assert "8 of 20 texts scored by both" in compare(labels=file)


def test_a_comparison_with_nothing_to_compare_with_is_one_line(compare):
    with pytest.raises(UserError, match="pass one of --against JUDGE, --labels FILE and --write-labels FILE"):
        compare()


ARMS = ("unsteered", "vector plus", "vector minus", "random 0 plus", "random 0 minus", "random 1 plus")
POOLED = ("unsteered", "vector plus", "vector minus", "random")


@pytest.fixture
def steered(experiment, monkeypatch) -> TraitPaths:
    """The same root with stage 5's texts: every arm's answer to 12 questions."""
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(experiment))
    paths = TraitPaths("demo", TRAIT["traits"][0])
    given = Score(50.0).as_json()
    rows = [
        {
            "arm": arm,
            "question": f"Question {i}?",
            "response": f"{arm} {i}",
            "trait": given,
            "coherence": None,
        }
        for arm in ARMS
        for i in range(12)
    ]
    write_texts(paths, {"test": rows}, {})
    return paths


def test_on_steered_texts_every_arm_has_its_own_figures(compare, steered, experiment, monkeypatch):
    """Two judges that agree on all arms but the plus arm, where one says the opposite."""

    def read_number(name: str):
        def judge(_options, _dataset, rows, _paths):
            values = [8.0 * int(r.answer.response.split()[-1]) for r in rows]
            turned = [
                100 - v if name != "embedded" and r.arm == "vector plus" else v
                for r, v in zip(rows, values, strict=True)
            ]
            return np.array(turned), {"judge": name}

        return judge

    monkeypatch.setattr(
        judge_agreement, "_judge", lambda options, *rest: read_number(options.judge)(options, *rest)
    )
    said = compare(against="other", texts="steering")
    stored = json.loads(next(experiment.rglob("embedded__vs__other__steering.json")).read_text())
    assert list(stored["arms"]) == [*POOLED]
    assert [stored["arms"][arm]["n"] for arm in POOLED] == [12, 12, 12, 36]
    assert [stored["arms"][arm]["rank_correlation"]["value"] for arm in POOLED] == [1, -1, 1, 1]
    assert stored["arms"]["vector plus"]["kappa"]["high"] < 0.3 < stored["arms"]["random"]["kappa"]["low"]
    assert stored["n"] == 72
    assert "  vector plus               kappa -" in said


def test_an_arms_interval_is_over_questions_and_not_over_the_texts_of_one(steered):
    """Three random arms that say the same thing are no more evidence than one."""
    rng = np.random.default_rng(1)
    first, second = rng.uniform(0, 100, (2, 30))
    groups = np.arange(30)
    once = compare_scores(first, second, groups, 40, 60)["kappa"]
    thrice = compare_scores(np.tile(first, 3), np.tile(second, 3), np.tile(groups, 3), 40, 60)["kappa"]
    assert thrice["high"] - thrice["low"] == pytest.approx(once["high"] - once["low"], rel=0.1)


def test_steered_texts_are_labelled_by_hand_too(compare, steered, tmp_path):
    file = tmp_path / "steered.csv"
    assert "9 texts to label" in compare(write_labels=file, texts="steering", sample=9)
    keys = pd.read_csv(file)["key"]
    assert sorted(pooled(key.split(":")[0]) for key in keys) == sorted([*POOLED, *POOLED, "unsteered"])


def test_a_sample_takes_all_of_an_arm_that_has_too_few():
    texts = [StoredText(f"{a}{i}", a, i, Answer("", "")) for a, n in (("a", 2), ("b", 9)) for i in range(n)]
    assert [t.arm for t in take_sample(texts, 8)] == ["a"] * 2 + ["b"] * 4
    assert take_sample(texts, 0) == take_sample(texts, 11) == texts
