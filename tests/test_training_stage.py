"""Training as a user runs it: on a tiny model, beside the methods of stage 4, and against what can go wrong."""

import re
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import N_LAYERS, SHIPPED, call, copy_trait

from traitscope.extraction import import_vectors, run_pipeline, train_vectors
from traitscope.extraction.training import job, loop, stage, told
from traitscope.extraction.training.learning import Learning
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import FIT, STEER, TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.model.capture import record_stream
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.hooks import Push
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.records.activations import read_activations_about, read_fitted_on
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.own_texts import _prompts, own_texts
from traitscope.utils.records.questions import choose_questions, read_pool, spare_for_training
from traitscope.utils.records.responses import read_responses
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import METHODS, read_training
from traitscope.utils.records.vectors import list_vectors, read_vector
from traitscope.utils.stage.layers import usual_layer

CHECKOUT = Path(__file__).resolve().parents[1]
TRAIT, OTHER = "epistemic/optimism", "behavioral/formality"
WORLD = ["--experiment", "e", "--traits", TRAIT]
QUICK = ["--steps", "10", "--learning-rates", "0.03,0.1", "--warmup", "1"]
SMALL = ["--max-new-tokens", "6", "--no-vet", "--min-usable", "2", "--methods", "mean_diff,probe"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_folders) -> Path:
    """Two traits with vectors of a tiny model."""
    folder = tmp_path_factory.mktemp("training")
    for trait in (TRAIT, OTHER):
        copy_trait(folder, trait, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        model = ["--model", tiny_folders["llama"]]
        call(
            run_pipeline, "--experiment", "e", "--traits", f"{TRAIT},{OTHER}", *model, *SMALL, "--no-steering"
        )
    return folder


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "root")
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def paths(root) -> TraitPaths:
    return TraitPaths("e", TRAIT, root)


def train(*given: str) -> None:
    call(train_vectors, *WORLD, "--no-vet", *QUICK, *given)


def test_a_trained_method_stands_beside_the_others_with_all_that_a_reader_needs(paths, capfd):
    train("--layers", "1,2")
    assert re.search(
        r"\[train_nll\].*2 vectors.*validation loss .* → .* \(layer \d\)", capfd.readouterr().out
    )

    found = list_vectors(paths)
    assert {("trained_nll", 1), ("trained_nll", 2), ("mean_diff", 1)} <= found.keys()
    about = found["trained_nll", 2]
    assert about.val.auroc >= 0
    assert about.component == "residual"
    said = about.origin["said"]
    assert said["learning_rate"] in (0.03, 0.1)
    assert said["schedule"] == "cosine"
    assert said["tokens_seen"] > 0

    record = read_training(paths, "trained_nll")
    assert record.layers == [1, 2]
    assert [(t.layer, t.learning_rate) for t in record.tried] == [(1, 0.03), (1, 0.1), (2, 0.03), (2, 0.1)]
    for tried in record.tried:
        assert len(tried.losses) >= 8
        assert tried.dose == pytest.approx(0.25, rel=1e-4)  # the mean of the doses
    kept = {t.layer: t for t in record.tried if t.is_kept}
    for layer, tried in kept.items():
        assert tried.best_loss == min(t.best_loss for t in record.tried if t.layer == layer)
        assert found["trained_nll", layer].norm == pytest.approx(tried.norm, rel=1e-4)


def test_what_is_read_back_is_what_was_written_bit_by_bit(paths):
    train()
    key = next(key for key in list_vectors(paths) if key[0] == "trained_nll")
    stored = torch.load(paths.vector(*key))
    assert torch.equal(read_vector(paths, key).tensor, stored)
    assert paths.vector(*key).stat().st_size < 4096


