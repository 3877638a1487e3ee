import pytest
import torch

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import hidden_of, layers
from traitscope.utils.model.encode import encode
from traitscope.utils.model.hooks import Push, record, steer
from traitscope.utils.model.parts import COMPONENTS

D = 32


def unit(seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(seed)), dim=0)


def ids_of(lm, n: int = 3) -> torch.Tensor:
    texts = ["It was a dark night", "The best of times, ", "Call me Ishmael now"][:n]
    return torch.tensor([encode(lm, t) for t in texts])


@torch.inference_mode()
def streams(lm, ids, plan=None, positions="all", component="residual") -> dict[int, torch.Tensor]:
    """Every layer's output, as the next block gets it."""
    seen = {}
    with (
        steer(lm.model, plan or [()] * len(ids), positions),
        record(lm.model, lambda layer, h: seen.update({layer: h.clone()}), component),
    ):
        lm.model(ids)
    return seen


@torch.inference_mode()
def logits(lm, ids, plan=None, positions="all"):
    with steer(lm.model, plan or [()] * len(ids), positions):
        return lm.model(ids).logits


def n_hooks(lm) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def test_recorded_layers_are_the_hidden_states_of_the_same_index(lm):
    ids = ids_of(lm)
    seen = streams(lm, ids)
    states = lm.model(ids, output_hidden_states=True).hidden_states
    for layer in range(lm.n_layers - 1):  # the last hidden state is after the final norm
        assert torch.equal(seen[layer], states[layer + 1])
    assert not torch.allclose(seen[lm.n_layers - 1], states[-1])
    final_norm = lm.model.get_decoder().norm
    assert torch.allclose(final_norm(seen[lm.n_layers - 1]), states[-1], atol=1e-5)


def test_components_sum_to_the_residual_stream(lm):
    ids = ids_of(lm)
    parts = {c: streams(lm, ids, component=c) for c in COMPONENTS}
    for layer in range(1, lm.n_layers):
        total = parts["residual"][layer - 1] + parts["attn_out"][layer] + parts["mlp_out"][layer]
        assert torch.allclose(total, parts["residual"][layer], atol=1e-4)


def test_tuple_and_tensor_outputs_are_both_understood():
    hidden = torch.ones(2, 3, 4)
    assert hidden_of(hidden) is hidden
    assert hidden_of((hidden, "cache")) is hidden


def test_coefficient_zero_is_bit_identical_to_no_steering(lm):
    ids = ids_of(lm)
    plan = [(Push(layer, unit(layer), 0.0),) for layer in range(3)]
    assert torch.equal(logits(lm, ids, plan), logits(lm, ids))


def test_only_layers_from_the_push_on_change(lm):
    ids = ids_of(lm)
    plain, steered = streams(lm, ids), streams(lm, ids, [(Push(2, unit(), 5.0),)] * 3)
    assert all(torch.equal(plain[layer], steered[layer]) for layer in (0, 1))
    assert not any(torch.allclose(plain[layer], steered[layer]) for layer in (2, 3))


def test_add_moves_every_position_by_coefficient_times_vector(lm):
    ids, v = ids_of(lm), 3 * unit()
    moved = streams(lm, ids, [(Push(1, v, 2.0),)] * 3)[1] - streams(lm, ids)[1]
    assert torch.allclose(moved, (2 * v).expand_as(moved), atol=1e-4)


def test_plus_then_minus_is_the_baseline(lm):
    ids = ids_of(lm)
    plan = [(Push(1, unit(), 4.0), Push(1, unit(), -4.0))] * 3
    assert torch.allclose(logits(lm, ids, plan), logits(lm, ids), atol=1e-4)


def test_an_ablated_projection_is_gone(lm):
    ids, v = ids_of(lm), 7 * unit()
    after = streams(lm, ids, [(Push(2, v, 1.0, "ablate"),)] * 3)[2]
    assert (after @ unit()).abs().max() < 1e-4


def test_cap_never_raises_and_is_idempotent(lm):
    ids, v = ids_of(lm), unit()
    before = streams(lm, ids)[2] @ v
    limit = float(before.median())
    once = streams(lm, ids, [(Push(2, v, limit, "cap"),)] * 3)[2] @ v
    twice = streams(lm, ids, [(Push(2, v, limit, "cap"), Push(2, v, limit, "cap"))] * 3)[2] @ v
    assert torch.allclose(once, before.clamp(max=limit), atol=1e-4)
    assert torch.allclose(twice, once, atol=1e-5)


def test_every_row_is_steered_by_its_own_plan(lm):
    ids = ids_of(lm)
    plans = [(Push(1, unit(1), 6.0),), (), (Push(2, unit(2), -3.0), Push(0, unit(3), 2.0, "ablate"))]
    mixed = logits(lm, ids, plans)
    for row, plan in enumerate(plans):
        assert torch.allclose(mixed[row], logits(lm, ids[row : row + 1], [plan])[0], atol=1e-4)


