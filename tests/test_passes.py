"""Forward passes over known ids: what rows have in common is computed once, and nothing else changes."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma4TextConfig

from traitscope.utils.judge.coherence import TokenText, token_nll
from traitscope.utils.model import passes
from traitscope.utils.model.admission import Habits
from traitscope.utils.model.batching import plan_batches
from traitscope.utils.model.capture import Reading, pool_activations
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.loading import ModelOptions, wrap
from traitscope.utils.model.passes import Batch, _cost, group_alike, plan_passes
from traitscope.utils.model.prefix import prefill_shared

BUDGET = 128


def prompts_with_responses(
    families: int, prompts: int, rollouts: int, seed: int = 0
) -> tuple[list[list[int]], list[int]]:
    """Return texts of `families` system messages × `prompts` questions × `rollouts` responses after one
    header, shuffled, and their prompts' lengths.
    """
    rng = random.Random(seed)

    def some(least: int, most: int) -> list[int]:
        return [rng.randrange(10, 200) for _ in range(rng.randint(least, most))]

    header, texts = some(9, 9), []
    for _ in range(families):
        system = some(8, 12)
        for _ in range(prompts):
            prompt = [*header, *system, *some(4, 10)]
            texts += [([*prompt, *some(1, 12)], len(prompt)) for _ in range(rollouts)]
    rng.shuffle(texts)
    return [ids for ids, _ in texts], [n for _, n in texts]


def tokens_fed(lm, work) -> int:
    fed: list[int] = []
    handle = lm.model.base_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    work()
    handle.remove()
    return sum(fed)


@pytest.mark.parametrize("shape", [(1, 12, 1), (1, 4, 6), (3, 6, 1), (3, 3, 3), (1, 1, 1), (1, 1, 9)])
def test_every_row_is_fed_once_and_only_what_all_rows_of_a_batch_begin_with_is_shared(shape):
    for seed in range(5):
        sequences, unread = prompts_with_responses(*shape, seed=seed)
        batches = group_alike(sequences, unread, BUDGET)
        assert sorted(i for b in batches for i in b.rows) == list(range(len(sequences)))
        for batch in batches:
            assert batch.n_shared < min(unread[i] for i in batch.rows)
            assert len({tuple(sequences[i][: batch.n_shared]) for i in batch.rows}) == 1
            width = max(len(sequences[i]) for i in batch.rows) - batch.n_shared
            assert len(batch.rows) == 1 or len(batch.rows) * width <= BUDGET


@pytest.mark.parametrize("what", ["prompts", "rollouts", "system messages"])
def test_the_deepest_sharing_that_pays_is_chosen(what):
    """One header over many prompts; many rollouts of each prompt; a few system messages over many
    questions.
    """
    sequences, unread = prompts_with_responses(
        *{"prompts": (40, 1, 1), "rollouts": (1, 4, 20), "system messages": (3, 20, 1)}[what]
    )
    batches = group_alike(sequences, unread, BUDGET)
    least, most = {"prompts": (9, 9), "rollouts": (20, 30), "system messages": (16, 24)}[what]
    assert all(least <= b.n_shared <= most for b in batches)
    if what == "prompts":
        assert [len(b.rows) for b in batches] == [
            len(rows) for rows in plan_batches([len(s) - 9 for s in sequences], max_tokens=BUDGET)
        ]
    lengths = [max(len(sequences[i]) for i in b.rows) for b in batches]
    assert lengths[0] == max(lengths)  # memory that does not suffice shows early


def test_what_saves_little_is_not_shared():
    """A header of 9 tokens before texts of a hundred; pairs of texts, where a pass holds many."""
    rng = random.Random(0)
    header = list(range(9))
    texts = [[*header, *(rng.randrange(10, 200) for _ in range(100))] for _ in range(20)]
    assert {b.n_shared for b in group_alike(texts, [50] * 20, 512)} == {0}
    pairs = [[i, *range(300, 330), k] for i in range(20) for k in range(2)]
    assert {b.n_shared for b in group_alike(pairs, [31] * 40, 4096)} == {0}


def test_a_beginning_costs_its_tokens_once_for_batches_in_a_row():
    sequences = [[*range(10), 50 + i] for i in range(4)]
    one, other = Batch([0, 1], 10), Batch([2, 3], 10)
    assert _cost([one, other], sequences, 80) - _cost([one], sequences, 80) == 2 + 10  # two tokens and a pass
    assert _cost([one], sequences, 80) == 2 + 10 + 10 + 10  # a pass more, for ten tokens


def test_texts_with_nothing_in_common_are_batched_by_length():
    sequences = [[i, *range(300 + i, 330 + 2 * i)] for i in range(20)]
    batches = group_alike(sequences, [20] * 20, 512)
    assert {b.n_shared for b in batches} == {0}
    widths = [len(sequences[i]) for b in batches for i in b.rows]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("first", [0, 1, 3, -1])
def test_activations_are_the_same_whatever_is_shared(lm, monkeypatch, first):
    """Read from the first response token, from later ones, and from the last prompt token; the tiny
    Gemma's window is shorter than its texts.
    """
    sequences, n_prompt = prompts_with_responses(2, 4, 3)
    sequences, n_prompt = (
        [*sequences, *sequences[:5]],
        [*n_prompt, *n_prompt[:5]],
    )  # some are alike to the end, and are read all the same
    readings = [
        Reading(ids, list(range(n + min(first, len(ids) - n - 1), len(ids))))
        for ids, n in zip(sequences, n_prompt, strict=True)
    ]
    monkeypatch.setattr(passes, "WORTH", 0)
    alone = pool_activations(lm, readings, batch_tokens=BUDGET)
    monkeypatch.setattr(passes, "WORTH", 2)
    for candidates in (1, 8):
        monkeypatch.setattr(passes, "CANDIDATES", candidates)
        shared = pool_activations(lm, readings, batch_tokens=BUDGET)
        assert torch.allclose(shared.activations, alone.activations, atol=1e-3, rtol=1e-4)
        assert torch.allclose(shared.norms, alone.norms, rtol=1e-4)


def test_upper_layers_that_read_the_keys_of_lower_ones_keep_none_of_their_own(llama):
    """As Gemma 4's small models do: their cache has layers that are never filled."""
    shape = {
        "vocab_size": 261,
        "vocab_size_per_layer_input": 261,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
    }
    shape |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
    }
    kinds = ["sliding_attention", "full_attention"] * 3
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        Gemma4TextConfig(num_kv_shared_layers=2, layer_types=kinds, sliding_window=64, **shape)
    )
    lm = wrap(model, llama.tokenizer, ModelOptions(model="shares keys"))
    sequences, n_prompt = prompts_with_responses(40, 1, 1)
    readings = [Reading(ids, list(range(n, len(ids)))) for ids, n in zip(sequences, n_prompt, strict=True)]
    assert next(iter(plan_passes(lm, sequences, n_prompt, BUDGET)))[1].n_tokens == 9
    together = pool_activations(lm, readings, batch_tokens=BUDGET).activations
    alone = torch.cat([pool_activations(lm, [r]).activations for r in readings])
    assert torch.allclose(together, alone, atol=1e-4)
    rows = [Row(ids[:n]) for ids, n in zip(sequences[:6], n_prompt[:6], strict=True)]
    assert prefill_shared(lm, [r.prompt_ids for r in rows], [()] * 6, "all") is not None
    assert generate(lm, rows, Sampling(8)) == [generate(lm, [row], Sampling(8))[0] for row in rows]