def test_the_ten_lines_of_the_page_steer_as_we_do_without_traitscope(paths, tiny_folders, capfd):
    train("--layers", "2")
    page = (CHECKOUT / "docs/training.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 10
    for there, here in (
        ("path/to/the/model", tiny_folders["llama"]),
        ("trained_nll_layer17.pt", str(paths.vector("trained_nll", 2))),
        ("layers[17]", "layers[2]"),
        ("max_new_tokens=40", "max_new_tokens=4"),
    ):
        assert there in lines
        lines = lines.replace(there, here)
    capfd.readouterr()
    exec(lines, there := {})

    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu"))
    push = Push(2, torch.load(paths.vector("trained_nll", 2)), 1.0)
    asked = there["ids"][0].tolist()
    (ours,) = generate(lm, [Row(asked, 0, (push,))], Sampling(4))
    printed = capfd.readouterr().out
    assert printed.startswith(lm.tokenizer.decode(asked + ours.ids))
    (plain,) = generate(lm, [Row(asked)], Sampling(4))
    assert not printed.startswith(lm.tokenizer.decode(asked + plain.ids))


def test_the_same_command_trains_nothing_again_and_names_what_changed(paths, capfd):
    train()
    train()
    assert "up to date" in capfd.readouterr().out.splitlines()[-1]
    train("--dry-run", "--schedule", "linear")
    assert "would train (schedule cosine → linear)" in capfd.readouterr().out
    train("--dry-run", "--objective", "nll,pref")
    lines = capfd.readouterr().out.splitlines()
    assert "[train_nll] epistemic/optimism: up to date" in lines
    assert "[train_pref] epistemic/optimism: would train (no completed run)" in lines


def test_a_vector_that_is_gone_or_damaged_is_trained_again(paths, capfd):
    train()
    file = next(paths.vectors.glob("trained_nll*.pt"))
    before = digest(file)
    about = next(paths.vectors.glob("trained_nll*_metadata.json"))
    for spoil in (file.unlink, lambda: file.write_bytes(b"x"), about.unlink, lambda: about.write_text("{}")):
        spoil()
        train("--dry-run")
        assert "would train" in capfd.readouterr().out.splitlines()[-1]
        train()
        assert digest(file) == before  # and comes out the same


def test_another_methods_option_trains_nothing_again_and_stage_4_measures_it_anew(paths, capfd):
    train()
    record = paths.training("trained_nll").read_bytes()
    fit = import_module("traitscope.extraction.4_fit_vectors")
    call(
        fit, *WORLD, "--no-vet", "--min-usable", "2", "--methods", "mean_diff,gradient", "--shrinkage", "0.9"
    )
    assert {method for method, _ in list_vectors(paths)} == {"mean_diff", "gradient", "trained_nll"}
    capfd.readouterr()
    train()
    assert "[train_nll] epistemic/optimism: up to date" in capfd.readouterr().out
    assert paths.training("trained_nll").read_bytes() == record


def test_the_pipeline_trains_what_methods_names_between_stages_4_and_5(root, paths, capfd):
    given = [*WORLD, *SMALL[:-1], "mean_diff,trained_nll", *QUICK, "--judge", "embedded"]
    steered = [
        "--subset",
        "2",
        "--random-pairs",
        "2",
        "--doses",
        "0.2",
        "--coherence-gate",
        "0",
        "--method",
        "trained_nll",
    ]
    call(run_pipeline, *given, *steered, "--layers", "all")
    out = capfd.readouterr().out
    order = [stage for stage in (FIT, "train_nll", STEER) if f"[{stage}] {TRAIT}: " in out]
    places = [out.index(f"[{stage}] {TRAIT}: ") for stage in order]
    assert order == [FIT, "train_nll", STEER]
    assert places == sorted(places)

    results = read_json(paths.steering_results)
    assert results["chosen"]["method"] == "trained_nll"
    assert results["chosen"]["layer"] == read_training(paths, "trained_nll").layers[0]

    call(run_pipeline, *given, *steered, "--layers", "all", "--dry-run")
    lines = capfd.readouterr().out.splitlines()
    assert f"[train_nll] {TRAIT}: up to date" in lines
    assert f"[{STEER}] {TRAIT}: up to date" in lines


def test_several_traits_are_one_load_and_one_that_fails_leaves_the_others_going(root, capfd):
    broken = TraitPaths("e", TRAIT, root)
    rows = read_json(broken.responses("pos"))
    write_json(broken.responses("pos"), rows | {"rows": rows["rows"][:1]})
    with pytest.raises(UserError, match=f"1 of 2 traits failed: {TRAIT}"):
        call(train_vectors, "--experiment", "e", "--traits", f"{TRAIT},{OTHER}", "--no-vet", *QUICK)
    printed = capfd.readouterr()
    assert "there are 1 texts" in printed.err
    assert f"[train_nll] {OTHER}: 1 vectors" in printed.out


def test_traits_trained_together_take_their_steps_in_the_same_passes_and_end_as_each_alone(
    root, paths, capfd, monkeypatch
):
    own, asked = loop.run_units, []

    def counted(passes, learnings, wanted, **how):
        if how.get("leads_back") and wanted:
            asked.append(len(wanted))
        return own(passes, learnings, wanted, **how)

    def learnt(*given: str) -> dict[str, torch.Tensor]:
        traits = ["--experiment", "e", "--traits", f"{TRAIT},{OTHER}"]
        call(train_vectors, *traits, "--no-vet", *QUICK, *given)
        found = (TraitPaths("e", trait, root) for trait in (TRAIT, OTHER))
        return {p.trait: torch.load(p.vector("trained_nll", usual_layer(N_LAYERS))) for p in found}

    monkeypatch.setattr(loop, "run_units", counted)
    together = learnt("--traits-a-pass", "2")
    assert set(asked) == {2}  # and no step after it
    assert not list(root.rglob("*.progress.jsonl"))
    assert "up to date" not in capfd.readouterr().out

    alone = learnt("--force")
    assert set(asked) == {2, 1}
    for trait, values in alone.items():
        assert torch.cosine_similarity(values, together[trait], dim=0) > 0.9999
    learnt("--traits-a-pass", "1")  # nothing of a vector depends on it
    assert "up to date" in capfd.readouterr().out


def test_a_trait_that_cannot_be_trained_costs_those_trained_with_it_nothing(root, capfd):
    broken = TraitPaths("e", TRAIT, root)
    rows = read_json(broken.responses("pos"))
    write_json(broken.responses("pos"), rows | {"rows": rows["rows"][:1]})
    with pytest.raises(UserError, match=f"1 of 2 traits failed: {TRAIT}"):
        call(
            train_vectors,
            *[
                "--experiment",
                "e",
                "--traits",
                f"{TRAIT},{OTHER}",
                "--no-vet",
                *QUICK,
                "--traits-a-pass",
                "4",
            ],
        )
    assert f"[train_nll] {OTHER}: 1 vectors" in capfd.readouterr().out


def test_two_seeds_are_compared_and_the_better_one_is_kept(paths):
    train("--seeds", "3", "--learning-rates", "0.1")
    record = read_training(paths, "trained_nll")
    assert [len(cosines) for cosines in record.seeds_agree.values()] == [3]
    assert all(-1 <= c <= 1 for cosines in record.seeds_agree.values() for c in cosines)
    kept = next(t for t in record.tried if t.is_kept)
    assert kept.best_loss == min(t.best_loss for t in record.tried)


def test_a_killed_training_goes_on_where_it_was(paths, monkeypatch):
    own, steps = Learning.step_units, []

    def step(self, *given):
        steps.append(given[0])
        if len(steps) == 7:
            raise KeyboardInterrupt
        return own(self, *given)

    monkeypatch.setattr(Learning, "step_units", step)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert not paths.has_completed("train_nll")
    assert paths.journal("train_nll").exists()
    train()
    assert steps[7:] == list(range(6, 10))  # not from the beginning
    assert not paths.journal("train_nll").exists()

    resumed = digest(next(paths.vectors.glob("trained_nll*.pt")))
    train("--force")
    assert digest(next(paths.vectors.glob("trained_nll*.pt"))) == resumed


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--layers", "99"], "no layer 99"),
        (["--layers", "x"], "not a layer"),
        (["--objective", "nonsense"], "unknown objective 'nonsense'; choose nll, pref, distill, delta"),
        (["--train-tokens", "100000", "--val-tokens", "10000"], "ask for less with --train-tokens"),
        (["--learning-rates", "0"], "--learning-rates must be above 0"),
        (["--schedule", "stepwise"], "--schedule expects one of constant, linear, cosine"),
    ],
)
def test_what_cannot_be_is_one_line(paths, capfd, given, says):
    with pytest.raises(UserError) as caught:
        train(*given)
    said = str(caught.value) + capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    assert not paths.has_completed("train_nll")


