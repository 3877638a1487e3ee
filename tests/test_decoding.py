"""Decoding by fixed tensors writes what transformers' own loop writes, and its step is fit for a CUDA
graph, which a tape stands in for here.
"""

from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Qwen3Config

from traitscope.utils.model import decoding, generation, graphs, prefix
from traitscope.utils.model.anatomy import layers
from traitscope.utils.model.batching import pad_left
from traitscope.utils.model.decoding import Decoding, can_decode, prefill
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.hooks import Push, SteerCheck, steer
from traitscope.utils.model.loading import LM, ModelOptions, _load, wrap

aten = torch.ops.aten
WAITS = (
    aten._local_scalar_dense,
    aten.item,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
)  # Python needs what the GPU computes
READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Tape(TorchDispatchMode):
    """Keeps the operations of a step with the memory they used, and plays them again in that memory
    without any Python: a CUDA graph on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        picks = func.overloadpacket is aten.index and any(
            t.dtype == torch.bool for t in tree_leaves(args[1]) if t is not None
        )
        waits = picks or func.overloadpacket in WAITS
        assert not waits, f"{func} waits for the GPU"
        result = func(*args, **kwargs or {})
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        for func, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if (
                    isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr()
                ):  # else a view, or changed in place
                    old.copy_(new)


class Graph:
    """Stands in for `Replay`."""

    made: ClassVar[list["Graph"]] = []

    def __init__(self) -> None:
        self.tape, self.plays, self.is_closed = Tape(), 0, False
        Graph.made.append(self)

    def warm_up(self, step) -> None:
        step()
        step()

    def capture(self, step) -> None:
        self.state: Decoding = step.__self__
        tensors = [*self.state.counters, *self.state.states]
        before = [t.clone() for t in tensors]
        with pytest.MonkeyPatch.context() as patch, self.tape:
            for name in READS:
                patch.setattr(torch.Tensor, name, no_reading)
            step()
        for tensor, kept in zip(tensors, before, strict=True):
            tensor.copy_(kept)  # a capture computes nothing

    def __call__(self) -> None:
        self.plays += 1
        self.tape.play()

    def close(self) -> None:
        self.is_closed = True


def no_reading(*_):
    raise AssertionError("a step reads a tensor on the CPU")


@pytest.fixture(scope="module")
def held_models(tiny_folders) -> dict[str, LM]:
    """Every architecture, loaded once."""
    return {
        name: _load(ModelOptions(model=tiny_folders[name], device="cpu"))
        for name in ("llama", "gemma", "qwen")
    }


@pytest.fixture(params=["llama", "gemma", "qwen"])
def lm(request, held_models) -> LM:
    return held_models[request.param]


@pytest.fixture
def llama(held_models) -> LM:
    return held_models["llama"]


@pytest.fixture
def gemma(held_models) -> LM:
    return held_models["gemma"]


@pytest.fixture(autouse=True)
def forget():
    Graph.made.clear()
    decoding._refused.clear()


def rows_of(lm: LM, steered: bool = True) -> list[Row]:
    """Rows of different lengths, steered in every way."""
    generator = torch.Generator().manual_seed(0)
    v, w = torch.randn(2, lm.d_model, generator=generator)
    plans = [
        *((), (Push(1, v, 1.0), Push(2, w, -0.5))),
        *((Push(1, v, 1.0, "ablate"),), (Push(0, v, 2.0, gate=w, threshold=0.1),)),
        *((Push(2, w, 0.5, "cap"),), (Push(3, v, 3.0, "clamp"), Push(1, w, 1.0))),
    ]
    prompts = [
        "Hi",
        "The weather today",
        "A",
        "Once upon a time there was a",
        "Why do leaves",
        "Tell me more about",
    ]
    return [
        Row(encode(lm, text), pushes=plan if steered else ())
        for text, plan in zip(prompts, plans, strict=True)
    ]


def theirs(lm: LM, rows: list[Row], positions: str = "all", limit: int = 20) -> list:
    return generate(lm, rows, Sampling(limit), positions)


def ours(
    lm: LM, rows: list[Row], positions: str = "all", limit: int = 20, graph: type[Graph] | None = None
) -> list:
    """Generate with fixed tensors: eagerly, or by a kind of graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "can_decode", lambda _lm: True)
        patch.setattr(decoding, "replay_on", lambda _device: graph() if graph else None)
        return generate(lm, rows, Sampling(limit), positions)


def let_rows_end(lm: LM, rows: list[Row], monkeypatch) -> None:
    """Make the tokens that two rows write first the ones that end a text, so that rows end at different
    steps.
    """
    ids = [c.ids for c in theirs(lm, rows)]
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [2, ids[0][3], ids[3][12]])


