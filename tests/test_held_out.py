"""The held-out split: what a vector is measured on shares no text with what it was fitted on."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from conftest import CHECKOUT, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from traitscope.extraction.run_pipeline import load_stage
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import CAPTURE, FIT, SIDES, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.judge.embedded import EmbeddedJudge
from traitscope.utils.model.encode import Prompt, text_of
from traitscope.utils.model.loading import ModelOptions
from traitscope.utils.records.activations import read_captured, read_fitted_on, write_captured
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.held_out import FEW, HeldOut, held_out_sizes, split_held_out
from traitscope.utils.records.questions import read_pool
from traitscope.utils.records.responses import Response, write_responses
from traitscope.utils.records.scores import ScoredRow
from traitscope.utils.records.texts import normalised
from traitscope.utils.records.vectors import list_vectors
from traitscope.utils.stage.flags import bind

WIDTH = 300
SEEDS = range(40)


def response(side: str, pair: int, group: int, prompt: Prompt = "p", rollout: int = 0) -> Response:
    return Response(f"{side}:{pair}:{rollout}", side, pair, group, rollout, prompt, "r", [1], [2], True)


def told(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def instructed(n_instructions: int, n_questions: int) -> list[Response]:
    """Return a trait of the instructions form as stage 1 writes it, and as older versions wrote it."""
    return [
        response(side, i * n_questions + j, j, told(f"{side} instruction {i}", f"question {j}?"))
        for side in SIDES
        for i in range(n_instructions)
        for j in range(n_questions)
    ]


def repeating(n_texts: int, times: int) -> list[Response]:
    """Return scenarios whose every line stands several times in its file, with other case and spacing."""
    forms = (str, str.upper, lambda text: f" {text}. ")
    return [
        response(side, k * n_texts + i, k * n_texts + i, forms[k % 3](f"{side} line {i}"))
        for side in SIDES
        for k in range(times)
        for i in range(n_texts)
    ]


def texts_of(r: Response) -> set[str]:
    parts = [r.prompt] if isinstance(r.prompt, str) else [m["content"] for m in r.prompt]
    return set(map(normalised, parts))


def asked(r: Response) -> set[str]:
    return {normalised(text_of(r.prompt))}


def instructions(r: Response) -> set[str]:
    return texts_of(r) - asked(r)


def auroc(pos: np.ndarray, neg: np.ndarray) -> float:
    return float(np.mean(pos[:, None] > neg[None, :]) + 0.5 * np.mean(pos[:, None] == neg[None, :]))


def held_out_auroc(responses: list[Response], splits: list[str], seed: int, common: float = 0.0) -> float:
    """Return how the difference of means separates held-out responses, whose activations are a random vector for
    every text of their prompts, some noise, and `common` along one direction of the sides.
    """
    draw = np.random.default_rng(seed)
    of_text: dict[str, np.ndarray] = {}
    acts = np.stack(
        [
            sum(of_text.setdefault(text, draw.normal(size=WIDTH)) for text in sorted(texts_of(r)))
            + 0.1 * draw.normal(size=WIDTH)
            for r in responses
        ]
    )
    sign = np.array([1.0 if r.side == "pos" else -1.0 for r in responses])
    acts[:, 0] += common * sign

    is_in = {s: np.array([split == s for split in splits]) for s in ("train", "val")}
    mean = {x: acts[is_in["train"] & (sign == x)].mean(axis=0) for x in (1.0, -1.0)}
    along = acts @ (mean[1.0] - mean[-1.0])
    return auroc(along[is_in["val"] & (sign > 0)], along[is_in["val"] & (sign < 0)])


def by_group(responses: list[Response], seed: int) -> list[str]:
    """Hold out what the dataset calls a group and look at no text, as older versions did."""
    groups = sorted({r.group for r in responses})
    new = set(random.Random(seed).sample(groups, round(0.2 * len(groups))))
    return ["val" if r.group in new else "train" for r in responses]


def by_text(responses: list[Response], seed: int) -> list[str]:
    return split_held_out(responses, 0.2, seed).splits


def mean_auroc(responses: list[Response], split: Callable, common: float = 0.0) -> float:
    return float(np.mean([held_out_auroc(responses, split(responses, s), s, common) for s in SEEDS]))


@pytest.mark.parametrize("responses", [repeating(20, 3), instructed(5, 20)], ids=["repeated", "instructions"])
def test_texts_that_were_learnt_by_heart_do_not_count_as_a_direction(responses):
    assert mean_auroc(responses, by_group) > 0.95  # the planted leak is one
    assert abs(mean_auroc(responses, by_text) - 0.5) < 0.12


@pytest.mark.parametrize("responses", [repeating(20, 3), instructed(5, 20)], ids=["repeated", "instructions"])
def test_a_direction_that_the_sides_share_is_still_found(responses):
    assert mean_auroc(responses, by_text, common=30.0) > 0.97


def test_five_instructions_on_twenty_questions_hold_out_two_by_six():
    held_out = split_held_out(instructed(5, 20), 0.2, 0)
    assert held_out.by == ("group", "instruction")
    assert held_out.as_json() == {
        "by": ["group", "instruction"],
        "train": 2 * 3 * 14,
        "val": 2 * 2 * 6,
        "aside": 2 * (2 * 14 + 3 * 6),
    }


@pytest.mark.parametrize(
    ("n_instructions", "n_questions", "share", "expected"),
    [
        (5, 20, 0.2, (2, 6)),
        (5, 10, 0.2, (2, 3)),
        (5, 20, 0.05, (2, 5)),
        (2, 2, 0.2, (1, 1)),
        (3, 40, 0.2, (1, 14)),
    ],
)
def test_sizes_of_usual_datasets(n_instructions, n_questions, share, expected):
    assert held_out_sizes(n_instructions, n_questions, share) == expected


@given(st.integers(2, 8), st.integers(2, 40), st.floats(0.05, 0.6))
def test_sizes_hold_out_the_share_and_leave_the_most_to_be_fitted_on(n_instructions, n_questions, share):
    def counts(i: int, q: int) -> tuple[int, int]:
        return i * q, (n_instructions - i) * (n_questions - q)

    i, q = held_out_sizes(n_instructions, n_questions, share)
    assert i in range(1, n_instructions)
    assert q in range(1, n_questions)

    val, train = counts(i, q)
    others = [counts(a, b) for a in range(1, n_instructions) for b in range(1, n_questions)]
    assert val >= share * (val + train) or val == max(other for other, _ in others)
    if val >= FEW and train >= 2 * val:
        assert not [o for o, t in others if o >= max(FEW, share * (o + t)) and t > max(train, 2 * o)]
    elif val < FEW:  # it could not be helped
        assert not [o for o, t in others if o >= max(FEW, share * (o + t)) and t >= 2 * o]


def test_scenarios_without_repetitions_are_drawn_as_ever():
    rows = [response(side, g, g, f"{side} {g}", r) for side in SIDES for g in range(50) for r in range(2)]
    for seed in range(5):
        held_out = split_held_out(rows, 0.2, seed)
        assert held_out.splits == by_group(rows, seed)
        assert held_out.by == ("group",)


def test_one_system_prompt_a_side_cannot_be_held_out_and_it_says_so():
    rows = [response(side, j, j, told(side, f"question {j}")) for side in SIDES for j in range(20)]
    held_out = split_held_out(rows, 0.2, 0)
    assert held_out.by == ("group",)
    assert held_out.splits.count("val") == 8


def test_one_question_leaves_the_instructions_to_be_held_out():
    held_out = split_held_out(instructed(10, 1), 0.2, 0)
    assert held_out.by == ("instruction",)
    assert held_out.splits.count("val") == 4


def test_prompts_with_an_instruction_of_their_own_leave_nothing_aside():
    rows = [response(side, j, j, told(f"{side} {j}", f"question {j}")) for side in SIDES for j in range(20)]
    held_out = split_held_out(rows, 0.2, 0)
    assert held_out.as_json() == {"by": ["group", "instruction"], "train": 32, "val": 8, "aside": 0}


def test_a_text_of_most_pairs_is_never_held_out():
    rows = [response(s, i, i, "the same" if i < 12 else f"{s} {i}") for s in SIDES for i in range(20)]
    for seed in range(20):
        splits = split_held_out(rows, 0.2, seed).splits
        assert {split for split, r in zip(splits, rows, strict=True) if r.prompt == "the same"} == {"train"}
        assert "val" in splits


def test_nothing_is_held_out_of_a_share_of_nothing():
    for rows in (instructed(5, 20), repeating(20, 1)):
        assert set(split_held_out(rows, 0.0, 0).splits) == {"train"}


PROMPTS = st.one_of(
    st.sampled_from(["a", "A.", "b", "c", "d", "e", "f", "g"]),
    st.builds(
        told, st.sampled_from(["s", "S!", "t", "u", "v"]), st.sampled_from(["a", "b", "c", "d", "e", "f"])
    ),
)


@given(st.lists(st.tuples(PROMPTS, PROMPTS), min_size=1, max_size=25), st.floats(0, 0.9), st.integers(0, 9))
def test_no_text_of_a_held_out_prompt_was_fitted_on_and_no_pair_is_torn(pairs, share, seed):
    rows = [response(s, i, i, p) for i, pair in enumerate(pairs) for s, p in zip(SIDES, pair, strict=True)]
    held_out: HeldOut = split_held_out(rows, share, seed)
    assert held_out == split_held_out(rows, share, seed)

    for by, texts in (("group", asked), ("instruction", instructions)):
        seen = {
            split: set().union(*(texts(r) for r, s in zip(rows, held_out.splits, strict=True) if s == split))
            for split in ("train", "val")
        }
        assert by not in held_out.by or not seen["train"] & seen["val"]

    of_pair = {
        i: {s for s, r in zip(held_out.splits, rows, strict=True) if r.pair == i} for i in range(len(pairs))
    }
    assert all(len(splits) == 1 for splits in of_pair.values())


@pytest.fixture
def captured(tmp_path, llama) -> TraitPaths:
    """Responses of five instructions on twenty questions, of a tiny model, and what stage 3 said of them."""
    paths = TraitPaths("e", "mood/told", tmp_path)
    draw = random.Random(0)
    rows = [
        replace(r, prompt_ids=[1, 2, 3], response_ids=[draw.randrange(3, 99) for _ in range(4)])
        for r in instructed(5, 20)
    ]
    write_responses(paths, rows, {"model": llama.identity})
    return paths


def fit(paths: TraitPaths, **given) -> dict:
    stage = load_stage(FIT)
    values = {"methods": ("mean_diff",), "fit_layers": "1", "no_vet": True, **given}
    return stage.run(paths, **bind(stage.run, stage.params(values)))


def test_stages_3_and_4_neither_fit_nor_measure_on_what_is_left_aside(captured, tiny_folders):
    said = load_stage(CAPTURE).run(captured, model=ModelOptions(model=tiny_folders["llama"], device="cpu"))
    assert (said["held out"], said["left aside"]) == (24, 92)

    content = read_json(captured.activations_metadata)
    assert content["held_out"] == {"by": ["group", "instruction"], "train": 84, "val": 24, "aside": 92}
    of_split = {s: {r["key"] for r in content["rows"] if r["split"] == s} for s in ("train", "val", "aside")}
    fit(captured)
    fitted_on = read_fitted_on(captured)
    assert (fitted_on.keys("train"), fitted_on.keys("val")) == (of_split["train"], of_split["val"])
    about = list_vectors(captured)["mean_diff", 1]
    assert (about.train.n_pos, about.val.n_pos, about.val.n_neg) == (42, 12, 12)


def test_what_is_left_aside_does_not_count_as_usable(captured, tiny_folders):
    load_stage(CAPTURE).run(captured, model=ModelOptions(model=tiny_folders["llama"], device="cpu"))
    with pytest.raises(UserError, match="only 54 usable pos responses, 55 are needed"):
        fit(captured, min_usable=55)


def test_activations_of_an_older_version_are_fitted_as_they_were_held_out(captured, tiny_folders, llama):
    load_stage(CAPTURE).run(captured, model=ModelOptions(model=tiny_folders["llama"], device="cpu"))
    content = read_json(captured.activations_metadata)
    responses = instructed(5, 20)
    splits = by_group(responses, 0)
    columns = (
        "made_by",
        "responses_sha256",
        "component",
        "position",
        "mean_norms",
        "left_out_without_tokens",
    )
    rows = [
        {"key": r.key, "side": r.side, "pair": r.pair, "group": r.group, "split": s}
        for r, s in zip(responses, splits, strict=True)
    ]
    tensor = read_captured(captured).activations
    write_captured(captured, tensor, {name: content[name] for name in columns} | {"rows": rows})

    fit(captured)
    assert read_fitted_on(captured).keys("val") == {
        r.key for r, s in zip(responses, splits, strict=True) if s == "val"
    }
    assert list_vectors(captured)["mean_diff", 1].val.n_pos == 20


def test_the_embedded_judge_cannot_learn_a_repeated_text_by_heart(tmp_path):
    texts = random.Random(1).sample(read_pool(CHECKOUT), 40)  # of no trait: sides by chance
    order = random.Random(2).sample(range(60), 60)
    paths = TraitPaths("e", "mood/chance", tmp_path)
    lines = {
        "positive.txt": "\n".join(texts[i % 20] for i in order),
        "negative.txt": "\n".join(texts[20 + i % 20] for i in order),
    }
    write_dataset(paths.dataset, {**lines, "definition.txt": "chance"})
    rubric = read_trait(paths).rubric
    by_line = replace(rubric, examples=tuple(replace(e, family=e.line) for e in rubric.examples))

    accuracy = [EmbeddedJudge(r).identity["cross_validated_accuracy"] for r in (by_line, rubric)]
    assert accuracy[0] > 0.8  # the planted leak is one
    assert accuracy[1] < 0.7


def test_a_scenario_is_known_by_its_line_and_in_older_files_by_its_group():
    row = {"side": "pos", "index": 3, "group": 0, "text": "sunny", "value": 50.0, "state": "scored"}
    assert ScoredRow.model_validate(row | {"line": 3}).place == 3
    assert ScoredRow.model_validate(row | {"group": 2}).place == 2