def test_another_model_than_the_one_that_was_read_is_refused(paths, tiny_folders, capfd):
    with pytest.raises(UserError):
        train("--model", tiny_folders["sibling"])
    assert "run 3_capture_activations with the same --model" in capfd.readouterr().err


def test_without_scores_the_training_that_wants_them_names_the_stage(paths, capfd):
    with pytest.raises(UserError):
        call(train_vectors, *WORLD, *QUICK, "--no-vet", "False")
    assert "run 2_vet_responses first" in capfd.readouterr().err


def test_a_trained_method_is_no_name_for_an_import(paths, tmp_path):
    for name in METHODS:
        with pytest.raises(UserError, match="a method of traitscope's own"):
            import_vectors.check_method(name)


def test_pref_learns_from_both_sides_after_the_same_prompts(paths):
    train("--objective", "pref")
    record = read_training(paths, "trained_pref")
    assert record.texts["train_texts"] % 2 == 0
    assert record.layers == [usual_layer(N_LAYERS)]


def test_distill_learns_from_answers_to_neutral_questions_that_no_evaluation_asks(paths):
    train("--objective", "distill")
    record = read_training(paths, "trained_distill")
    assert record.texts["train_texts"] + record.texts["val_texts"] == told.QUESTIONS
    assert record.plain_loss > 0
    kept = next(t for t in record.tried if t.is_kept)
    assert kept.best_loss > 0

    dataset, pool = read_trait(paths), read_pool(paths.root)
    spare = spare_for_training(dataset, pool)[: told.QUESTIONS]
    asked = choose_questions(dataset, pool)
    fresh = choose_questions(dataset, pool, fresh=100)
    assert len(spare) == told.QUESTIONS
    assert not set(spare) & {*asked.dev, *asked.test, *fresh.test}