@pytest.mark.parametrize("positions", ["all", "response"])
def test_it_writes_what_transformers_writes(lm, positions, monkeypatch):
    """Mixed lengths, every kind of steering, rows that end early, and for Gemma a window shorter than the
    text.
    """
    rows = rows_of(lm)
    let_rows_end(lm, rows, monkeypatch)
    expected = theirs(lm, rows, positions)
    assert ours(lm, rows, positions) == expected
    assert ours(lm, rows, positions, graph=Graph) == expected
    assert len({len(c.ids) for c in expected}) > 2
    assert {c.is_finished for c in expected} == {True, False}
    assert [g.plays for g in Graph.made] == [19 - 2]  # two steps warm it up; the two on trial are taken twice
    assert Graph.made[0].is_closed
    assert not decoding._refused


@pytest.mark.parametrize("limit", [1, 2, 12])
def test_short_texts_are_never_captured(llama, limit):
    rows = rows_of(llama)
    assert ours(llama, rows, limit=limit, graph=Graph) == theirs(llama, rows, limit=limit)
    assert Graph.made == []


@pytest.mark.parametrize("positions", ["all", "response"])
def test_a_shared_prefill_is_taken_over(lm, positions, monkeypatch):
    monkeypatch.setattr(prefix, "MIN_SHARED", 2)
    arms = [rows_of(lm)[i].pushes for i in (0, 1, 5)]
    texts = [encode(lm, [{"role": "user", "content": text}]) for text in ("Hi", "Why?", "Tell")]
    for rows in (
        [Row(ids, pushes=arm) for arm in arms for ids in texts],
        [Row(texts[1], pushes=arm) for arm in arms * 2],
    ):
        assert (
            prefix.prefill_shared(
                lm, [row.prompt_ids for row in rows], [row.pushes for row in rows], positions
            )
            is not None
        )
        assert ours(lm, rows, positions, graph=Graph) == theirs(lm, rows, positions)
    assert all(g.plays for g in Graph.made)


def test_prompts_longer_than_a_window_keep_only_what_it_sees(gemma):
    window = gemma.model.config.sliding_window
    rows = [
        Row(list(range(20, 20 + window + extra)), pushes=pushes)
        for extra in (-9, 1, 30)
        for pushes in ((), (Push(1, torch.ones(gemma.d_model), 1.0),))
    ]
    assert ours(gemma, rows, graph=Graph) == theirs(gemma, rows)
    kept = [layer.get_max_length() for layer in Graph.made[0].state.layers]
    assert kept == [window - 1 + 26, 54 + 26] * 2  # room for 20 tokens, and six for a multiple of eight