def test_a_beginning_is_fed_once_for_all_batches(llama):
    sequences, n_prompt = prompts_with_responses(40, 1, 1)
    readings = [Reading(ids, list(range(n, len(ids)))) for ids, n in zip(sequences, n_prompt, strict=True)]
    rests = sum(len(ids) - 9 for ids in sequences)
    assert (
        9 + rests
        <= tokens_fed(llama, lambda: pool_activations(llama, readings, batch_tokens=BUDGET))
        <= 9 + 1.1 * rests
    )
    texts = [TokenText(ids[:n], ids[n:]) for ids, n in zip(sequences, n_prompt, strict=True)]
    assert 9 + rests <= tokens_fed(llama, lambda: token_nll(llama, texts, BUDGET)) <= 9 + 1.1 * rests


def test_a_pass_leaves_nothing_in_the_shared_cache(llama):
    sequences, n_prompt = prompts_with_responses(40, 1, 1)
    found = list(plan_passes(llama, sequences, n_prompt, BUDGET))
    cache = found[0][1].cache
    assert cache is not None
    assert all(beginning.cache is cache for _, beginning in found)
    before = [layer.keys.clone() for layer in cache.layers]
    with torch.inference_mode():
        for rows, beginning in found:
            llama.model.base_model(**beginning.arguments([sequences[i] for i in rows], llama.device))
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


def test_nothing_beyond_an_attention_window_is_shared_and_nothing_where_a_layer_keeps_a_running_state(gemma):
    header = list(range(20, 20 + 2 * gemma.model.config.sliding_window))
    sequences = [[*header, 100 + i, 7] for i in range(20)]
    unread = [len(header)] * 20
    assert {beginning.n_tokens for _, beginning in plan_passes(gemma, sequences, unread, 512)} == {
        gemma.model.config.sliding_window - 2
    }
    gemma = replace(gemma, habits=Habits(keeps_tokens=False))
    assert {beginning.n_tokens for _, beginning in plan_passes(gemma, sequences, unread, 512)} == {0}