def test_prompt_delta_is_what_the_instruction_adds_at_the_same_tokens(paths, llama, monkeypatch):
    seen = []
    monkeypatch.setattr(
        stage, "added_by_telling", lambda lm, texts: seen.append(texts) or told.added_by_telling(lm, texts)
    )
    train("--objective", "delta")
    vectors = {layer: read_vector(paths, ("prompt_delta", layer)).tensor for layer in range(N_LAYERS)}

    for layer, vector in vectors.items():
        gaps = []
        for text in seen[0]:
            n = len(text.response_ids)
            with_it = record_stream(llama, text.told_ids + text.response_ids)[layer, -n:].mean(0)
            gaps.append(n * (with_it - record_stream(llama, text.ids)[layer, -n:].mean(0)))
        n_tokens = sum(len(text.response_ids) for text in seen[0])
        assert torch.allclose(vector, torch.stack(gaps).sum(0) / n_tokens, atol=1e-4)


def test_a_told_model_that_writes_nothing_is_one_line(paths, monkeypatch, capfd):
    monkeypatch.setattr(job, "told_texts", lambda *_: [])
    for objective in ("delta", "distill"):
        with pytest.raises(UserError):
            train("--objective", objective)
        assert "there are 0 texts" in capfd.readouterr().err


def test_a_trait_of_instructions_distills_its_own_answers(root, tiny_folders):
    shutil.copytree(SHIPPED / "behavioral/refusal", root / "datasets/traits/behavioral/refusal")
    given = ["--experiment", "i", "--traits", "behavioral/refusal", "--model", tiny_folders["llama"]]
    call(run_pipeline, *given, *SMALL, "--no-steering", "--max-new-tokens", "4")
    call(
        train_vectors, *given, "--no-vet", *QUICK, "--objective", "nll,distill,delta", "--max-new-tokens", "4"
    )

    paths = TraitPaths("i", "behavioral/refusal", root)
    rows = {row.key: row for row in read_responses(paths)}
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu"))
    about = read_activations_about(paths)
    for text in told.told_texts(paths, lm, about, None, Sampling(4), None):
        row = rows[text.key.rpartition(":")[0]]
        assert row.side == "pos"
        assert text.told_ids == row.prompt_ids  # with the instruction
        assert text.prompt_ids == encode(lm, [m for m in row.prompt if m["role"] != "system"])
    assert {method for method, _ in list_vectors(paths)} >= {"trained_nll", "trained_distill", "prompt_delta"}


def fit(*given: str) -> None:
    call(import_module("traitscope.extraction.4_fit_vectors"), *WORLD, "--min-usable", "2", *given)


def test_the_plain_command_steers_where_it_was_trained_by_default(paths):
    train()
    steer = import_module("traitscope.extraction.5_steer_evaluate")
    small = [
        "--subset",
        "2",
        "--random-pairs",
        "2",
        "--doses",
        "0.2",
        "--coherence-gate",
        "0",
        "--max-new-tokens",
        "6",
    ]
    call(steer, *WORLD, "--method", "trained_nll", *small, "--judge", "embedded")
    assert read_json(paths.steering_results)["chosen"]["layer"] == usual_layer(N_LAYERS)


@pytest.mark.parametrize("change", [["--split-seed", "1"], ["--val-share", "0.5"]])
def test_a_vector_is_never_measured_on_what_it_learnt_from_because_the_split_moved(paths, change):
    train()
    call(import_module("traitscope.extraction.3_capture_activations"), *WORLD, *change)
    fit("--no-vet")
    assert "trained_nll" not in {method for method, _ in list_vectors(paths)}
    train()
    record = read_training(paths, "trained_nll")
    lm = load_lm(ModelOptions(model=record.made_by["model"]["name"], device="cpu"))
    learnt = {
        text.key.rpartition(":")[0] for text in own_texts(paths, lm, read_activations_about(paths), None)
    }
    assert not learnt & set(read_fitted_on(paths).val)