def test_response_positions_leave_the_prompt_before_its_last_token_alone(lm):
    ids = ids_of(lm)
    plain, steered = streams(lm, ids)[1], streams(lm, ids, [(Push(1, unit(), 5.0),)] * 3, "response")[1]
    assert torch.equal(plain[:, :-1], steered[:, :-1])
    assert torch.allclose(steered[:, -1] - plain[:, -1], 5 * unit(), atol=1e-4)


def test_hooks_are_removed_even_when_the_body_raises(lm):
    before = n_hooks(lm)
    with (
        pytest.raises(KeyError),
        steer(lm.model, [(Push(1, unit(), 1.0),)]),
        record(lm.model, lambda *_: None),
    ):
        assert n_hooks(lm) > before
        raise KeyError("boom")
    assert n_hooks(lm) == before


def test_the_check_counts_passes_and_measures_the_projection(llama):
    ids, v = ids_of(llama, 2), 2 * unit()
    with torch.inference_mode(), steer(llama.model, [(Push(1, v, 3.0),), ()]) as check:
        llama.model(ids)
        llama.model(ids)
    assert (check.forwards, check.fires) == (2, {1: 2})
    assert torch.allclose(check.measured[1], torch.tensor([6.0, 0.0]), atol=1e-4)


def test_a_silent_no_op_is_an_error(llama):
    def undo(_module, inputs, output):  # what a hook that returns nothing, or edits a copy, amounts to
        return hidden_of(output) - 3 * unit()

    ids = ids_of(llama, 1)
    with (
        pytest.raises(RuntimeError, match="the projection moved by"),
        torch.inference_mode(),
        steer(llama.model, [(Push(1, unit(), 3.0),)]) as check,
    ):
        watcher = list(layers(llama.model)[1]._forward_hooks)[-1]
        hook = layers(llama.model)[1]._forward_hooks.pop(watcher)
        handle = layers(llama.model)[1].register_forward_hook(undo)
        layers(llama.model)[1]._forward_hooks[watcher] = (
            hook  # the watcher looks last, as the next block would
        )
        llama.model(ids)
        handle.remove()
    assert check.fires == {1: 1}


def test_a_hook_that_did_not_fire_is_an_error(llama):
    with (
        pytest.raises(RuntimeError, match="acted in 0 of 1 forward passes"),
        torch.inference_mode(),
        steer(llama.model, [(Push(3, unit(), 3.0),)]) as check,
    ):
        llama.model(ids_of(llama, 1))
        check.fires.clear()


@pytest.mark.parametrize(
    ("push", "positions", "message"),
    [
        (Push(9, unit(), 1.0), "all", "no layer 9; the model has layers 0 to 3"),
        (Push(1, unit(), 1.0, "rotate"), "all", "unknown operation rotate; choose add, ablate, cap"),
        (Push(1, unit(), 1.0), "everywhere", "unknown positions 'everywhere'; choose all, response"),
    ],
)
def test_a_wrong_plan_lists_the_valid_choices(llama, push, positions, message):
    with pytest.raises(ValueError, match=message), steer(llama.model, [(push,)], positions):
        pass


def test_unknown_component_lists_the_choices(llama):
    with (
        pytest.raises(ValueError, match="choose residual, attn_out, mlp_out"),
        record(llama.model, lambda *_: None, "heads"),
    ):
        pass


def test_bfloat16_steering_passes_its_own_check(tiny_folders):
    from traitscope.utils.model.loading import ModelOptions, load_lm

    lm = load_lm(ModelOptions(model=tiny_folders["gemma"], dtype="bfloat16"))
    with torch.inference_mode(), steer(lm.model, [(Push(1, unit(), 4.0),)] * 3) as check:
        lm.model(ids_of(lm))
    assert check.fires == {1: 1}


def test_an_unsupported_architecture_says_so():
    from types import SimpleNamespace

    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=3)),
        get_decoder=lambda: torch.nn.Linear(2, 2),
        base_model=torch.nn.Linear(2, 2),
    )
    with pytest.raises(UserError, match="not supported"):
        layers(model)


@pytest.mark.parametrize(
    ("operation", "coefficient"), [("ablate", 1.0), ("ablate", 0.5), ("cap", -1.0), ("clamp", 3.0)]
)
def test_an_operation_that_is_undone_is_an_error(llama, operation, coefficient, monkeypatch):
    from traitscope.utils.model import hooks

    push = Push(1, torch.randn(32, generator=torch.Generator().manual_seed(2)), coefficient, operation)
    ids = torch.arange(10, 20)[None]
    with torch.inference_mode(), steer(llama.model, [[push]]):
        llama.model(input_ids=ids)  # done as it should be, it passes
    monkeypatch.setitem(hooks.OPERATIONS, operation, lambda hidden, unit, coefficient: hidden)
    with (
        pytest.raises(RuntimeError, match=f"{operation} left a projection"),
        torch.inference_mode(),
        steer(llama.model, [[push]]),
    ):
        llama.model(input_ids=ids)
