from dataclasses import replace

import pytest
import torch

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal
from traitscope.utils.judge.coherence import TokenText, token_nll
from traitscope.utils.model import batching, generation, memory, prefix
from traitscope.utils.model.admission import Habits
from traitscope.utils.model.anatomy import position_limit
from traitscope.utils.model.batching import halve_on_oom, is_out_of_memory, pad_left, plan_batches
from traitscope.utils.model.capture import Reading, pool_activations, record_stream
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, Work, generate
from traitscope.utils.model.hooks import Push, steer

PROMPTS = [
    "Hi",
    "The weather today",
    "A",
    "Once upon a time there was a",
    "Why do leaves",
    "Tell me more about",
]


def rows_of(lm, steered: bool = True) -> list[Row]:
    """Rows of different lengths, seeds and steering, as in a sweep."""
    generator = torch.Generator().manual_seed(0)
    plans = [
        (Push(i % 3, torch.randn(lm.d_model, generator=generator), 0.5 * i),) if steered and i % 2 else ()
        for i in range(len(PROMPTS))
    ]
    return [
        Row(encode(lm, text), seed=i, pushes=plan)
        for i, (text, plan) in enumerate(zip(PROMPTS, plans, strict=True))
    ]


def texts(lm, rows, **sampling) -> list[list[int]]:
    positions = sampling.pop("positions", "all")
    return [c.ids for c in generate(lm, rows, Sampling(**{"max_new_tokens": 12} | sampling), positions)]


@torch.inference_mode()
def greedy_loop(lm, prompt_ids: list[int], n: int) -> list[int]:
    """The plainest generation there is: no cache, no padding, no batch."""
    ids = list(prompt_ids)
    for _ in range(n):
        token = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == 2:
            break
        ids.append(token)
    return ids[len(prompt_ids) :]


def test_batched_cached_generation_equals_a_plain_loop(lm):
    rows = rows_of(lm, steered=False)
    assert texts(lm, rows) == [greedy_loop(lm, row.prompt_ids, 12) for row in rows]


@pytest.mark.parametrize("positions", ["all", "response"])
def test_rows_of_a_mixed_sweep_equal_solo_runs(lm, positions):
    rows = rows_of(lm)
    assert texts(lm, rows, positions=positions) == [texts(lm, [row], positions=positions)[0] for row in rows]


def test_steering_changes_only_the_rows_that_carry_it(lm):
    steered, plain = texts(lm, rows_of(lm)), texts(lm, rows_of(lm, steered=False))
    assert [a == b for a, b in zip(steered, plain, strict=True)][::2] == [True] * 3
    assert steered != plain


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_does_not_depend_on_batch_size_or_order(lm, temperature):
    rows = rows_of(lm)
    whole = texts(lm, rows, temperature=temperature)
    assert texts(lm, rows, temperature=temperature, batch_size=2) == whole
    assert texts(lm, rows[::-1], temperature=temperature)[::-1] == whole


def test_a_seed_fixes_a_sampled_text_and_another_seed_changes_it(llama):
    ids = encode(llama, "Once upon")
    one, same, other = texts(llama, [Row(ids, 1), Row(ids, 1), Row(ids, 2)], temperature=1.0)
    assert one == same != other


def test_responses_are_sliced_at_the_padded_width(lm):
    rows = rows_of(lm, steered=False)
    short = min(range(len(rows)), key=lambda i: len(rows[i].prompt_ids))
    assert (
        texts(lm, rows)[short] == texts(lm, [rows[short]])[0]
    )  # nothing of a prompt leaks into a short row's response


def test_the_end_token_is_dropped_and_reported(llama):
    cut = generation.cut_at_end
    assert cut([7, 8, 2, 9, 0], {2}) == generation.Completion([7, 8], True)
    assert cut([7, 8], {2}) == generation.Completion([7, 8], False)
    assert cut([2], {2}) == generation.Completion([], True)


def test_a_text_beyond_the_context_is_refused_before_anything_runs(lm, monkeypatch):
    monkeypatch.setattr(lm.model, "forward", failing)
    ids = [5 + i % 200 for i in range(510)]
    calls = [
        lambda: generate(lm, [Row([5, 6]), Row(ids)], Sampling(max_new_tokens=8)),
        lambda: pool_activations(lm, [Reading([*ids, 7, 7, 7], [1])]),
        lambda: record_stream(lm, [*ids, 7, 7, 7]),
        lambda: token_nll(lm, [TokenText(ids, [7, 7, 7])]),
    ]
    for call in calls:
        with pytest.raises(UserError, match="takes 512 in all"):
            call()


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
        ({"rope_type": "longrope", "original_max_position_embeddings": 128}, 128),
    ],
)
def test_stretched_positions_reach_as_far_as_no_text_depends_on_its_neighbours(
    llama, monkeypatch, rope, limit
):
    monkeypatch.setattr(llama.model.config, "rope_parameters", rope)
    assert position_limit(llama.model) == limit


