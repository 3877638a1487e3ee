import pytest
import torch

from traitscope.utils.errors import UserError
from traitscope.utils.measures.directions import draw_directions
from traitscope.utils.model import capture
from traitscope.utils.model.capture import Reading, pool_activations, select_positions
from traitscope.utils.model.encode import encode
from traitscope.utils.records.activations import as_stored
from traitscope.utils.stage.layers import parse_layers

TEXTS = ["Hello there", "A much longer text than the first one", "Mid-sized text", "x y z"]


def readings(lm, position: str = "response[:]", n_prompt: int = 4) -> list[Reading]:
    ids = [encode(lm, text) for text in TEXTS]
    return [Reading(i, select_positions(position, n_prompt, len(i) - n_prompt)) for i in ids]


@torch.inference_mode()
def by_hidden_states(lm, reading: Reading) -> torch.Tensor:
    """The slow way: one text at a time, from output_hidden_states (which lack the last block's own
    output).
    """
    states = lm.model(torch.tensor([reading.ids]), output_hidden_states=True).hidden_states[1:-1]
    return torch.stack([h[0, reading.positions].mean(0) for h in states])


@pytest.mark.parametrize(
    "position", ["response[:]", "response[:2]", "response[-1]", "prompt[-1]", "prompt[:]"]
)
def test_batched_pooling_equals_one_text_at_a_time(lm, position):
    pooled = pool_activations(lm, readings(lm, position)).activations
    assert pooled.shape == (len(TEXTS), lm.n_layers, lm.d_model)
    for row, reading in zip(pooled, readings(lm, position), strict=True):
        assert torch.allclose(row[:-1], by_hidden_states(lm, reading), atol=1e-4)


def test_the_result_does_not_depend_on_the_batches(lm):
    one_by_one = pool_activations(lm, readings(lm), batch_tokens=1)
    together = pool_activations(lm, readings(lm), batch_tokens=4096)
    assert torch.allclose(one_by_one.activations, together.activations, atol=1e-4)
    assert torch.allclose(one_by_one.norms, together.norms, rtol=1e-4)


def test_the_vocabulary_projection_is_never_computed(llama, monkeypatch):
    monkeypatch.setattr(llama.model.lm_head, "forward", lambda _: pytest.fail("lm_head was called"))
    pool_activations(llama, readings(llama))


def test_all_layers_come_from_one_forward_pass_per_batch(llama):
    calls = []
    handle = llama.model.model.register_forward_hook(lambda *_: calls.append(1))
    pool_activations(llama, readings(llama), batch_tokens=4096)
    handle.remove()
    assert len(calls) == 1


def test_memory_that_runs_out_halves_the_batch(llama, monkeypatch):
    real, expected = capture._pool_batch, pool_activations(llama, readings(llama))

    def small(lm, component, beginning, batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return real(lm, component, beginning, batch)

    monkeypatch.setattr(capture, "_pool_batch", small)
    assert torch.allclose(
        pool_activations(llama, readings(llama), batch_tokens=4096).activations,
        expected.activations,
        atol=1e-4,
    )


def test_activations_that_overflow_are_an_error_that_names_layer_and_way_out(llama):
    poisoned = [Reading(r.ids, r.positions) for r in readings(llama)]
    block = llama.model.model.layers[2]
    handle = block.register_forward_hook(lambda _m, _i, out: out * float("inf"))
    with pytest.raises(UserError, match="layer 2 are not finite in float32; try --dtype"):
        pool_activations(llama, poisoned)
    handle.remove()


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("response[:]", [4, 5, 6]),
        ("response[:2]", [4, 5]),
        ("response[-1]", [6]),
        ("response[0]", [4]),
        ("response[9]", []),
        ("prompt[-1]", [3]),
        ("prompt[:]", [1, 2, 3]),  # token 0 is a sink
        ("prompt[0]", []),
    ],
)
def test_positions_name_tokens_but_never_token_zero(position, expected):
    assert select_positions(position, 4, 3) == expected


@pytest.mark.parametrize(
    "position", ["response", "answer[:]", "response[a]", "response[:", "", "response[1:2:3]"]
)
def test_a_malformed_position_is_refused(position):
    with pytest.raises(UserError, match="unknown position"):
        select_positions(position, 4, 3)


def test_an_empty_response_has_no_position():
    assert select_positions("response[:]", 4, 0) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", list(range(30))),
        ("16", [16]),
        ("5-8", [5, 6, 7, 8]),
        ("0-29:10", [0, 10, 20]),
        ("30%-60%", list(range(9, 18))),
        ("24,2, 28", [2, 24, 28]),
        ("30%-70%:4", [9, 13, 17]),
    ],
)
def test_a_spec_of_layers_names_the_layers_it_says(spec, expected):
    assert parse_layers(spec, 30) == expected


@pytest.mark.parametrize("spec", ["30", "0-75:5", "x", "", "5-", "-1", "101%", "9-5"])
def test_layers_that_do_not_exist_are_named(spec):
    with pytest.raises(UserError, match="layers"):
        parse_layers(spec, 30)


def test_random_directions_follow_the_covariance():
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([10.0, 3.0, 0.1, 0.0])
    activations = torch.randn(300, 4, generator=generator) * scales + 100
    directions = draw_directions(activations, 400, 0)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(400), atol=1e-5)
    assert directions[:, 0].abs().mean() > 0.8
    assert directions[:, 3].abs().max() < 1e-6
    assert torch.equal(directions, draw_directions(activations, 400, 0))


@pytest.mark.parametrize(
    ("peak", "model_dtype", "stored"),
    [
        (100.0, "float32", torch.float32),
        (100.0, "bfloat16", torch.float16),
        (103_795.0, "bfloat16", torch.float32),
        (100.0, "float16", torch.float16),
    ],
)
def test_activations_are_stored_in_16_bits_only_where_every_value_fits(peak, model_dtype, stored):
    kept = as_stored(torch.tensor([[[1.0, peak]]]), model_dtype)
    assert kept.dtype is stored
    assert kept.isfinite().all()
