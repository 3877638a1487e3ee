"""Rollouts on a tiny model: which rows are written, what they depend on, and what their tables say."""

import errno
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import N_LAYERS, call, copy_trait, write_dataset

from traitscope.extraction import run_pipeline
from traitscope.inference import roll_out
from traitscope.inference.rolling import classifier, scoring, writing
from traitscope.inference.rolling.classifier import Classifier, Labelled, own_examples
from traitscope.inference.rolling.tables import per_variant
from traitscope.inference.rolling.variants import ArmOptions, Variant, list_variants
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Answer, Score
from traitscope.utils.measures.intervals import mean_interval
from traitscope.utils.model.encode import text_of
from traitscope.utils.records.choice import best_of
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.questions import choose_questions, read_pool
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.rollouts import SCORES, read_rollouts
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.vectors import read_vector, write_vector
from traitscope.utils.stage.layers import usual_layer
from traitscope.utils.sync.travel import scan

TRAIT, OTHER = "epistemic/optimism", "behavioral/formality"
WORLD = ["--experiment", "e", "--traits", TRAIT]
FEW = ["--limit", "3", "--max-new-tokens", "6", "--rollouts", "2"]
PLAIN = ["--arms", "plain", *FEW]
ARMS = ["--arms", "plain,prompted,mean_diff", "--doses", "-0.3,0.3", *FEW]
SMALL = ["--max-new-tokens", "6", "--min-usable", "2", "--methods", "mean_diff,probe", "--no-steering"]
VETTED = ["--judge", "embedded", "--pos-threshold", "0", "--neg-threshold", "100"]  # all of it passes
LAYER = usual_layer(N_LAYERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    """Two traits with vectors of a tiny model."""
    folder = tmp_path_factory.mktemp("rollouts")
    for trait in (TRAIT, OTHER):
        copy_trait(folder, trait, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        model = ["--model", tiny_folders["llama"]]
        both = ["--traits", f"{TRAIT},{OTHER}"]
        call(run_pipeline, "--experiment", "e", *both, *model, *SMALL, *VETTED)
    return folder


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def paths(root) -> TraitPaths:
    return TraitPaths("e", TRAIT, root)


def rows_of(paths: TraitPaths) -> pd.DataFrame:
    return read_rollouts(paths).rows.to_pandas()


def texts_of(paths: TraitPaths) -> dict:
    rows = rows_of(paths)
    return dict(zip(rows["key"], rows["response"], strict=True))


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """How many rows every generate call was given."""
    calls: list[int] = []
    generate = writing.generate

    def count(lm, rows, *arguments):
        calls.append(len(rows))
        return generate(lm, rows, *arguments)

    monkeypatch.setattr(writing, "generate", count)
    return calls


def test_a_row_of_every_arm_question_and_rollout(paths, capsys):
    call(roll_out, *WORLD, *ARMS)
    rows = rows_of(paths)
    assert list(rows.groupby("variant", sort=False).size().items()) == [
        ("plain", 6),
        ("prompted 0", 6),
        (f"mean_diff layer {LAYER} dose -0.3", 6),
        (f"mean_diff layer {LAYER} dose +0.3", 6),
    ]
    assert rows["trait_score"].isna().all()
    assert rows["trait_state"].isna().all()
    assert "24 texts (24 new) of 4 variants × 3 questions" in capsys.readouterr().out


def test_every_row_says_what_made_it(paths, llama):
    call(roll_out, *WORLD, *ARMS)
    rows = rows_of(paths)
    vector = read_vector(paths, ("mean_diff", LAYER))
    length = float(vector.tensor.norm())
    for row in rows[rows["arm"] == "mean_diff"].to_dict("records"):
        assert (row["layer"], row["vector"], row["norm"]) == (LAYER, vector.sha256, pytest.approx(length))
        assert row["coefficient"] * length == pytest.approx(row["dose"] * vector.mean_norm, rel=1e-5)
    for row in read_rollouts(paths).rows.to_pylist():
        assert row["response"] == llama.tokenizer.decode(row["response_ids"], skip_special_tokens=True)
        assert row["words"] == len(row["response"].split())
        assert (row["system_prompt_text"] is not None) == (row["arm"] == "prompted")
    assert rows.groupby(["question", "rollout"])["seed"].nunique().eq(1).all()  # the same in every arm
    assert rows["seed"].nunique() == 6
    assert rows["key"].is_unique


def test_a_push_and_a_prompt_reach_the_model(paths):
    hard = ["--arms", "plain,prompted,mean_diff", "--doses", "-3,3", "--limit", "3", "--max-new-tokens", "24"]
    call(roll_out, *WORLD, *hard)
    rows = rows_of(paths)
    texts = [part["response"].tolist() for _, part in rows.groupby("variant", sort=False)]
    assert all(a != b for i, a in enumerate(texts) for b in texts[:i])
    told = rows[rows["arm"] == "prompted"]["prompt_ids"].map(len).min()
    assert told > rows[rows["arm"] != "prompted"]["prompt_ids"].map(len).max()


def test_a_text_depends_neither_on_its_batch_nor_on_its_order(paths, root, tmp_path, monkeypatch):
    call(roll_out, *WORLD, *ARMS)
    shutil.copytree(root, tmp_path / "again")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "again"))
    again = TraitPaths("e", TRAIT, tmp_path / "again")
    shutil.rmtree(again.rollouts)

    other = [*ARMS, "--batch-size", "1", "--arms", "mean_diff,plain,prompted", "--doses", "0.3,-0.3"]
    call(roll_out, *WORLD, *other)
    assert texts_of(again) == texts_of(paths)
    assert list(texts_of(again)) != list(texts_of(paths))