def failing(*_arguments, **_named):
    raise AssertionError("a forward pass ran")


def test_an_estimate_of_memory_never_fails_the_run(lm, monkeypatch):
    monkeypatch.setattr(memory, "_run_and_measure", failing)
    memory._measured.clear()
    assert memory.rows_that_fit(lm, 64) >= 1
    memory._measured.clear()


@pytest.mark.parametrize(("rows", "batches"), [("equal", [[2, 3], [0, 1]]), ("single", [[2], [3], [0], [1]])])
def test_rows_that_do_not_stay_apart_are_kept_apart(rows, batches):
    assert plan_batches([3, 3, 5, 5], max_rows=4, rows=rows) == batches


def test_padding_is_on_the_left():
    ids, mask = pad_left([[5], [6, 7, 8]], 0)
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_batch_is_halved_with_its_plan_when_memory_runs_out(lm, monkeypatch):
    rows = rows_of(lm)
    whole, real, sizes = texts(lm, rows), generation._generate_batch, []

    def greedy_for_memory(lm, batch, sampling, positions):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(lm, batch, sampling, positions)

    monkeypatch.setattr(generation, "_generate_batch", greedy_for_memory)
    assert texts(lm, rows) == whole
    assert sizes[0] == len(rows)
    assert max(s for s in sizes if s < 3) <= 2


def test_one_row_that_does_not_fit_raises_and_other_errors_pass_through():
    def fail(error):
        def run(_rows):
            raise error

        return run

    with pytest.raises(torch.OutOfMemoryError):
        halve_on_oom(fail(torch.OutOfMemoryError("out of memory")), [1, 2])
    with pytest.raises(RuntimeError, match="shape"):
        halve_on_oom(fail(RuntimeError("shape mismatch")), [1, 2])
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))


def test_batches_keep_their_budget_and_cover_every_row_once():
    lengths = [5, 90, 7, 7, 30, 200, 1, 64, 64]
    batches = plan_batches(lengths, max_tokens=128, max_rows=3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 128 for b in batches)
    assert max(map(len, batches)) <= 3
    assert lengths[batches[0][0]] == 200  # the largest first: it shows at once whether memory suffices


def test_padding_costs_at_most_five_percent_on_mixed_lengths():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(21, 158, (200,), generator=generator).tolist()
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batching.plan_batches(lengths, max_tokens=512))
    assert padded / sum(lengths) <= 1.05


