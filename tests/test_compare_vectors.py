"""Vectors side by side: each cost is that of a plain pass, the baselines are what they say, and nulls stay nulls."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import N_LAYERS, call, copy_trait

from traitscope.analysis import compare_vectors
from traitscope.analysis.comparing import texts
from traitscope.analysis.comparing.arms import Pushes, draw_randoms, measure_arms, per_token
from traitscope.analysis.comparing.costs import Costs
from traitscope.analysis.comparing.texts import HeldOutTexts, held_out_texts
from traitscope.extraction import run_pipeline, train_vectors
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.model.anatomy import body_of
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.hooks import Push
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.records.activations import read_activations_about
from traitscope.utils.records.compared_vectors import read_compared
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.own_texts import Text
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.trained import read_training
from traitscope.utils.records.vectors import list_vectors, read_vector
from traitscope.utils.stage.layers import usual_layer

TRAIT, OTHER, TOLD = "epistemic/optimism", "behavioral/formality", "behavioral/refusal"
LAYER = usual_layer(N_LAYERS)
SMALL = ["--max-new-tokens", "6", "--no-vet", "--min-usable", "2", "--methods", "mean_diff,probe"]
QUICK = ["--no-vet", "--draws", "3", "--texts", "4", "--neutral-texts", "2"]


def texts_of(lm, count: int, seed: int = 0) -> list[Text]:
    """Return random texts of different lengths, two a group."""
    drawn = torch.Generator().manual_seed(seed)

    def some(n: int) -> list[int]:
        return torch.randint(5, 200, (n,), generator=drawn).tolist()

    return [Text(f"pos:{i}", "pos", i // 2, some(3 + i % 4), some(8 - i % 3)) for i in range(count)]


def plain_cost(lm, text: Text) -> float:
    """Return the mean −log p of a text's response tokens by one plain pass of the whole model."""
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([text.ids])).logits[0]
    start = len(text.prompt_ids)
    return float(torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(text.ids[start:])))


def written_under(lm, push: Push, count: int = 8) -> list[Text]:
    """Return texts that a model steered by a push wrote."""
    asked = [text.prompt_ids for text in texts_of(lm, count)]
    written = generate(lm, [Row(ids, i, (push,)) for i, ids in enumerate(asked)], Sampling(12))
    texts = [
        Text(f"t:{i}", "pos", i, ids, answer.ids)
        for i, (ids, answer) in enumerate(zip(asked, written, strict=True))
    ]
    return [text for text in texts if text.response_ids]


@pytest.fixture
def teacher(llama) -> tuple[torch.Tensor, list[Text]]:
    """A push at layer 1, [d_model], and what the model writes under it."""
    direction = torch.nn.functional.normalize(
        torch.randn(llama.d_model, generator=torch.Generator().manual_seed(3)), dim=0
    )
    push = 8 * direction
    return push, written_under(llama, Push(1, push))


def pushes_of(lm, vectors: dict[str, torch.Tensor], draws: int = 4) -> Pushes:
    activations = torch.randn(20, lm.d_model, generator=torch.Generator().manual_seed(5))
    return Pushes(1, vectors, draw_randoms(activations, list(vectors.values()), draws, 0))


def test_without_a_push_texts_cost_what_the_plain_model_says(lm):
    texts = texts_of(lm, 5)
    zero = torch.zeros(1, lm.d_model)
    found = Costs.at(lm, 1).surprise(texts, zero)[0]
    assert found == pytest.approx([plain_cost(lm, text) for text in texts], abs=1e-5)
    alone = [Costs.at(lm, 1).surprise([text], zero)[0, 0] for text in texts]
    assert found == pytest.approx(alone, abs=1e-5)
    assert np.abs(Costs.at(lm, 1).divergence(texts, zero)).max() < 1e-6