def test_a_rerun_generates_nothing_and_loads_no_model(paths, monkeypatch):
    call(roll_out, *WORLD, *ARMS)
    before = paths.rollout_rows.read_bytes()
    monkeypatch.setattr(roll_out, "load_lm", lambda _: pytest.fail("the model is loaded"))
    call(roll_out, *WORLD, *ARMS)
    call(roll_out, *WORLD)
    assert paths.rollout_rows.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "new"),
    [
        (["--arms", "plain,probe,prompted,mean_diff"], 12),
        (["--rollouts", "3"], 12),
        (["--doses", "-0.3,0.3,0.5"], 6),
        (["--limit", "4"], 8),
        (["--arms", "plain"], 0),
    ],
)
def test_what_is_added_is_all_that_is_generated(paths, counted, more, new):
    call(roll_out, *WORLD, *ARMS)
    before = texts_of(paths)
    counted.clear()
    call(roll_out, *WORLD, *ARMS, *more)
    assert sum(counted) == new
    assert before.items() <= texts_of(paths).items()
    assert len(texts_of(paths)) == 24 + new


class KilledError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("batches", [1, 4, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(paths, root, tmp_path, monkeypatch, batches):
    monkeypatch.setattr(writing, "CHUNK", 10)
    small = [*ARMS, "--batch-size", "4"]
    shutil.copytree(root, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "whole"))
        call(roll_out, *WORLD, *small)

    add, left = Journal.add, [batches]

    def add_until_killed(self, key, answer):
        add(self, key, answer)
        left[0] -= 1
        if not left[0]:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add_until_killed)
        with pytest.raises(KilledError):
            call(roll_out, *WORLD, *small)

    assert read_rollouts(paths).rows.num_rows == (10 if batches > 3 else 0)
    call(roll_out, *WORLD, *small)
    whole = TraitPaths("e", TRAIT, tmp_path / "whole")
    assert paths.rollout_rows.read_bytes() == whole.rollout_rows.read_bytes()
    assert not paths.rollouts_journal.exists()


def give_vector(paths: TraitPaths, values: torch.Tensor) -> None:
    """Write a vector of the method `given` that no fit vouches for."""
    about = read_vector(paths, ("mean_diff", LAYER)).about.model_dump()
    left_out = ("trait", "method", "layer", "sha256", "activations_sha256")
    own = {name: value for name, value in about.items() if name not in left_out}
    write_vector(paths, ("given", LAYER), values, own | {"norm": float(values.nan_to_num().norm())})