def test_stage_4_by_itself_refuses_to_fit_nothing_and_keeps_what_is_there(paths, capfd):
    before = list_vectors(paths).keys()
    with pytest.raises(UserError):
        fit("--no-vet", "--methods", "trained_nll")
    assert "names none that is fitted here" in capfd.readouterr().err
    assert list_vectors(paths).keys() == before


def test_naming_a_trained_method_fits_the_others_not_again(paths, capfd):
    fit("--no-vet", "--methods", "mean_diff,probe,trained_nll")
    assert f"[{FIT}] {TRAIT}: up to date" in capfd.readouterr().out


def test_flags_without_effect_on_an_objective_train_it_not_again(paths, capfd):
    train("--objective", "nll,pref,delta")
    capfd.readouterr()
    for given in (["--objective", "delta", "--patience", "7"], ["--objective", "pref", "--train-opposite"]):
        train(*given, "--dry-run")
        assert "up to date" in capfd.readouterr().out.splitlines()[-1]
    train("--objective", "nll", "--max-new-tokens", "9", "--dry-run")
    assert "up to date" in capfd.readouterr().out.splitlines()[-1]


def test_a_learning_rate_named_twice_is_one(paths):
    train("--learning-rates", "0.1,0.1")
    assert [t.learning_rate for t in read_training(paths, "trained_nll").tried] == [0.1]


def test_texts_are_those_that_passed_and_are_not_held_out_after_prompts_that_do_not_ask(paths, llama):
    about, responses = read_activations_about(paths), {r.key: r for r in read_responses(paths)}
    train_keys = {row.key for row in about.rows if row.split == "train"}
    passed = sorted(train_keys)[::2]
    rows = [
        {
            "key": r.key,
            "side": r.side,
            "value": (100.0 if r.side == "pos" else 0.0) if r.key in passed else 50.0,
            "state": "scored",
        }
        for r in responses.values()
    ]
    scores = {
        "trait": TRAIT,
        "of": "responses",
        "judge": {},
        "responses_sha256": about.responses_sha256,
        "rows": rows,
    }
    write_json(paths.response_scores, scores)

    for thresholds, wanted in ((Thresholds(), set(passed)), (None, train_keys)):
        found = own_texts(paths, llama, about, thresholds)
        assert {text.key.rpartition(":")[0] for text in found} == {
            k for k in wanted if responses[k].response_ids
        }
        for text in found:
            own = responses[text.key.rpartition(":")[0]]
            mirror = responses[f"{'neg' if own.side == 'pos' else 'pos'}:{own.pair}:0"]
            assert text.prompt_ids == mirror.prompt_ids  # the other side's scenario
            assert text.response_ids == own.response_ids

    pairs = own_texts(paths, llama, about, None, in_pairs=True)
    assert len(pairs) == 2 * len(own_texts(paths, llama, about, None))


def test_a_scenario_with_a_system_message_is_learnt_after_the_others_scenario_alone():
    system = lambda text: {"role": "system", "content": text}  # noqa: E731
    user = lambda text: {"role": "user", "content": text}  # noqa: E731
    row = SimpleNamespace(prompt=[system("be glad"), user("a bright day")])
    assert _prompts(row, [system("be sad"), user("a dark day")], in_pairs=False) == [[user("a dark day")]]
    assert _prompts(row, [system("be sad"), user("a bright day")], in_pairs=True) == [[user("a bright day")]]


def test_a_dry_run_says_that_stage_5_follows_a_training(paths, capfd):
    given = [
        *WORLD,
        *SMALL[:-1],
        "mean_diff,trained_nll",
        *QUICK,
        "--judge",
        "embedded",
        "--method",
        "trained_nll",
    ]
    steered = ["--subset", "2", "--random-pairs", "2", "--doses", "0.2", "--coherence-gate", "0"]
    call(run_pipeline, *given, *steered)
    capfd.readouterr()
    call(run_pipeline, *given, *steered, "--schedule", "linear", "--dry-run")
    lines = capfd.readouterr().out.splitlines()
    assert f"[train_nll] {TRAIT}: would run (schedule cosine → linear)" in lines
    assert f"[{STEER}] {TRAIT}: downstream, runs if {FIT} changes what it reads" in lines