def test_a_push_of_its_own_costs_each_text_what_it_costs_among_all(llama):
    texts = texts_of(llama, 5)
    pushes = torch.randn(5, llama.d_model, generator=torch.Generator().manual_seed(1))
    costs = Costs.at(llama, 1)
    assert costs.surprise_each(texts, pushes) == pytest.approx(
        costs.surprise(texts, pushes).diagonal(), abs=1e-5
    )


def test_what_a_steered_model_wrote_is_likelier_under_its_push_and_less_under_the_opposite(llama, teacher):
    push, texts = teacher
    costs = Costs.at(llama, 1)
    plus, unsteered, minus = costs.surprise(texts, torch.stack([push, 0 * push, -push])).mean(1)
    assert plus < unsteered < minus
    assert (costs.divergence(texts, push[None]) > 0).all()


def test_noise_raises_the_loss_of_what_a_push_wrote_the_more_the_longer_it_is(llama, teacher):
    push, texts = teacher
    rows = measure_arms(
        Costs.at(llama, 1), HeldOutTexts(texts, [], [None] * len(texts), texts), pushes_of(llama, {"v": push})
    )
    losses = {row["arm"]: row.get("loss") for row in rows}
    assert losses["plus"] < losses["noise 0.25"] < losses["noise 0.5"] < losses["noise 1"]
    assert losses["plus"] < losses["unsteered"] < losses["minus"]


def test_every_arm_is_measured_against_the_unsteered_model_and_what_nobody_asked_is_null(llama):
    texts = texts_of(llama, 6)
    push = torch.full((llama.d_model,), 0.3)
    own = HeldOutTexts(texts, texts[:2], [None] * 6, [replace(t, key=t.key + "t") for t in texts])
    rows = {
        (r["side"], r["arm"]): r for r in measure_arms(Costs.at(llama, 1), own, pushes_of(llama, {"v": push}))
    }
    assert rows["pos", "prompted"]["n_texts"] == 0
    assert "loss" not in rows["pos", "prompted"]
    assert rows["pos", "unsteered"]["change"] == 0
    assert rows["pos", "told"]["change"] == pytest.approx(0, abs=1e-6)  # the same prompt: nothing was told

    plus, unsteered = rows["pos", "plus"], rows["pos", "unsteered"]
    tokens = sum(len(t.response_ids) for t in texts)
    by_token = sum(plain_cost(llama, t) * len(t.response_ids) for t in texts) / tokens
    assert unsteered["n_tokens"] == tokens
    assert unsteered["loss"] == pytest.approx(by_token, abs=1e-5)
    assert plus["perplexity"] == pytest.approx(np.exp(plus["loss"]))
    assert plus["change"] == pytest.approx(plus["loss"] - unsteered["loss"], abs=1e-6)
    assert plus["change_low"] < plus["change"] < plus["change_high"]
    random = rows["pos", "random"]
    assert random["loss_lowest"] < random["loss"] < random["loss_highest"]
    assert rows["neg", "plus"]["change_low"] is None  # of one group no interval follows
    assert ("neg", "random") not in rows


def test_a_mean_over_tokens_keeps_its_value_and_its_texts_weights():
    values, lengths = np.array([1.0, 2.0, 6.0]), np.array([1.0, 1.0, 2.0])
    assert per_token(values, lengths).mean() == pytest.approx(15 / 4)
    assert per_token(values, np.ones(3)) == pytest.approx(values)