def test_rows_of_another_vector_or_model_are_replaced_and_that_is_said(paths, counted, capsys, tiny_folders):
    given = [*ARMS, "--arms", "given"]
    give_vector(paths, torch.randn(32))
    call(roll_out, *WORLD, *given)
    call(roll_out, *WORLD, *ARMS, "--arms", "plain")
    before = texts_of(paths)
    give_vector(paths, torch.randn(32))

    counted.clear()
    call(roll_out, *WORLD, "--arms", "plain,given", "--doses", "0.3", *FEW)
    assert sum(counted) == 6
    assert "12 rows of another model, vector or sampling are replaced" in capsys.readouterr().out
    assert len(before.keys() & texts_of(paths).keys()) == 6  # plain
    assert len(texts_of(paths)) == 12  # the dose −0.3 was of the older vector

    call(roll_out, *WORLD, *PLAIN, "--model", tiny_folders["sibling"])
    assert set(rows_of(paths)["arm"]) == {"plain"}
    assert not before.keys() & texts_of(paths).keys()


def variants_of(paths: TraitPaths, **options) -> dict[str, Variant]:
    found = list_variants(paths, read_trait(paths), ArmOptions(**options))
    return {variant.name: variant for variant in found}


def test_opposite_doses_are_opposite_pushes(paths):
    found = variants_of(paths, arms=("mean_diff", "probe"), layers="all")
    assert len(found) == 2 * N_LAYERS * 4
    for name, variant in found.items():
        other = found[name.replace("+", "~").replace("-", "+").replace("~", "-")]
        assert other is not variant
        pushed, back = (v.push.coefficient * v.push.vector for v in (variant, other))
        assert torch.equal(pushed, -back)


def test_a_matched_vector_has_the_length_of_the_other(paths):
    found = variants_of(paths, arms=("probe",), match_norm="mean_diff", coefficients=(-1.0, 0.5))
    length = float(read_vector(paths, ("mean_diff", LAYER)).tensor.norm())
    probe = read_vector(paths, ("probe", LAYER))
    less, more = (found[f"probe layer {LAYER} times {c:+g} × ‖mean_diff‖"].push for c in (-1.0, 0.5))
    assert float((less.coefficient * less.vector).norm()) == pytest.approx(length)
    assert float((more.coefficient * more.vector).norm()) == pytest.approx(length / 2)
    assert float(less.coefficient * less.vector @ probe.tensor) < 0 < float(more.coefficient)


def test_the_best_layer_and_a_shared_layer_can_be_named(paths):
    [best] = {v.vector.layer for v in variants_of(paths, arms=("probe",), layers="best").values()}
    assert best == best_of(paths)[0][1]
    assert {v.push.layer for v in variants_of(paths, arms=("probe",), layers="1,3").values()} == {1, 3}


def test_system_prompts_are_put_before_steered_arms_only_where_they_are_named(paths):
    def told(**options) -> dict[str, str]:
        found = variants_of(paths, arms=("plain", "prompted", "mean_diff"), doses=(0.1,), **options)
        return {name: v.told.text for name, v in found.items() if v.told.text}

    asked = read_trait(paths).ask_for(1)
    assert told() == told(system_prompts="all", no_system_when_steered=True) == {"prompted 0": asked}
    steered = f"mean_diff layer {LAYER} dose +0.1, prompted 0"
    assert told(system_prompts="0") == {"prompted 0": asked, steered: asked}
    assert variants_of(paths, arms=("prompted_neg",))["prompted_neg 0"].told.text == read_trait(
        paths
    ).ask_for(-1)


def test_a_trait_of_instructions_is_told_in_its_own_words(root):
    instructions = {
        "instruction": [{"pos": "Be sunny.", "neg": "Be grim."}, {"pos": "Hope.", "neg": "Despair."}],
        "questions": ["How are you?", "What is new?"],
        "eval_prompt": "Is {answer} sunny? {question}",
    }
    write_dataset(root / "datasets/traits/mood/sunny", {"trait_definition.json": instructions})
    found = variants_of(TraitPaths("e", "mood/sunny", root), arms=("prompted", "prompted_neg"))
    assert {name: v.told.text for name, v in found.items()} == {
        "prompted 0": "Be sunny.",
        "prompted 1": "Hope.",
        "prompted_neg 0": "Be grim.",
        "prompted_neg 1": "Despair.",
    }


