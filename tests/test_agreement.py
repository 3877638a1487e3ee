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
from traitscope.extraction import run_pipeline
from traitscope.utils.errors import UserError

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