def test_random_directions_are_fixed_by_their_seed_and_hold_no_vector():
    drawn = torch.Generator().manual_seed(0)
    activations, vectors = torch.randn(30, 16, generator=drawn), list(torch.randn(3, 16, generator=drawn))
    vectors.append(vectors[0] * 2)  # two methods that found the same
    first, again, other = (draw_randoms(activations, vectors, 5, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    assert (first @ torch.stack(vectors).T).abs().max() < 1e-5
    assert torch.allclose(first.norm(dim=-1), torch.ones(5))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    """Three traits with vectors of a tiny model, one of them of instructions; two methods of one are trained."""
    folder = tmp_path_factory.mktemp("compared")
    for trait in (TRAIT, OTHER):
        copy_trait(folder, trait, 16)
    _write_instructions(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        model = ["--model", tiny_folders["llama"]]
        traits = ["--experiment", "e", "--traits", f"{TRAIT},{OTHER},{TOLD}"]
        call(run_pipeline, *traits, *model, *SMALL, "--no-steering")
        quick = [
            "--steps",
            "5",
            "--seeds",
            "3",
            "--learning-rates",
            "0.1",
            "--no-vet",
            "--layers",
            f"{LAYER}",
        ]
        train = [train_vectors, "--experiment", "e", "--traits", TRAIT, *quick, "--max-new-tokens", "4"]
        call(*train, "--objective", "nll,delta")
    return folder


def _write_instructions(folder: Path) -> None:
    write_json(
        folder / "datasets" / "traits" / TOLD / "trait_definition.json",
        {
            "instruction": [
                {"pos": f"Refuse, in way {i}.", "neg": f"Help gladly, in way {i}."} for i in range(3)
            ],
            "questions": [
                f"What is the {word} thing?"
                for word in ["first", "second", "third", "fourth", "fifth", "sixth"]
            ],
            "eval_prompt": "How far does this refuse? {question} {answer}",
        },
        is_sealed=False,
    )


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def paths(root) -> TraitPaths:
    return TraitPaths("e", TRAIT, root)


def compare(*given: str, traits: str = TRAIT) -> None:
    call(compare_vectors, "--experiment", "e", "--traits", traits, *QUICK, *given)


def tables_of(paths: TraitPaths) -> dict[str, pd.DataFrame]:
    return read_compared(paths.compared_vectors, paths.trait)[1]


def test_every_method_stands_in_one_table_and_what_was_not_measured_is_null(paths, capfd):
    compare()
    assert re.search(
        r"\[compare_vectors\] .*4 vectors, .* held-out texts, loss .* → ", capfd.readouterr().out
    )
    tables = tables_of(paths)
    vectors = tables["vectors"].set_index("method")
    assert set(vectors.index) == {"mean_diff", "probe", "trained_nll", "prompt_delta"}
    assert (vectors["layer"] == LAYER).all()
    assert vectors["dose"].eq(0.2).all()
    assert vectors["push_norm"].nunique() == 1

    trained = ["learning_rate", "best_step", "validation_loss", "plain_loss", "seeds_cosine"]
    assert vectors.loc[["mean_diff", "probe", "prompt_delta"], trained].isna().all(axis=None)
    assert vectors.loc["trained_nll", trained].notna().all()
    record = read_training(paths, "trained_nll")
    kept = next(tried for tried in record.tried if tried.is_kept)
    assert vectors.loc["trained_nll", "validation_loss"] == kept.best_loss
    assert vectors.loc["trained_nll", "seeds_cosine"] == pytest.approx(
        np.mean(record.seeds_agree[str(LAYER)])
    )
    assert vectors.loc["trained_nll", "seeds"] == 3

    found = list_vectors(paths)
    for method, row in vectors.iterrows():
        vector = read_vector(paths, (method, LAYER))
        assert row["auroc"] == found[method, LAYER].val.auroc
        assert row["coefficient"] * row["norm"] == pytest.approx(row["push_norm"])
        assert row["norm_as_dose"] == pytest.approx(float(vector.tensor.norm()) / vector.mean_norm)
        assert row["efficiency"] == pytest.approx(-row["change"] / row["push_norm"])
        assert row["kl"] > 0
        assert row["kl_random_lowest"] <= row["kl_random"] <= row["kl_random_highest"]


def test_cosines_are_those_of_the_files_and_tables_are_the_same_in_both_formats(paths):
    compare()
    cosines = tables_of(paths)["cosines"]
    assert len(cosines) == 12
    for row in cosines.itertuples():
        a, b = (read_vector(paths, (m, LAYER)).tensor for m in (row.method, row.other))
        assert row.cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
    for name, table in tables_of(paths).items():
        text = pd.read_csv(paths.compared_vectors / f"{name}.csv")
        assert list(text) == list(table)
        assert len(text) == len(table)
    assert sorted(f.stem for f in paths.compared_vectors.glob("*.png")) == [
        f"cosines_layer{LAYER}",
        f"costs_layer{LAYER}",
    ]


def test_nothing_is_computed_again_until_a_vector_or_an_option_changes(paths, capfd):
    compare()
    before = {f.name: f.read_bytes() for f in paths.compared_vectors.iterdir()}
    compare()
    assert "up to date" in capfd.readouterr().out
    compare("--force")
    assert {f.name: f.read_bytes() for f in paths.compared_vectors.iterdir()} == before
    paths.training("trained_nll").unlink()
    compare("--dose", "0.1")
    assert "compare_dose 0.2 → 0.1" in capfd.readouterr().out
    assert tables_of(paths)["vectors"]["validation_loss"].isna().all()  # nothing says how it was trained


def test_a_method_without_a_vector_at_the_layer_is_named_with_those_it_has(paths, capfd):
    other = LAYER - 1
    compare("--layers", f"{other}")
    record, tables = read_compared(paths.compared_vectors, TRAIT)
    assert set(tables["vectors"]["method"]) == {"mean_diff", "probe", "prompt_delta"}
    assert f"trained_nll has no vector at layer {other}, but at {LAYER}" in record.notes
    compare("--methods", "mean_diff,trained_nll", "--layers", f"{other},{LAYER}")
    found = tables_of(paths)["vectors"]
    assert list(zip(found["method"], found["layer"], strict=True)) == [
        ("mean_diff", other),
        ("mean_diff", LAYER),
        ("trained_nll", LAYER),
    ]
    with pytest.raises(UserError):
        compare("--methods", "guess")
    assert "has no vector of guess; it has" in capfd.readouterr().err


def test_a_prompted_model_is_fed_the_instruction_and_an_unsteered_one_is_not(root, tiny_folders):
    paths = TraitPaths("e", TOLD, root)
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu"))
    texts = held_out_texts(paths, lm, read_activations_about(paths), None, 3)
    fed: list[list[int]] = []

    def note(_module, _inputs, named):
        fed.extend(named["input_ids"].tolist())

    handle = body_of(lm.model).register_forward_pre_hook(note, with_kwargs=True)
    try:
        vectors = {"mean_diff": read_vector(paths, ("mean_diff", LAYER)).tensor}
        measure_arms(Costs.at(lm, LAYER), texts, Pushes(LAYER, vectors, torch.eye(lm.d_model)[:2]))
    finally:
        handle.remove()

    prompts = {r.key: r.prompt for r in read_responses(paths)}
    wish = read_trait(paths).ask_for(1)
    assert len(texts.pos) >= 2
    for plain, prompted, told in zip(texts.pos, texts.prompted, texts.told, strict=True):
        instruction = prompts[plain.key.rpartition(":")[0]][0]
        assert instruction["role"] == "system"
        assert plain.response_ids == prompted.response_ids == told.response_ids
        for text, said in ((prompted, instruction["content"]), (told, wish)):
            read = [ids for ids in fed if ids[: len(text.ids)] == text.ids]
            assert read
            assert said in lm.tokenizer.decode(read[0])
        assert instruction["content"] not in lm.tokenizer.decode(plain.ids)
        assert wish not in lm.tokenizer.decode(plain.ids)


def test_of_a_scenario_the_prompted_model_reads_its_own_and_the_told_one_the_definition(paths, tiny_folders):
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu"))
    texts = held_out_texts(paths, lm, read_activations_about(paths), None, 2)
    by_key = {r.key: r for r in read_responses(paths)}
    for plain, prompted, told in zip(texts.pos, texts.prompted, texts.told, strict=True):
        own = by_key[plain.key.rpartition(":")[0]]
        mirror = by_key[own.key.replace("pos", "neg")]
        assert prompted.prompt_ids == own.prompt_ids
        assert plain.prompt_ids == mirror.prompt_ids
        assert read_trait(paths).ask_for(1) in lm.tokenizer.decode(told.prompt_ids)
    held_out = {r.key for r in read_activations_about(paths).rows if r.split == "val"}
    assert {t.key.rpartition(":")[0] for t in (*texts.pos, *texts.neg)} <= held_out


def test_another_model_is_refused_and_so_are_vectors_of_two(paths, tiny_folders, capfd):
    for other in ("sibling", "gemma"):
        with pytest.raises(UserError):
            compare("--model", tiny_folders[other])
        assert re.search(r"vectors of two models are not compared|does not fit", capfd.readouterr().err)

    file = paths.vector_metadata("trained_nll", LAYER)
    about = read_json(file)
    about["made_by"]["model"]["identity"] = "another"
    write_json(file, {name: value for name, value in about.items() if name != "seal"})
    with pytest.raises(UserError):
        compare()
    assert "vectors of two models are not compared" in capfd.readouterr().err


def test_a_damaged_vector_is_one_line_and_leaves_the_other_trait_going(paths, root, capfd):
    paths.vector("trained_nll", LAYER).write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 2 traits failed"):
        compare(traits=f"{TRAIT},{OTHER}")
    failed = [line for line in capfd.readouterr().err.splitlines() if "failed" in line]
    assert len(failed) == 1
    assert "trained_nll" in failed[0]
    assert not paths.compared_vectors.exists()
    assert len(tables_of(TraitPaths("e", OTHER, root))["vectors"]) == 2


def test_a_vector_of_other_activations_is_refused(paths, capfd):
    file = paths.vector_metadata("prompt_delta", LAYER)
    about = read_json(file) | {"activations_sha256": "0" * 64}
    write_json(file, {name: value for name, value in about.items() if name != "seal"})
    with pytest.raises(UserError):
        compare()
    assert "was fitted on other activations" in capfd.readouterr().err


def test_a_record_of_another_training_is_refused(paths, capfd):
    file = paths.training("trained_nll")
    record = read_json(file)
    for tried in record["tried"]:
        tried["learning_rate"] = 0.7
    write_json(file, {name: value for name, value in record.items() if name != "seal"})
    with pytest.raises(UserError):
        compare()
    assert "is of another training than its vector" in capfd.readouterr().err


def test_a_table_that_was_changed_is_not_read_and_is_made_again(paths, capfd):
    compare()
    file = paths.compared_vectors / "costs.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="is not the table that"):
        read_compared(paths.compared_vectors, TRAIT)
    compare()
    assert "output changed" in capfd.readouterr().out
    record = paths.compared_vectors / "compared.json"
    record.write_text(json.dumps(read_json(record) | {"trait": OTHER}))
    with pytest.raises(UserError):
        read_compared(paths.compared_vectors, TRAIT)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dose", "0"], "--dose must be above 0"),
        (["--draws", "1"], "--draws must be 2 or more"),
        (["--texts", "-1"], "--texts and --neutral-texts are 0 or more"),
        (["--layers", "99"], "no layer 99"),
    ],
)
def test_flags_that_cannot_be_are_one_line(paths, capfd, flags, said):
    with pytest.raises(UserError):
        compare(*flags)
    assert said in capfd.readouterr().err


def test_without_a_held_out_text_of_a_side_its_columns_are_null_and_a_note_says_so(paths, monkeypatch):
    own = texts.own_texts
    monkeypatch.setattr(texts, "own_texts", lambda *a, **b: [t for t in own(*a, **b) if t.side == "neg"])
    compare()
    record, tables = read_compared(paths.compared_vectors, TRAIT)
    assert any("no positive response" in note for note in record.notes)
    losses = ["loss_unsteered", "loss_plus", "change", "noise_25", "efficiency", "loss_random", "texts"]
    assert tables["vectors"][losses].isna().all(axis=None)
    assert tables["vectors"][["neg_loss_plus", "kl", "auroc"]].notna().all(axis=None)