def test_only_questions_that_no_vector_was_found_with_are_asked(paths, tmp_path, capsys):
    dataset = read_trait(paths)
    used = text_of(dataset.items[0].prompt)
    (tmp_path / "own.txt").write_text(f"{used}\nWhat of the tide?\n\n")
    call(roll_out, *WORLD, "--arms", "plain", "--questions", str(tmp_path / "own.txt"), "--rollouts", "1")
    assert set(rows_of(paths)["question"]) == {"What of the tide?"}
    assert "1 questions were left out" in capsys.readouterr().out

    reserved = choose_questions(dataset, read_pool(paths.root)).test
    call(roll_out, *WORLD, *PLAIN)
    assert set(rows_of(paths)["question"]) - {"What of the tide?"} == set(reserved[:3])


@dataclass
class Scripted:
    """A judge that says what it is told to, by the arm that wrote a text."""

    paths: TraitPaths
    says: dict[str, float] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)  # arm → why there is no score
    asked: list[str] = field(default_factory=list)
    usage = None

    @property
    def identity(self) -> dict:
        return {"judge": "scripted"}

    def score_responses(self, answers: list[Answer]) -> list[Score]:
        rows = rows_of(self.paths)
        open_rows = rows[rows["trait_state"].isna() | (rows["trait_state"] == "error")]
        asked = open_rows if len(open_rows) else rows  # in their order: arms may write the same text
        found = asked["arm"].tolist()
        assert [a.response for a in answers] == asked["response"].tolist()
        self.asked += found
        return [
            Score(None, self.states[arm]) if arm in self.states else Score(self.says.get(arm, 20.0))
            for arm in found
        ]

    def coherence(self, lm, own):
        return SimpleNamespace(
            identity={"judge": "scripted"}, score=lambda texts: [Score(90.0) for _ in texts]
        )


@pytest.fixture
def judge(paths, monkeypatch) -> Scripted:
    found = Scripted(paths)
    monkeypatch.setattr(scoring, "load_judge", lambda *_: found)
    return found


def variants_table(paths: TraitPaths) -> pd.DataFrame:
    return pd.read_parquet(paths.rollouts_table("variants.parquet")).set_index("variant")


def test_a_planted_trait_shows_in_the_table_with_its_interval(paths, judge, capsys):
    judge.says = {"prompted": 60.0, "mean_diff": 45.0}
    call(roll_out, *WORLD, *ARMS, "--score", "judge,coherence")
    table = variants_table(paths)
    assert table.loc["plain", "trait"] == 20
    assert table.loc["plain", "trait_difference_n"] == 0
    assert table.loc["prompted 0", ["trait", "trait_difference", "coherence"]].tolist() == [60, 40, 90]
    steered = table.loc[f"mean_diff layer {LAYER} dose +0.3"]
    assert steered[["trait_difference", "trait_difference_n", "questions", "rows"]].tolist() == [25, 3, 3, 6]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "plain 20.0; prompted 0: +40.0 [+40.0, +40.0], coherence 90; mean_diff" in said
    assert pd.read_csv(paths.rollouts_table("variants.csv"))["variant"].tolist() == table.index.tolist()
    assert paths.rollouts_figure.read_bytes().startswith(b"\x89PNG")


