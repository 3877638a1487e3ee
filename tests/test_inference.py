"""Projections, replay, live chat and what may be projected on what: laws on tiny models of three
architectures.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call
from hypothesis import given, settings
from hypothesis import strategies as st

from traitscope.analysis import compare_groups, compare_models, draw_steering
from traitscope.inference import capture_raw_activations, monitor_dynamics, project_activations
from traitscope.inference.chat import Chat
from traitscope.inference.watch import responding as responses
from traitscope.inference.watch.engine import ChatEngine, Decoder, Talk
from traitscope.inference.watch.projection import project, project_texts, scores_of
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import CAPTURE, STEER, ExperimentPaths, InferencePaths, TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.model.anatomy import layers
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.model.tokens import locate, token_texts
from traitscope.utils.records.choice import best_of, choose_keys
from traitscope.utils.records.prompt_sets import read_prompt_set
from traitscope.utils.records.readings import read_projections
from traitscope.utils.records.recorded import Record, read_record, read_records
from traitscope.utils.records.vectors import Vector, list_traits, read_vector, write_vector
from traitscope.utils.records.verdict import Verdict, read_verdict, write_verdict

TRAIT, OTHER = "mood/hope", "mood/calm"
QUESTION = [{"role": "user", "content": "What is the tide?"}]


def plant(
    root: Path, lm: LM, trait: str, cells: dict[tuple[str, int], torch.Tensor], experiment: str = "e", **about
) -> TraitPaths:
    """Write vectors as stage 4 does, with the residual norms that stage 3 measured."""
    paths = TraitPaths(experiment, trait, root)
    for (method, layer), vector in cells.items():
        known = {
            "made_by": {"stage": CAPTURE, "model": lm.identity},
            "component": "residual",
            "position": "response[:]",
            "norm": float(vector.nan_to_num().norm()),
            "centre": 0.25,
            "train": None,
            "val": {"auroc": 0.5 + layer / 10, "cohens_d": 1.0, "n_pos": 4, "n_neg": 4},
        }
        write_vector(paths, (method, layer), vector, known | about)
    norms = [2.0 + layer for layer in range(lm.n_layers)]
    write_json(paths.activations_metadata, {"shape": [8, lm.n_layers, lm.d_model], "mean_norms": norms})
    return paths


def plant_verdict(paths: TraitPaths, verdict: str, layer: int, norms: list[float], vectors: str = "") -> None:
    """Write what stage 5 leaves when it is done, of mean_diff at a layer.

    Args:
        norms: Mean residual norms of the unsteered answers.
        vectors: The experiment whose vectors were steered with; by default the same.
    """
    effect = {"mean": 9.0, "low": 5.0, "high": 12.0, "n": 8}
    columns = {name: None for name, field in Verdict.model_fields.items() if field.is_required()}
    found = {
        "trait": paths.trait,
        "made_by": {"model": {}, "vectors": {"experiment": vectors or paths.experiment}},
        "chosen": {"method": "mean_diff", "layer": layer, "dose": 0.2, "coefficient": 1.0},
        "verdict": verdict,
        "why": "",
        "n_questions": 8,
        "effect": effect,
        "odd_part": effect,
        "residual_norms": norms,
    }
    empty = {name: {} for name in ("judge", "coherence_judge", "coherence", "questions")}
    write_verdict(paths, columns | empty | {"dev": []} | found)
    write_json(paths.manifest(STEER), {"params": {}, "inputs": {}, "outputs": [], "version": 2})


@pytest.mark.parametrize(
    "made_by",
    [
        {},
        {"model": {}},
        {"vectors": {"experiment": "e"}},
        {"model": {}, "vectors": {}},
        {"model": 1, "vectors": 2},
    ],
)
def test_a_verdict_that_does_not_say_what_made_it_is_refused_where_it_is_read(root, made_by):
    paths = TraitPaths("e", TRAIT, root)
    plant_verdict(paths, "works", 1, [1.0])
    write_json(paths.steering_results, read_json(paths.steering_results) | {"made_by": made_by})
    with pytest.raises(UserError, match=r"results\.json") as caught:
        read_verdict(paths)
    assert "\n" not in str(caught.value)


def test_a_figure_without_the_chosen_cell_is_refused_in_one_line(root):
    plant_verdict(TraitPaths("e", TRAIT, root), "works", 1, [1.0])  # no cell was tried
    with pytest.raises(UserError, match="chosen cell is not among those tried"):
        call(draw_steering, "--experiment", "e", "--traits", TRAIT)


def draw(seed: int, d_model: int = 32) -> torch.Tensor:
    return torch.randn(d_model, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def world(root, llama, tiny_folders):
    """An experiment of a tiny model with two traits, and a prompt set of chats, plain and with several
    turns.
    """
    for i, trait in enumerate((TRAIT, OTHER)):
        plant(
            root,
            llama,
            trait,
            {("mean_diff", layer): draw(10 * i + layer) for layer in range(llama.n_layers)},
        )
    prompts = [
        {"id": f"p{i}", "text": f"Tell me about the {word}.", "kind": "ab"[i % 2]}
        for i, word in enumerate(("sea", "long dark winter", "moon", "reeds"))
    ]
    talk = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Good day!"},
        {"role": "user", "content": "Is it late?"},
    ]
    prompts += [{"id": "talk", "messages": talk}, {"id": "rounds", "turns": ["One?", "Two?", "Three?"]}]
    write_json(
        root / "datasets" / "inference" / "set.json", {"description": "made for tests", "prompts": prompts}
    )

    def capture(*flags: str, experiment: str = "e", model: str = "llama") -> InferencePaths:
        call(
            capture_raw_activations,
            "--experiment",
            experiment,
            "--model",
            tiny_folders[model],
            "--prompt-set",
            "set",
            "--max-new-tokens",
            "9",
            *flags,
        )
        return InferencePaths(experiment, "set", root)

    return capture


def hidden_by_hand(lm: LM, ids: list[int]) -> list[torch.Tensor]:
    """Every layer's output by transformers' own hidden states; the last layer's lie before the final norm
    and are left out.
    """
    with torch.inference_mode():
        states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [state[0].float() for state in states[1:-1]]


def vectors_of(lm: LM, root: Path) -> list[Vector]:
    cells = {("mean_diff", layer): draw(layer) for layer in range(lm.n_layers - 1)} | {("probe", 1): draw(99)}
    paths = plant(root, lm, TRAIT, cells)
    return [read_vector(paths, cell) for cell in cells]


def test_projections_are_those_of_the_models_own_hidden_states(lm, root):
    vectors = vectors_of(lm, root)
    sequences = [encode(lm, [{"role": "user", "content": "x" * n}]) for n in (3, 30, 11)]
    found = {}
    project_texts(lm, sequences, vectors, lambda i, scores: found.update({i: scores}), batch_tokens=80)
    for i, ids in enumerate(sequences):
        states = hidden_by_hand(lm, ids)
        for vector, scores in zip(vectors, found[i], strict=True):
            hidden = states[vector.layer]
            np.testing.assert_allclose(
                scores.raw, hidden @ (vector.tensor / vector.tensor.norm()), atol=2e-4, rtol=1e-4
            )
            np.testing.assert_allclose(scores.norms, hidden.norm(dim=-1), rtol=1e-4)
            np.testing.assert_allclose(scores.on("centered"), scores.raw - 0.25)
            np.testing.assert_allclose(
                scores.on("cosine"), torch.cosine_similarity(hidden, vector.tensor[None]), atol=1e-4
            )


def hooks_of(lm: LM) -> list[list[int]]:
    """Return what is hooked on every block; transformers leaves hooks of its own where states were asked for."""
    return [[*block._forward_hooks, *block._forward_pre_hooks] for block in layers(lm.model)]


def test_blocks_above_the_last_layer_asked_for_are_not_computed(llama, root):
    seen, before = [], hooks_of(llama)
    handles = [
        block.register_forward_hook(lambda *_, i=i: seen.append(i))
        for i, block in enumerate(layers(llama.model))
    ]
    project_texts(llama, [[5, 6, 7]], [c for c in vectors_of(llama, root) if c.layer <= 1], lambda *_: None)
    for handle in handles:
        handle.remove()
    assert seen == [0, 1]
    assert hooks_of(llama) == before


def test_capture_leaves_what_the_model_wrote_and_says_which_turn_is_whose(world, llama):
    paths = world()
    for record in (read_record(paths, name) for name in ("p0", "talk", "rounds")):
        said = record.prompt
        assert record.ids[: record.prompt_tokens] == encode(llama, said)
        alone = generate(llama, [Row(encode(llama, said))], Sampling(max_new_tokens=9))[0]
        assert record.ids[record.prompt_tokens :] == alone.ids
        assert "".join(record.tokens) == llama.tokenizer.decode(record.ids)
        assert [turn["role"] for turn in record.turns] == [m["role"] for m in said] + ["assistant"]
        for turn, message in zip(record.turns, said, strict=False):
            assert "".join(record.tokens[turn["start"] : turn["end"]]).strip() == message["content"].strip()
    rounds = read_record(paths, "rounds").prompt
    assert [m["content"] for m in rounds[::2]] == ["One?", "Two?", "Three?"]
    first = generate(llama, [Row(encode(llama, rounds[:1]))], Sampling(max_new_tokens=9))[0]
    assert rounds[1]["content"] == llama.tokenizer.decode(first.ids, skip_special_tokens=True).strip()
    assert read_record(paths, "p1").metadata == {"kind": "b"}


def test_projecting_while_it_is_generated_equals_projecting_afterwards(world, llama, root):
    paths = world("--layers", "2")
    engine = ChatEngine(llama, read_watched("e", WatchOptions(layers="2")))
    for name in ("p0", "p1", "talk"):
        record = read_record(paths, name)
        steps = list(engine.reply(record.prompt, {}, Talk(max_new_tokens=9)))
        assert [step.id for step in steps] == record.ids[record.prompt_tokens :]
        for scores in read_projections(paths, name):
            live = [step.scores[scores.origin["trait"]] for step in steps]
            np.testing.assert_allclose(live, scores.on("centered")[record.prompt_tokens :], atol=1e-3)


def test_replay_reads_the_very_same_tokens_with_another_model(world, capsys):
    first = world()
    plant(
        first.root,
        load_lm(ModelOptions(model=read_json(first.index)["made_by"]["model"]["name"], device="cpu")),
        TRAIT,
        {},
        experiment="s",
    )
    second = world("--responses-from", "e", "--vectors-from", "e", experiment="s", model="sibling")
    assert "was fitted on" in capsys.readouterr().out  # a sibling may be read, and it is said
    for name in ("p0", "p3", "rounds"):
        assert read_record(second, name) == read_record(first, name)
        ours, theirs = read_projections(first, name), read_projections(second, name)
        assert all(np.abs(a.raw - b.raw).max() > 0.01 for a, b in zip(ours, theirs, strict=True))


def test_replay_refuses_ids_of_another_tokenizer(world, root, llama):
    paths = world("--limit", "1")
    record = read_json(paths.response("p0"))
    record["tokens"][3] = "other"
    write_json(paths.response("p0"), record)
    with pytest.raises(UserError, match=r"not the response that index\.json names"):
        world("--limit", "1", "--responses-from", "e", "--vectors-from", "e", experiment="s")

    write_json(paths.index, read_json(paths.index) | {"responses": {"p0": digest(paths.response("p0"))}})
    with pytest.raises(UserError, match=r"the tokenizer of .* differs"):
        world("--limit", "1", "--responses-from", "e", "--vectors-from", "e", experiment="s")


def count_generated(monkeypatch) -> list[int]:
    counts: list[int] = []
    real = responses.generate

    def counting(lm, rows, *rest, **named):
        counts.append(len(rows))
        return real(lm, rows, *rest, **named)

    monkeypatch.setattr(responses, "generate", counting)
    return counts


def results_of(paths: InferencePaths) -> tuple[dict, np.ndarray]:
    """Return every file's content, and all projections as one row: another batch sums in another order,
    and rounds otherwise.
    """
    files = {f.relative_to(paths.dir).as_posix(): read_json(f) for f in sorted(paths.dir.rglob("*.json"))}
    projected = [content for name, content in files.items() if name.startswith("projections/")]
    rows = [row for content in projected for row in (*content.pop("scores"), *content.pop("norms").values())]
    return files, np.concatenate(rows)


@contextmanager
def killed_after(count: int, monkeypatch) -> Iterator[None]:
    """Interrupt a capture when it has written so many responses."""
    written: list[str] = []
    real = capture_raw_activations.write_record

    def dies(where, record):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(record.id)
        real(where, record)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(capture_raw_activations, "write_record", dies)
        yield


def test_an_interrupted_capture_resumes_per_prompt_and_ends_the_same(world, monkeypatch, root):
    whole, scores = results_of(world())
    paths = InferencePaths("e", "set", root)
    for file in list(paths.dir.rglob("*.json")):
        file.unlink()
    with killed_after(3, monkeypatch):
        world("--batch-size", "2")
    counts = count_generated(monkeypatch)
    world("--batch-size", "2")
    assert sum(counts) == 3 + 2  # three prompts were left, one of them with two more turns
    resumed, resumed_scores = results_of(paths)
    assert resumed == whole
    np.testing.assert_allclose(resumed_scores, scores, rtol=1e-3, atol=1e-3)
    counts.clear()
    world()
    assert not counts  # and once more does nothing


READING = {
    "monitor": (monitor_dynamics, ()),
    "groups": (compare_groups, ("--by", "kind")),
    "models": (compare_models, ("--other", "e")),
    "project": (project_activations, ()),  # the last: it makes projections again
}


def refusals(*flags: str) -> dict[str, str]:
    """Return what every reader of the set says when it refuses."""
    said = {}
    for name, (script, own) in READING.items():
        try:
            call(script, "--experiment", "e", "--prompt-set", "set", *own, *flags)
        except UserError as error:
            said[name] = str(error)
    return said


def test_a_capture_by_a_second_model_that_was_killed_is_read_by_nobody(world, root, monkeypatch):
    paths = world()
    with killed_after(2, monkeypatch):
        world(model="sibling")

    said = refusals()
    assert set(said) == set(READING)
    assert all("their capture has not ended" in line and "\n" not in line for line in said.values())
    world(model="sibling")
    names = {record.made_by["model"]["name"] for record in read_records(paths)}
    assert len(names) == 1
    assert "sibling" in names.pop()


def test_a_second_capture_of_a_set_is_kept_off_and_may_wait(world, root, capsys):
    paths = world("--limit", "1")
    with hold(paths.lock, "a test"), pytest.raises(UserError, match=r"capturing or projecting .*--wait"):
        world("--limit", "1")
    with hold(paths.lock, "a test"), pytest.raises(UserError, match="capturing or projecting"):
        call(project_activations, "--experiment", "e", "--prompt-set", "set")


@pytest.mark.parametrize(
    ("kind", "victim", "source"),
    [
        ("response", "p0", "p1"),
        ("projections", "p0", "p1"),
        ("response", "p1", None),
        ("projections", "p1", None),
    ],
)
def test_another_prompts_file_or_none_in_a_files_place_is_refused(world, kind, victim, source):
    paths = world()
    file = getattr(paths, kind)(victim)
    content = file.read_bytes()
    if source:
        file.write_bytes(getattr(paths, kind)(source).read_bytes())
    else:
        file.unlink()

    said = refusals()
    if kind == "projections":  # which a second projection makes again, once it has a model
        assert "nothing names the model" in said.pop("project")
    assert set(said) == set(READING) - ({"project"} if kind == "projections" else set()), said
    assert all(victim in line and "\n" not in line for line in said.values()), said
    world()
    assert not refusals().keys() & {"monitor", "groups"}
    assert (
        kind == "projections" or file.read_bytes() == content
    )  # a projection's last digits depend on its batch


def test_a_response_of_another_run_is_not_believed(world):
    paths = world("--limit", "3")
    other = read_json(paths.response("p1"))
    world("--limit", "3", "--max-new-tokens", "5")
    write_json(
        paths.response("p1"), other, indent=None
    )  # whole, sealed, of the prompt, and of an earlier run
    assert "not the response that index.json names" in refusals()["monitor"]


def test_a_damaged_trait_is_left_out_unless_it_was_named(world, root, capsys):
    damaged = TraitPaths("e", OTHER, root)
    damaged.vector("mean_diff", 1).write_bytes(b"no tensor")
    flags = ("--limit", "2", "--layers", "1", "--method", "mean_diff")
    world(*flags)
    assert f"note: {OTHER} is left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="not the vector that its metadata describes"):
        world(*flags, "--traits", OTHER)


def test_other_settings_generate_again_unless_told_to_keep(world, monkeypatch):
    paths = world("--limit", "2")
    counts = count_generated(monkeypatch)
    world("--limit", "2", "--max-new-tokens", "5", "--skip-existing")
    assert not counts
    world("--limit", "2", "--max-new-tokens", "5")
    assert sum(counts) == 2
    record = read_record(paths, "p0")
    assert len(record.ids) - record.prompt_tokens <= 5
    assert all(
        len(s.raw) == len(record.ids) for s in read_projections(paths, "p0")
    )  # the projections are of the new tokens


def test_refitted_vectors_are_projected_again(world, root, llama):
    paths = world("--limit", "1")
    before = read_projections(paths, "p0")
    plant(root, llama, TRAIT, {("mean_diff", 3): draw(77)})
    world("--limit", "1")
    after = {s.origin["trait"]: s for s in read_projections(paths, "p0")}
    assert len(before) == len(after) == 2
    assert np.abs(after[TRAIT].raw - next(s.raw for s in before if s.origin["trait"] == TRAIT)).max() > 0.01


def test_raw_streams_give_the_same_projections_without_a_model(world, root, monkeypatch, llama):
    paths = world("--save-raw", "--limit", "2")
    assert torch.load(paths.raw("p0"), weights_only=True).shape == (
        llama.n_layers,
        len(read_record(paths, "p0").ids),
        llama.d_model,
    )
    with monkeypatch.context() as patch:
        patch.setattr(project_activations, "load_lm", lambda *_: pytest.fail("the raw streams are there"))
        call(project_activations, "--experiment", "e", "--prompt-set", "set", "--layers", "0,2")
    kept = {s.label: s for s in read_projections(paths, "p0")}
    paths.raw_metadata("p0").unlink()
    paths.projections("p0").unlink()
    with pytest.raises(UserError, match="nothing names the model; pass --model"):
        call(project_activations, "--experiment", "e", "--prompt-set", "set", "--layers", "0,2")
    model = read_json(paths.index)["made_by"]["model"]["name"]
    call(project_activations, "--experiment", "e", "--prompt-set", "set", "--layers", "0,2", "--model", model)
    for label, scores in {s.label: s for s in read_projections(paths, "p0")}.items():
        np.testing.assert_allclose(scores.raw, kept[label].raw, atol=1e-4)
    with pytest.raises(UserError, match="were read by"):
        call(
            project_activations,
            "--experiment",
            "e",
            "--prompt-set",
            "set",
            "--layers",
            "1",
            "--model",
            model,
            "--dtype",
            "bfloat16",
        )


def test_the_table_holds_the_means_on_every_scale(world, root):
    paths = world("--limit", "2", "--layers", "best")
    record = read_record(paths, "p1")
    for flags, scale in (((), "raw"), (("--centered",), "centered"), (("--cosine",), "cosine")):
        call(project_activations, "--experiment", "e", "--prompt-set", "set", *flags)
        lines = [line.split(",") for line in paths.table(f"projections_{scale}").read_text().splitlines()]
        row = dict(zip(lines[0], next(line for line in lines if line[:2] == ["p1", TRAIT]), strict=True))
        scores = next(s for s in read_projections(paths, "p1") if s.origin["trait"] == TRAIT).on(scale)
        assert float(row["response"]) == pytest.approx(scores[record.prompt_tokens :].mean())
        assert float(row["prompt"]) == pytest.approx(
            scores[1 : record.prompt_tokens].mean()
        )  # without the first token, an attention sink
    with pytest.raises(UserError, match="not both"):
        call(project_activations, "--experiment", "e", "--prompt-set", "set", "--centered", "--cosine")


@pytest.mark.parametrize(
    "told", [0.93, None, {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40, "kind": "accuracy"}]
)
def test_results_of_a_version_that_told_the_judges_reliability_without_an_interval_are_read(root, told):
    paths = TraitPaths("e", TRAIT, root)
    plant_verdict(paths, "works", 1, [1.0])
    write_json(paths.steering_results, read_json(paths.steering_results) | {"judge_reliability": told})

    found = read_verdict(paths).judge_reliability
    assert (found and found.n) == (told["n"] if isinstance(told, dict) else None)


def test_best_is_where_steering_works_and_else_what_separates_best(root, llama):
    paths = plant(
        root,
        llama,
        TRAIT,
        {("mean_diff", layer): draw(layer) for layer in range(4)} | {("random", 3): draw(9)},
    )
    best = ("mean_diff", 3), "best held-out AUROC, 0.80 [0.31, 0.97], best of 4"
    assert best_of(paths) == best
    plant_verdict(paths, "not proven", 1, [1.0] * 4)
    assert best_of(paths) == best
    plant_verdict(paths, "works", 1, [1.0] * 4)
    assert best_of(paths) == (("mean_diff", 1), "steering works there")
    paths.manifest(STEER).unlink()  # stage 5 is running again: what it left is no verdict
    assert best_of(paths) == best
    plant_verdict(paths, "works", 1, [1.0] * 4)
    assert choose_keys(paths, "best,best+2,0", "") == [
        (("mean_diff", 1), "steering works there"),
        (("mean_diff", 3), "asked for as best+2"),
        (("mean_diff", 0), "asked for as 0"),
    ]
    assert [key[1] for key, _ in choose_keys(paths, "1-3:2", "mean_diff")] == [1, 3]
    for spec, method, message in (
        ("best+3", "", "no vector of mean_diff at layer 4"),
        ("1", "probe", "no vector of probe"),
        ("bets", "", "is not a layer"),
    ):
        with pytest.raises(UserError, match=message):
            choose_keys(paths, spec, method)


def test_traits_are_those_that_have_vectors(root, llama):
    for trait in (TRAIT, "a/b/c"):
        plant(root, llama, trait, {("mean_diff", 1): draw(1)})
    TraitPaths("e", OTHER, root).vectors.mkdir(parents=True)
    assert list_traits(ExperimentPaths("e", root)) == ["a/b/c", TRAIT]


def test_what_does_not_belong_on_the_model_is_refused(root, llama, gemma, tiny_folders):
    key = ("mean_diff", 3)
    vector = read_vector(plant(root, llama, TRAIT, {key: draw(1)}), key)
    assert vector.require_fit(llama) is None
    shallow, sibling = (
        load_lm(ModelOptions(model=tiny_folders[name], device="cpu")) for name in ("shallow", "sibling")
    )
    for lm, message in (
        (gemma, "architecture LlamaForCausalLM against Gemma2"),
        (shallow, "layers 4 against 3"),
        (
            LM(llama.model, llama.tokenizer, True, llama.identity | {"quantization": "int4"}),
            "4-bit weights False against True",
        ),
    ):
        with pytest.raises(UserError, match=message):
            vector.require_fit(lm)
    assert "was fitted on" in str(vector.require_fit(sibling))

    paths = plant(root, llama, TRAIT, {key: draw(1, 16)})
    with pytest.raises(UserError, match="is of width 16; the activations beside it are of width 32"):
        read_vector(paths, key)
    paths.activations_metadata.unlink()  # as where only the vectors were pulled
    with pytest.raises(UserError, match="width 16 against 32"):
        read_vector(paths, key).require_fit(llama)
    paths.vector_metadata(*key).unlink()
    plant(root, llama, TRAIT, {key: draw(1)}, made_by={})
    with pytest.raises(UserError, match="architecture None against LlamaForCausalLM"):
        read_vector(paths, key).require_fit(llama)


def test_a_vector_for_a_layer_that_the_model_lacks_is_refused_where_nothing_else_says_so(root, llama):
    paths = plant(root, llama, TRAIT, {("mean_diff", 7): draw(1)})
    paths.activations_metadata.unlink()
    with pytest.raises(UserError, match=r"is for layer 7; .* has layers 0 to 3"):
        read_vector(paths, ("mean_diff", 7)).require_fit(llama)


def test_damaged_vectors_are_refused_in_one_line(root, llama):
    key = ("mean_diff", 1)
    damages = {
        "not a finite float32 vector": torch.full((32,), float("nan")),
        "zero vector": torch.zeros(32),
        "is of width 64": torch.ones(2, 32),
    }
    for message, tensor in damages.items():
        paths = plant(root, llama, TRAIT, {key: tensor})
        with pytest.raises(UserError, match=message):
            read_vector(paths, key)
    paths = plant(root, llama, TRAIT, {key: draw(1)})
    known = read_json(paths.vector_metadata(*key))
    for column, value in (
        *(("made_by", None), ("made_by", {"model": "llama"}), ("centre", "left")),
        ("val", {"auroc": 0.9}),
    ):
        write_json(paths.vector_metadata(*key), known | {column: value})
        with pytest.raises(UserError, match=rf"mean_diff_layer1_metadata.json: {column}"):
            read_vector(paths, key)


def test_a_dose_is_in_units_of_what_stage_5_measured_and_before_it_of_what_was_captured(root, llama):
    key = ("mean_diff", 1)
    paths = plant(root, llama, TRAIT, {key: draw(1)})
    elsewhere = paths.within("steered")

    def norm_of(used_in: TraitPaths) -> float | None:
        return read_vector(paths, key, "", used_in).mean_norm

    assert norm_of(paths) == 3.0  # as captured
    plant_verdict(paths, "not proven", 1, [7.0, 8.0, 9.0, 10.0])
    assert norm_of(paths) == 8.0
    assert norm_of(elsewhere) == 3.0  # nobody measured there
    plant_verdict(elsewhere, "works", 1, [20.0] * 4, vectors="e")
    assert norm_of(elsewhere) == 20.0
    plant_verdict(elsewhere, "works", 1, [20.0] * 4, vectors="others")  # another experiment's vectors
    assert norm_of(elsewhere) == 3.0
    paths.manifest(STEER).unlink()
    paths.activations_metadata.unlink()
    with pytest.raises(UserError, match=r"the residual norm at its layer is not known .* only be watched"):
        read_vector(paths, key).push(0.2)


def test_vectors_of_different_components_are_not_mixed(world, root, llama):
    plant(root, llama, OTHER, {("mean_diff", 3): draw(5)}, component="mlp_out")
    with pytest.raises(UserError, match="different components"):
        world()
    plant(root, llama, OTHER, {("mean_diff", 3): draw(5)}, position="prompt[-1]")
    with pytest.raises(UserError, match="different positions"):
        world()
    plant(
        root, llama, OTHER, {("mean_diff", 3): draw(5)}, position=None
    )  # a file from elsewhere that does not say
    world("--limit", "1")


def test_a_planted_push_is_read_as_it_was_planted(lm, root):
    """A vector added at a layer shifts its own projection there by c·‖v‖ on every token, and nothing
    below.
    """
    vectors = vectors_of(lm, root)[:2]
    push, ids = Push(1, vectors[1].tensor, 3.0), encode(lm, QUESTION)
    plain, pushed = [], []
    project_texts(lm, [ids], vectors, lambda _, scores: plain.extend(scores))
    with torch.inference_mode(), steer(lm.model, [[push]]), project(lm, vectors) as readout:
        lm.model.base_model(torch.tensor([ids]), use_cache=False)
    pushed = scores_of(readout, vectors, 0, len(ids))
    np.testing.assert_allclose(pushed[1].raw - plain[1].raw, 3.0 * float(vectors[1].tensor.norm()), rtol=1e-3)
    np.testing.assert_allclose(pushed[0].raw, plain[0].raw, atol=1e-4)


def test_steered_replies_are_those_of_steered_generation(llama, root):
    vector = read_vector(plant(root, llama, TRAIT, {("mean_diff", 1): draw(4)}), ("mean_diff", 1))
    engine = ChatEngine(llama, [vector])
    (push,) = engine.pushes({TRAIT: 0.8})
    assert float(push.coefficient * vector.tensor.norm()) == pytest.approx(
        0.8 * 3.0
    )  # 3.0: the mean residual norm at layer 1
    steered = [step.id for step in engine.reply(QUESTION, {TRAIT: 0.8}, Talk(max_new_tokens=12))]
    plain = [step.id for step in engine.reply(QUESTION, {TRAIT: 0.0}, Talk(max_new_tokens=12))]
    rows = [Row(encode(llama, QUESTION), pushes=p) for p in ((push,), ())]
    assert [steered, plain] == [c.ids for c in generate(llama, rows, Sampling(max_new_tokens=12))]
    assert steered != plain


def test_a_seeded_reply_repeats_and_an_abandoned_one_leaves_no_hook(llama, root):
    engine = ChatEngine(
        llama, [read_vector(plant(root, llama, TRAIT, {("mean_diff", 1): draw(4)}), ("mean_diff", 1))]
    )
    talk, before = Talk(max_new_tokens=8, temperature=1.0, seed=3), hooks_of(llama)
    twice = [[step.id for step in engine.reply(QUESTION, {}, talk)] for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0] != [
        step.id for step in engine.reply(QUESTION, {}, Talk(max_new_tokens=8, temperature=1.0, seed=4))
    ]
    next(engine.reply(QUESTION, {TRAIT: 0.5}, talk))
    assert hooks_of(llama) == before
    with pytest.raises(UserError, match="the conversation has"):
        list(engine.reply([{"role": "user", "content": "x" * 600}], {}, talk))
    reply = list(engine.reply([{"role": "user", "content": "x" * 480}], {}, Talk(max_new_tokens=400)))
    assert len(reply) <= 512 - 480


def test_a_chat_in_the_terminal_scores_steers_and_takes_back(llama, root, capsys):
    chat = Chat(
        ChatEngine(
            llama, [read_vector(plant(root, llama, TRAIT, {("mean_diff", 1): draw(4)}), ("mean_diff", 1))]
        ),
        Talk(max_new_tokens=5),
        "Be brief.",
    )
    chat.take("Hello")
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
    assert TRAIT in capsys.readouterr().out
    chat.take(f"/steer {TRAIT} -0.2")
    assert chat.doses == {TRAIT: -0.2}
    for line, message in (
        ("/steer mood/none 1", "no vector of mood/none"),
        ("/steer a", "write /steer"),
        (f"/steer {TRAIT} nan", "is no dose"),
        ("/no", "unknown"),
    ):
        with pytest.raises(UserError, match=message):
            chat.take(line)
    chat.take(f"/steer {TRAIT} 0")
    assert chat.doses == {}
    chat.take("And you?")
    chat.take("/undo")
    assert len(chat.messages) == 3
    chat.take("/undo")
    chat.take("/undo")
    assert chat.messages == [{"role": "system", "content": "Be brief."}]
    chat.take("/quit")
    assert chat.is_over


BAD_SETS = {
    "[1, 2]": "must hold",
    '{"prompts": []}': "must hold",
    '{"prompts": [{"id": "a"}]}': "prompt 1: expected an object with one of",
    '{"prompts": [{"id": "a", "text": "x", "turns": ["y"]}]}': "expected an object with one of",
    '{"prompts": [{"id": "a", "text": "  "}]}': "not empty",
    '{"prompts": [{"id": "../a", "text": "x"}]}': "bad prompt name",
    '{"prompts": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}': "occurs twice",
    '{"prompts": [{"id": "a", "messages": [{"role": "user", "content": 3}]}]}': "messages are objects",
    '{"prompts": [{"id": "a", "messages": [{"role": "assistant", "content": "x"}]}]}': "must be the user's",
    '{"prompts": ': "not valid JSON",
}


@pytest.mark.parametrize("content", BAD_SETS)
def test_a_malformed_prompt_set_is_refused_in_one_line(root, content):
    paths = InferencePaths("e", "bad", root)
    paths.dataset.parent.mkdir(parents=True)
    paths.dataset.write_text(content)
    with pytest.raises(UserError, match=BAD_SETS[content]) as caught:
        read_prompt_set(paths)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"unknown prompt set other: .*known: bad"):
        read_prompt_set(InferencePaths("e", "other", root))


def test_damaged_results_are_refused_in_one_line(world):
    paths = world("--limit", "1")
    good = read_json(paths.projections("p0"))
    for damage in (
        {"scores": good["scores"][:-1]},
        {"norms": {}},
        {"scores": [row[:-1] for row in good["scores"]]},
    ):
        write_json(paths.projections("p0"), good | damage)
        with pytest.raises(UserError, match="is damaged"):
            read_projections(paths, "p0")
    write_json(paths.response("p0"), {"id": "p0"})
    with pytest.raises(UserError, match="is no response"):
        read_record(paths, "p0")


def test_prompts_typed_on_the_command_line_are_completed_or_answered(
    root, llama, tiny_folders, monkeypatch, world
):
    base = ("--experiment", "e", "--model", tiny_folders["llama"], "--max-new-tokens", "4")
    call(capture_raw_activations, *base, "--prompt", "The sea is", "--completion")
    paths = InferencePaths("e", "adhoc", root)
    (name,) = [p["id"] for p in read_json(paths.index)["prompts"]]
    record = read_record(paths, name)
    assert record.ids[: record.prompt_tokens] == encode(llama, "The sea is")
    assert [turn["role"] for turn in record.turns] == ["prompt", "response"]
    for flags, message in (
        (("--prompt", "x", "--prompt-set", "set"), "pass --prompt-set NAME, or"),
        (("--prompt", "x", "--completion", "--system-prompt", "y"), "needs chat"),
    ):
        with pytest.raises(UserError, match=message):
            call(capture_raw_activations, *base, *flags)
    call(capture_raw_activations, *base, "--prompt", "x", "--system-prompt", "Be kind.")
    found = [read_record(paths, p["id"]) for p in read_json(paths.index)["prompts"]]
    assert found[0].prompt[0] == {"role": "system", "content": "Be kind."}


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer as Llama 2's and Phi 3's: it writes spaces as ▁, and its decoder drops the first."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁The",
        "▁cat",
        "▁sat",
        "s",
        ".",
    ]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_token_texts_keep_their_spaces(llama, sentencepiece):
    lm = replace(llama, tokenizer=sentencepiece)
    words = ["▁The", "▁cat", "s", "<0xE6>", "<0xBC>", "<0xA2>", "▁sat", "."]
    ids = sentencepiece.convert_tokens_to_ids(words)
    assert token_texts(lm, ids) == ["The", " cat", "s", "", "", "漢", " sat", "."]
    assert token_texts(lm, ids[1:3]) == ["cat", "s"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_token_texts_of_a_sentencepiece_tokenizer_make_up_the_text(tiny_folders, sentencepiece, text):
    lm = replace(load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu")), tokenizer=sentencepiece)
    ids = sentencepiece(text, add_special_tokens=False).input_ids
    assert "".join(token_texts(lm, ids)) == sentencepiece.decode(ids, clean_up_tokenization_spaces=False)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_token_texts_make_up_the_text_whatever_it_holds(tiny_folders, text):
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], device="cpu"))
    ids = lm.tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(token_texts(lm, ids)) == lm.tokenizer.decode(ids)
    decoder = Decoder(lm)
    said = "".join(decoder.add(token) for token in ids)
    if not text.endswith("\ufffd"):
        assert said == lm.tokenizer.decode(ids, skip_special_tokens=True)


def test_pieces_are_located_in_order_whatever_becomes_of_spaces():
    tokens = ["<s>", "The", "sea", " is ", "wide", ".", " The", "sea", "!"]  # this decoder loses spaces
    assert locate(tokens, ["The sea", "the sea", "The sea!"]) == [(1, 3), None, (6, 9)]
    assert locate(tokens, ["", "wi"]) == [None, (4, 5)]


def test_a_lora_adapter_is_merged_and_named(tiny_folders, llama, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_folders["llama"]),
        LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], lora=str(tmp_path / "adapter"), device="cpu"))
    ids = torch.tensor([encode(llama, QUESTION)])
    with torch.inference_mode():
        torch.testing.assert_close(lm.model(ids).logits, adapted.eval()(ids).logits, atol=1e-4, rtol=1e-4)
        assert (lm.model(ids).logits - llama.model(ids).logits).abs().max() > 0.01
    assert lm.identity["identity"] != llama.identity["identity"]
    assert lm.identity["name"].endswith("+ " + str(tmp_path / "adapter"))
    with pytest.raises(UserError, match="cannot load LoRA adapter"):
        load_lm(ModelOptions(model=tiny_folders["llama"], lora=str(tmp_path / "none"), device="cpu"))


def test_records_are_plain_json(world):
    paths = world("--limit", "1")
    columns = {*Record.__dataclass_fields__, "seal"}
    assert set(json.loads(paths.response("p0").read_text())) == columns
    assert "torch" not in sys.modules or paths.projections("p0").stat().st_size < 20_000