CONFIGS = {
    "mistral": lambda shape: MistralConfig(sliding_window=16, **shape),  # every layer has a window
    "mistral, no window": lambda shape: MistralConfig(sliding_window=None, **shape),
    "qwen3": lambda shape: Qwen3Config(
        head_dim=8, use_sliding_window=True, sliding_window=16, max_window_layers=2, **shape
    ),
    "gemma3": lambda shape: Gemma3TextConfig(head_dim=8, sliding_window=16, **shape),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_other_architectures_build_their_masks_for_it(name, llama):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 261,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = AutoModelForCausalLM.from_config(CONFIGS[name](shape | {"eos_token_id": 2, "pad_token_id": 0}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    lm = wrap(model, llama.tokenizer, ModelOptions(model=name))
    assert ours(lm, rows_of(lm), graph=Graph) == theirs(lm, rows_of(lm))
    assert Graph.made[0].plays


def begun(lm: LM, limit: int = 8) -> Decoding:
    return prefill(lm, pad_left([row.prompt_ids for row in rows_of(lm)], 0), None, limit)


def held(state: Decoding) -> list[torch.Tensor]:
    """Every tensor that the state or its cache holds."""
    found = [
        *vars(state).values(),
        *(value for layer in state.cache.layers for value in vars(layer).values()),
    ]
    return [t for t in found if isinstance(t, torch.Tensor)]


@torch.inference_mode()
def test_no_tensor_moves_or_is_replaced_in_a_step(lm):
    state = begun(lm)
    before = [(id(t), t.data_ptr(), t.shape) for t in held(state)]
    for _ in range(3):
        state.step()
    assert [(id(t), t.data_ptr(), t.shape) for t in held(state)] == before
    assert len(before) >= 6 + 3 * lm.n_layers


@torch.inference_mode()
def test_the_room_of_a_full_layer_is_taken_over_and_cleaned(llama, monkeypatch):
    places, fix = [], decoding.fix

    def watched(cache, *rest):
        for layer in cache.layers:
            places.append(layer.keys.data_ptr())
            for whole, states in zip(layer._whole, (layer.keys, layer.values), strict=True):
                whole[..., states.shape[-2] :, :] = float("nan")  # what fresh memory may hold
        return fix(cache, *rest)

    monkeypatch.setattr(decoding, "fix", watched)
    state = begun(llama)
    assert [layer.keys.data_ptr() for layer in state.layers] == places
    assert all(t.isfinite().all() for t in state.states)


@pytest.mark.parametrize("is_inference", [True, False])
def test_a_step_that_waits_for_the_gpu_is_found_by_the_tape(is_inference):
    ones = torch.ones(3)
    for wait in (
        lambda: ones.sum().item(),
        lambda: ones.nonzero(),
        lambda: bool(ones[0]),
        lambda: ones[ones > 0],
    ):
        with (
            torch.inference_mode(is_inference),
            pytest.raises(AssertionError, match="waits for the GPU"),
            Tape(),
        ):
            wait()


class OneDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        assert {
            t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)
        } == {"meta"}, func
        return result


@torch.inference_mode()
def test_a_steered_step_touches_no_tensor_of_another_device(lm, monkeypatch):
    """On the device `meta`, which has no values to wait for; only the first pass, which measures the
    steering, may look at them.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(lm.model.config, dtype=torch.bfloat16)
    plan = [
        (),
        (push(1),),
        (push(1, "ablate"), push(1, "cap")),
        (Push(2, torch.ones(32), gate=torch.ones(32)),),
        (push(3, "clamp"), push(3)),
    ]
    with pytest.raises(KeyboardInterrupt), steer(model, plan):  # an interrupted block is not verified
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "cpu", lambda tensor: torch.zeros(tensor.shape))
            patch.setattr("transformers.masking_utils._ignore_causal_mask_sdpa", lambda *_: False)
            state = prefill(
                LM(model.eval(), lm.tokenizer, False, {}),
                pad_left([[5, 6, 7], [5], [5, 6], [9] * 4, [8]], 0),
                None,
                8,
            )
        with OneDevice():
            state.step()
        raise KeyboardInterrupt


def push(layer: int, operation: str = "add") -> Push:
    return Push(layer, torch.ones(32), 1.0, operation)


def test_after_a_rows_end_comes_padding(lm, monkeypatch):
    rows = rows_of(lm)
    let_rows_end(lm, rows, monkeypatch)
    ids, mask = pad_left([row.prompt_ids for row in rows], 0)
    written = lm.model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=20)[
        :, ids.shape[1] :
    ]
    found = decoding.decode(lm, (ids, mask), None, 20, SteerCheck({}))
    assert torch.equal(found, written)
    assert (found == 0).any()


def test_it_stops_soon_after_every_row_has_ended(llama, monkeypatch):
    rows = rows_of(llama, steered=False)
    ends = sorted({ids[i] for ids in (c.ids for c in theirs(llama, rows)) for i in (2, 5)})
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", ends)
    expected = theirs(llama, rows, limit=64)
    assert ours(llama, rows, limit=64, graph=Graph) == expected
    assert max(len(c.ids) for c in expected) <= 5
    assert Graph.made[0].plays == graphs.CHECKED  # on trial; by then every row has ended


class SaysNothing(Graph):
    def __call__(self) -> None:
        """Do no work."""


class WritesOtherTokens(Graph):
    def __call__(self) -> None:
        super().__call__()
        self.state.text[1].scatter_(0, self.state.slot, 7)


class ForgetsARow(Graph):
    def __call__(self) -> None:
        super().__call__()
        layer = self.state.layers[-1]
        layer.values[2, :, self.state.slot - 1 - layer.first] = 0


class StandsStill(Graph):
    """The slot of the capture is frozen into it, so that its second step overwrites what the first wrote."""

    def __call__(self) -> None:
        self.state.slot.fill_(self.frozen)
        super().__call__()

    def capture(self, step) -> None:
        super().capture(step)
        self.frozen = int(self.state.slot)


class SpoilsThePrompt(Graph):
    def __call__(self) -> None:
        super().__call__()
        self.state.layers[0].keys[0, :, 0] += 100


class FailsToBeCaptured(Graph):
    def capture(self, step) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand a hint")


class FailsInReplay(Graph):
    def __call__(self) -> None:
        self.state.text.fill_(9)
        self.state.layers[1].keys.zero_()
        raise RuntimeError("launch failure")


class BreaksOff(Graph):
    """The second step of the warm-up waits for the GPU in its third layer, as a mode of torch's forbids
    it.
    """

    def warm_up(self, step) -> None:
        def stop(*_):
            raise RuntimeError("called a synchronizing CUDA operation")

        step()
        handle = layers(step.__self__.lm.model)[2].register_forward_pre_hook(stop)
        try:
            step()
        finally:
            handle.remove()


FAULTS = [
    SaysNothing,
    WritesOtherTokens,
    ForgetsARow,
    StandsStill,
    SpoilsThePrompt,
    FailsToBeCaptured,
    FailsInReplay,
    BreaksOff,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_graph_that_fails_or_errs_is_left_aside_with_one_line(gemma, fault, capsys):
    rows = rows_of(gemma)[:3]
    expected = theirs(gemma, rows, limit=14)
    capsys.readouterr()
    for _ in range(2):
        assert ours(gemma, rows, limit=14, graph=fault) == expected
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "without CUDA graphs: " in line
    assert len(Graph.made) == 1  # it is not tried again
    assert Graph.made[0].is_closed


def test_memory_that_runs_out_in_a_capture_halves_the_batch(llama):
    class Large(Graph):
        def warm_up(self, step) -> None:
            if len(step.__self__.text) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().warm_up(step)

    assert ours(llama, rows_of(llama), graph=Large) == theirs(llama, rows_of(llama))
    assert [g.plays > 2 for g in Graph.made] == [False, True, True]
    assert all(g.is_closed for g in Graph.made)


def test_rows_are_compared_one_by_one_and_may_overflow():
    wanted = torch.randn(3, 2, 10, 4)
    wanted[1] = float("nan")
    wanted[2, 0, 0, 0] = float("inf")
    written = wanted[..., 6:8, :]
    assert graphs._is_near(wanted, wanted.clone(), written)
    for place in ((0, 0, 3, 1), (0, 1, 7, 0)):
        found = wanted.clone()
        found[place] += 0.001
        assert graphs._is_near(wanted, found, written)
        found[place] += 5
        assert not graphs._is_near(wanted, found, written)


@pytest.fixture
def on_gpu(monkeypatch):
    """A GPU, and the switch turned on."""
    monkeypatch.setenv("TRAITSCOPE_CUDA_GRAPHS", "1")
    monkeypatch.setattr(LM, "device", property(lambda _self: torch.device("cuda")))


def test_it_serves_every_architecture_on_a_gpu(lm, on_gpu):
    assert can_decode(lm)


def test_it_leaves_other_devices_to_transformers(lm, monkeypatch):
    monkeypatch.setenv("TRAITSCOPE_CUDA_GRAPHS", "1")
    assert not can_decode(lm)


@pytest.mark.parametrize(
    ("holder", "name", "value"),
    [
        (lambda lm: lm.model, "hf_device_map", {"model.layers.0": 0, "model.layers.1": 1}),
        (lambda lm: lm.model, "_can_compile_fullgraph", False),
        (lambda lm: lm.model.config, "_attn_implementation", "flash_attention_2"),
        (lambda lm: lm.model.config, "layer_types", ["full_attention", "linear_attention"] * 2),
        (lambda lm: lm.model.config, "layer_types", ["full_attention", "moe"] * 2),
    ],
)
def test_it_leaves_what_it_cannot_do_to_transformers(llama, on_gpu, holder, name, value, monkeypatch):
    monkeypatch.setattr(holder(llama), name, value, raising=False)
    assert not can_decode(llama)


@pytest.mark.parametrize("value", [None, "0", "yes"])
def test_it_is_off_unless_it_is_switched_on(llama, on_gpu, value, monkeypatch):
    monkeypatch.delenv("TRAITSCOPE_CUDA_GRAPHS")
    if value:
        monkeypatch.setenv("TRAITSCOPE_CUDA_GRAPHS", value)
    assert not can_decode(llama)


def test_it_never_samples(llama, monkeypatch):
    monkeypatch.setattr(generation, "decode", lambda *_: pytest.fail("it is greedy"))
    monkeypatch.setattr(generation, "can_decode", lambda _lm: True)
    assert len(generate(llama, rows_of(llama), Sampling(4, temperature=1.0))) == 6


def test_one_device_by_name_is_one_device(llama, on_gpu, monkeypatch):
    monkeypatch.setattr(llama.model, "hf_device_map", {"": 0}, raising=False)
    assert can_decode(llama)


def test_the_embedded_model_writes_the_same(embedded):
    v = torch.randn(embedded.d_model, generator=torch.Generator().manual_seed(0))
    asks = [
        [{"role": "user", "content": text}] for text in ("What is the capital of France?", "Write on rain.")
    ]
    rows = [
        Row(encode(embedded, ask), pushes=pushes)
        for ask, pushes in zip(asks, ((), (Push(12, v, 2.0),)), strict=True)
    ]
    assert ours(embedded, rows, "response", limit=13, graph=Graph) == theirs(
        embedded, rows, "response", limit=13
    )
    assert Graph.made[0].plays == 12 - 2