def test_an_interrupted_generation_resumes_with_the_same_batches(llama, tmp_path, monkeypatch):
    rows, path = rows_of(llama), tmp_path / "progress.jsonl"
    whole, real, calls = texts(llama, rows), generation._generate_batch, []

    def dies_in_the_third_batch(lm, batch, *rest):
        calls.append([row.key for row in batch])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(lm, batch, *rest)

    monkeypatch.setattr(generation, "_generate_batch", dies_in_the_third_batch)
    sampling = Sampling(max_new_tokens=12, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        generate(llama, rows, sampling, work=Work(Journal(path)))
    work = Work(Journal(path))
    assert [c.ids for c in generate(llama, rows, sampling, work=work)] == whole
    assert work.counts == {"calls": 1, "rows": 2}  # only the batch in flight was lost
    assert calls[2] == calls[3]


def test_progress_of_other_settings_is_not_reused(llama, tmp_path):
    rows = rows_of(llama)
    for sampling, calls in (
        (Sampling(12), 1),
        (Sampling(12), 0),
        (Sampling(13), 1),
        (Sampling(12, temperature=1.0), 1),
    ):
        work = Work(Journal(tmp_path / "progress.jsonl"))
        generate(llama, rows, sampling, work=work)
        assert work.counts["calls"] == calls


SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = [
    [SYSTEM, {"role": "user", "content": text}]
    for text in ("Hi", "What?", "Why so late?", "Tell me", "Where to", "How are you")
]


def chat_rows(lm) -> list[Row]:
    """Two questions in three arms, as in a sweep: prompts with a common beginning and different lengths."""
    generator = torch.Generator().manual_seed(1)
    arms = [
        (),
        (Push(1, torch.randn(lm.d_model, generator=generator), 1.0),),
        (Push(0, torch.randn(lm.d_model, generator=generator), 2.0, "ablate"),),
    ]
    return [Row(encode(lm, chat), pushes=arm) for arm in arms for chat in CHATS]


def passes_of(lm, rows: list[Row], positions: str) -> tuple[list, list[tuple[int, int]]]:
    """Return the texts, and the shape of every forward pass."""
    passes: list[tuple[int, int]] = []
    handle = lm.model.base_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = texts(lm, rows, positions=positions)
    handle.remove()
    return found, passes


def test_sharing_the_prompts_beginning_changes_no_text(lm, monkeypatch):
    rows = chat_rows(lm)
    monkeypatch.setattr(prefix, "MIN_SHARED", 10**6)
    alone = texts(lm, rows)
    monkeypatch.setattr(prefix, "MIN_SHARED", 2)
    found, passes = passes_of(lm, rows, "all")
    assert found == alone
    assert passes[0][0] == 3  # one row per steering
    longest = max(len(row.prompt_ids) for row in rows)
    assert passes[1] == (len(rows), longest - passes[0][1])  # the shared part is not computed again


@pytest.mark.parametrize("positions", ["all", "response"])
def test_rows_of_one_prompt_share_all_of_it_and_write_the_same(lm, positions, monkeypatch):
    """With "response" all arms of a question share its prompt; with "all" only rows of one arm do
    (several draws of one prompt).
    """
    rows = (
        chat_rows(lm) * (1 if positions == "response" else 2) + [Row([65])] * 2
    )  # a prompt of one token has nothing to share
    with monkeypatch.context() as patch:
        patch.setattr(generation, "prefill_shared", lambda *_: None)
        alone = texts(lm, rows, positions=positions)
    found, passes = passes_of(lm, rows, positions)
    assert found == alone
    assert [rows for rows, _ in passes[:2]] == [7 if positions == "response" else 19, len(rows)]
    assert passes[1][1] == 1  # of the prompts, only the last token is computed again


def test_prompts_longer_than_an_attention_window_are_shared_as_well(gemma, monkeypatch):
    prompts = [list(range(20, 20 + gemma.model.config.sliding_window + extra)) for extra in (1, 5)]
    rows = [
        Row(ids, pushes=pushes)
        for ids in prompts
        for pushes in ((), (Push(1, torch.ones(gemma.d_model), 1.0),))
    ]
    shared = texts(gemma, rows, positions="response")
    monkeypatch.setattr(generation, "prefill_shared", lambda *_: None)
    assert texts(gemma, rows, positions="response") == shared


def test_sharing_stops_where_it_would_be_wrong_or_useless(gemma, llama, monkeypatch):
    monkeypatch.setattr(prefix, "MIN_SHARED", 2)
    ids = list(range(20, 60))
    window = gemma.model.config.sliding_window
    assert (
        prefix.prefill_shared(gemma, [[*ids[:window], 5], [*ids[:window], 6]], [(), ()], "all") is None
    )  # the window has dropped tokens
    assert (
        prefix.prefill_shared(llama, [[*ids[:3], 5], [*ids[:3], *range(50, 60)]], [(), ()], "all") is None
    )  # more padding than prefix
    assert prefix.prefill_shared(llama, [[1, 2], [3, 4]], [(), ()], "all") is None  # nothing in common
    assert (
        prefix.prefill_shared(llama, [[*ids, 5], [*ids, 6]], [(), (Push(0, torch.ones(32), 1.0),)], "all")
        is None
    )  # no two rows alike


def test_nothing_is_shared_where_a_layer_keeps_a_running_state(gemma):
    same = [list(range(20, 40))] * 4
    assert prefix.prefill_shared(gemma, same, [()] * 4, "response") is not None
    gemma = replace(gemma, habits=Habits(keeps_tokens=False))
    assert prefix.prefill_shared(gemma, same, [()] * 4, "response") is None


def test_steered_text_is_the_same_with_and_without_the_cache(lm):
    row = chat_rows(lm)[0]
    push = Push(1, torch.randn(32, generator=torch.Generator().manual_seed(3)), 1.5)
    cached = generate(lm, [Row(row.prompt_ids, pushes=(push,))], Sampling(max_new_tokens=10))[0]
    ids = list(row.prompt_ids)
    for token in cached.ids:
        with torch.inference_mode(), steer(lm.model, [[push]]):
            logits = lm.model(input_ids=torch.tensor([ids], device=lm.device), use_cache=False).logits[0, -1]
        best = logits.float().topk(2)
        assert token == int(best.indices[0]) or float(best.values[0] - best.values[1]) < 1e-3
        ids.append(token)