def scored_rows(variants: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return rows with trait scores [questions, rollouts]."""
    return pd.DataFrame(
        {
            **dict.fromkeys(["arm", "method", "layer", "dose", "coefficient", "norm", "system_prompt"]),
            "variant": name,
            "question": f"q{i}",
            "rollout": j,
            "words": 5,
            "is_finished": True,
            **{f"{kind}_score": np.nan for kind in SCORES},
            **dict.fromkeys([f"{kind}_state" for kind in SCORES]),
            "trait_score": score,
            "trait_state": None if np.isnan(score) else "scored",
        }
        for name, scores in variants.items()
        for i, row in enumerate(scores)
        for j, score in enumerate(row)
    )


def test_further_rollouts_of_the_same_questions_do_not_narrow_the_interval_by_being_counted():
    draw = np.random.default_rng(0)
    plain, steered = draw.normal(40, 10, (8, 2)), draw.normal(60, 10, (8, 2))
    once = per_variant(scored_rows({"plain": plain, "v": steered}))
    twice = per_variant(scored_rows({"plain": np.tile(plain, 4), "v": np.tile(steered, 4)}))
    names = [f"trait{what}{end}" for what in ("", "_difference") for end in ("", "_low", "_high", "_n")]
    assert twice["rows"].tolist() == [64, 64]
    np.testing.assert_allclose(once[names].astype(float), twice[names].astype(float))

    mean, low, high = mean_interval((steered - plain).mean(1))
    found = once.set_index("variant").loc["v"]
    assert found[["trait_difference", "trait_difference_low", "trait_difference_high"]].tolist() == (
        pytest.approx([mean, low, high])
    )


def test_no_interval_leaves_the_scale_of_scores():
    """Few and skewed scores have intervals beyond 100 points, where no mean can be."""
    plain, steered = (
        np.array([[95.0], [99], [100], [2], [98]]),
        np.array([[100.0], [100], [100], [100], [99]]),
    )
    assert mean_interval(plain.mean(1))[2] > 100
    table = per_variant(scored_rows({"plain": plain, "v": steered}))
    assert table["trait_high"].max() <= 100
    assert table["trait_low"].min() >= 0
    assert table["trait_difference_high"].max() <= 100


def test_the_odd_part_is_half_of_what_a_push_and_its_opposite_differ_by_and_no_damage():
    """Both signs cost 20 points; the sign itself makes 10."""
    plain = np.array([[50.0], [60], [70]])
    rows = scored_rows({"plain": plain, "up": plain - 20 + 10, "down": plain - 20 - 10, "alone": plain})
    places = {"up": ("v", 3, 0.5), "down": ("v", 3, -0.5), "alone": ("v", 4, 0.5)}
    for name, place in places.items():
        rows.loc[rows["variant"] == name, ["arm", "layer", "coefficient"]] = place
    found = per_variant(rows).set_index("variant")
    assert found.loc["up", ["trait_odd", "trait_odd_low", "trait_odd_high"]].tolist() == [10, 10, 10]
    assert found.loc["up", "trait_difference"] == -10
    assert found.loc[["plain", "down", "alone"], "trait_odd"].isna().all()


def test_questions_are_paired_where_both_are_scored():
    plain, steered = np.array([[10.0], [20.0], [np.nan]]), np.array([[15.0], [np.nan], [90.0]])
    found = per_variant(scored_rows({"plain": plain, "v": steered})).set_index("variant").loc["v"]
    assert found[["trait_difference", "trait_difference_n", "trait", "trait_n"]].tolist() == [5, 1, 52.5, 2]


def test_what_could_not_be_scored_is_counted_and_never_0(paths, judge):
    judge.says, judge.states = {"prompted": 60.0}, {"plain": "refused", "mean_diff": "unparsable"}
    call(roll_out, *WORLD, *ARMS, "--score", "judge", "--max-unjudged", "1")
    rows, table = rows_of(paths), variants_table(paths)
    assert rows["trait_score"].dropna().tolist() == [60.0] * 6
    counts = table[[f"trait_{state}" for state in ("scored", "refused", "unscored", "unasked")]]
    assert counts.iloc[:3].to_numpy().tolist() == [[0, 6, 0, 0], [6, 0, 0, 0], [0, 0, 6, 0]]
    assert table.loc["plain", ["trait", "trait_low"]].isna().all()
    assert table["coherence_unasked"].tolist() == [6] * 4


def test_a_judge_is_asked_only_for_what_it_has_not_said(paths, judge, monkeypatch):
    judge.states = {"mean_diff": "error", "prompted": "refused"}
    call(roll_out, *WORLD, *ARMS, "--score", "judge", "--max-unjudged", "1")
    monkeypatch.setattr(roll_out, "load_lm", lambda _: pytest.fail("the model is loaded"))
    assert len(judge.asked) == 24

    judge.asked, judge.states = [], {}
    call(roll_out, *WORLD, "--score", "judge")
    assert judge.asked == ["mean_diff"] * 12
    call(roll_out, *WORLD, "--score", "judge")
    assert len(judge.asked) == 12
    call(roll_out, *WORLD, "--score", "judge", "--judge", "local:another")
    assert len(judge.asked) == 12 + 24


def test_a_judge_that_loses_too_many_says_so_and_keeps_the_rest(paths, judge):
    judge.states = {"plain": "error"}
    with pytest.raises(UserError, match="6 of 24 texts could not be judged"):
        call(roll_out, *WORLD, *ARMS, "--score", "judge")
    assert rows_of(paths)["trait_score"].count() == 18
    assert variants_table(paths)["trait_scored"].tolist() == [0, 6, 6, 6]


def test_the_classifier_never_sees_a_question_that_was_rolled_out(paths):
    responses = read_responses(paths)
    asked = [text_of(responses[0].prompt), "What of the tide?"]
    everything = own_examples(paths, Thresholds(0, 100), [])
    left = own_examples(paths, Thresholds(0, 100), [f" {asked[0].upper()} "])
    gone = [r for r in responses if text_of(r.prompt) == asked[0] and r.response.strip()]
    assert len(everything) - len(left) == len(gone) > 0
    assert not {r.group for r in gone} & {e.group for e in left if e.side == gone[0].side}


def test_the_classifier_scores_texts_and_says_how_good_it_is(paths, monkeypatch):
    call(roll_out, *WORLD, *PLAIN, "--score", "classifier")
    found = read_rollouts(paths)
    [identity] = found.scored_by.values()
    assert (
        0 <= identity["held_out_auroc_low"] <= identity["held_out_auroc"] <= identity["held_out_auroc_high"]
    )
    assert all(0 < score < 100 for score in found.column("classifier_score") if score is not None)
    assert variants_table(paths)["classifier_n"].tolist() == [3]
    monkeypatch.setattr(classifier, "Classifier", lambda *_: pytest.fail("it is fitted again"))
    call(roll_out, *WORLD, "--score", "classifier")


SUNNY = ["What a bright day", "Joy is everywhere", "We shall surely win", "The best is to come"]
GRIM = ["All is lost", "Nothing will grow", "We shall surely fail", "The worst is to come"]


def test_a_classifier_tells_what_can_be_told_and_says_where_it_is_at_chance(capsys):
    texts = [(side, i, text) for side, own in (("pos", SUNNY), ("neg", GRIM)) for i, text in enumerate(own)]
    able = [
        Labelled(side, 4 * j + i, f"{text}, {who}.")
        for side, i, text in texts
        for j, who in enumerate(("said the man", "the baker thought", "as we walked"))
    ]
    good = Classifier(TRAIT, able)
    assert good.identity["held_out_auroc"] > 0.8
    assert good.score(["A bright and joyful day."])[0].value > good.score(["All is grim and lost."])[0].value
    assert good.score([" "])[0].value is None
    assert "at chance" not in capsys.readouterr().out

    blind = [Labelled("pos" if i % 2 else "neg", i, f"The number {i} is a number.") for i in range(24)]
    assert Classifier(TRAIT, blind).identity["is_at_chance"]
    assert "the classifier is at chance" in capsys.readouterr().out
    with pytest.raises(UserError, match="the classifier has 1 pos and 3 neg responses"):
        Classifier(TRAIT, [able[0], *able[-3:]])


def test_coherence_is_calibrated_on_plain_texts_which_must_be_there(paths):
    call(roll_out, *WORLD, "--arms", "prompted", *FEW)
    with pytest.raises(UserError, match="coherence is calibrated on plain texts; roll out --arms plain too"):
        call(roll_out, *WORLD, "--score", "coherence")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arms", "plain,trained_nll"], "no vector of 'trained_nll' in e; there are mean_diff, probe"),
        (["--arms", "mean_diff", "--layers", "99"], "no layer 99; the model has layers 0 to 3"),
        (["--arms", "mean_diff", "--match-norm", "ica"], "no vector of 'ica'"),
        (["--arms", "mean_diff", "--doses", "0,0.2"], "a push of 0 is the arm plain"),
        (["--arms", "mean_diff", "--doses", "nan"], "--doses expects numbers"),
        (["--arms", "prompted", "--system-prompts", "4"], "has the system prompts 0 to 0"),
        (["--arms", "plain", "--temperature", "0"], "raise it, or take --rollouts 1"),
        (["--arms", "plain", "--rollouts", "0"], "--rollouts and --max-new-tokens are 1 or more"),
        (["--arms", "plain", "--questions", "nowhere.txt"], "there is no such file"),
        (["--arms", "plain", "--limit", "-1"], "--limit is a number of questions"),
        (["--score", "taste"], "choose among judge, coherence, classifier"),
        (["--score", "judge"], "nothing was rolled out yet; name --arms"),
    ],
)
def test_what_means_nothing_is_one_line_and_writes_nothing(paths, flags, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        call(roll_out, *WORLD, *flags)
    assert len(str(caught.value).splitlines()) <= 2  # a heading, and a line for the trait
    assert not paths.rollout_rows.exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.randn(40), "is of width 40; the activations beside it are of width 32"),
        (torch.full((32,), torch.nan), "NaN|finite"),
    ],
)
def test_a_vector_that_is_none_costs_no_row(paths, values, said):
    call(roll_out, *WORLD, *ARMS)
    before = paths.rollout_rows.read_bytes()
    give_vector(paths, values)
    with pytest.raises(UserError, match=said):
        call(roll_out, *WORLD, *ARMS, "--arms", "given")
    assert paths.rollout_rows.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "about", "about gone"])
def test_damaged_rows_are_refused_in_a_line(paths, damage):
    call(roll_out, *WORLD, *PLAIN)
    data = bytearray(paths.rollout_rows.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "cut": lambda: paths.rollout_rows.write_bytes(data[:100]),
        "flipped": lambda: paths.rollout_rows.write_bytes(data),
        "gone": paths.rollout_rows.unlink,
        "about": lambda: paths.rollouts_about.write_text("{"),
        "about gone": paths.rollouts_about.unlink,
    }[damage]()
    with pytest.raises(UserError) as caught:
        call(roll_out, *WORLD, *PLAIN)
    assert str(paths.rollouts) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("writes", range(6))  # three batches, then what is known, the rows, what is known
def test_a_full_disk_loses_nothing(paths, monkeypatch, counted, writes):
    call(roll_out, *WORLD, *PLAIN)
    before, left = texts_of(paths), [writes]
    fsync = os.fsync

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            call(roll_out, *WORLD, *ARMS, "--batch-size", "6")

    assert len(texts_of(paths)) == (24 if writes == 5 else 6)
    assert before.items() <= texts_of(paths).items()
    assert not list(paths.rollouts.glob(".*.tmp"))
    counted.clear()
    call(roll_out, *WORLD, *ARMS, "--batch-size", "6")
    assert len(texts_of(paths)) == 24


def test_a_trait_that_fails_leaves_the_others_going(paths, root):
    with pytest.raises(UserError, match="1 of 2 traits failed"):
        call(roll_out, "--experiment", "e", "--traits", f"mood/nowhere,{TRAIT}", *PLAIN)
    assert read_rollouts(paths).rows.num_rows == 6


def test_two_processes_do_not_write_one_table(paths):
    with hold(paths.rollouts_lock, ""), pytest.raises(UserError, match="another process rolls out"):
        call(roll_out, *WORLD, *PLAIN)


def test_rollouts_travel_and_their_journals_do_not(paths, root):
    call(roll_out, *WORLD, *PLAIN)
    paths.rollouts_journal.write_text("")
    place = f"rollouts/{TRAIT}/"
    found = [name for name in scan(root / "experiments" / "e") if name.startswith(place)]
    names = ("about.json", "questions.csv", "questions.parquet", "rollouts.png", "rows.parquet")
    assert found == [f"{place}{name}" for name in (*names, "variants.csv", "variants.parquet")]
