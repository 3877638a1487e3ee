"""The embedded model: its conversion, and the field's traps on real weights."""

import pytest
import torch
from gguf import GGUFReader, dequantize

from traitscope.utils.errors import UserError
from traitscope.utils.model import gguf
from traitscope.utils.model.capture import Reading, pool_activations
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.hooks import Push, record, steer
from traitscope.utils.model.loading import ModelOptions, wrap


def test_converted_weights_are_those_of_the_gguf_file(embedded):
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf.embedded_gguf()).tensors}
    converted = embedded.model.state_dict()
    for there, here in (
        ("token_embd", "model.embed_tokens"),
        ("blk.0.attn_norm", "model.layers.0.input_layernorm"),
        ("blk.17.ffn_down", "model.layers.17.mlp.down_proj"),
        ("blk.29.ffn_norm", "model.layers.29.post_attention_layernorm"),
    ):
        tensor = tensors[f"{there}.weight"]
        expected = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(converted[f"{here}.weight"], expected.reshape(converted[f"{here}.weight"].shape))


@pytest.mark.slow
def test_converted_weights_reproduce_the_gguf_models_logits_exactly(embedded):
    original, tokenizer = gguf.load_gguf(gguf.embedded_gguf())
    ids = torch.tensor([encode(embedded, [{"role": "user", "content": "What is the capital of France?"}])])
    same_path = wrap(
        original, tokenizer, ModelOptions(model="original")
    )  # oneDNN or MKL, as the machine has it, for both
    with torch.inference_mode():
        assert torch.equal(same_path.model(ids).logits, embedded.model(ids).logits)
    assert tokenizer("It's a test, 你好 🙂").input_ids == embedded.tokenizer("It's a test, 你好 🙂").input_ids


def fake_conversion(monkeypatch, tmp_path):
    """A conversion that writes a small file, so that the cache's rules can be tested quickly."""
    conversions = []

    class Saves:
        def __init__(self, name):
            self.name = name

        def save_pretrained(self, folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.name).write_text("weights")

    def load(source):
        conversions.append(source)
        return Saves("model.safetensors"), Saves("tokenizer.json")

    monkeypatch.setattr(gguf, "load_gguf", load)
    monkeypatch.setenv("TRAITSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return tmp_path / "m.gguf", conversions


def test_a_conversion_happens_once(monkeypatch, tmp_path):
    source, conversions = fake_conversion(monkeypatch, tmp_path)
    assert gguf.converted(source) == gguf.converted(source)
    assert len(conversions) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "complete.json").unlink(),
        lambda f: (f / "model.safetensors").write_text("wei"),
        lambda f: (f / "tokenizer.json").unlink(),
    ],
)
def test_a_half_written_cache_is_detected_and_redone(monkeypatch, tmp_path, damage):
    source, conversions = fake_conversion(monkeypatch, tmp_path)
    damage(gguf.converted(source))
    assert (gguf.converted(source) / "model.safetensors").read_text() == "weights"
    assert len(conversions) == 2


def test_another_file_is_another_folder(monkeypatch, tmp_path):
    source, _ = fake_conversion(monkeypatch, tmp_path)
    first = gguf.converted(source)
    source.write_bytes(b"GGUF2")
    assert gguf.converted(source) != first


def test_a_missing_gguf_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no\.gguf does not exist"):
        gguf.converted(tmp_path / "no.gguf")


def test_token_zero_is_a_sink_and_is_left_out(embedded):
    ids = encode(embedded, [{"role": "user", "content": "Tell me about the sea."}])
    norms = {}
    with (
        torch.inference_mode(),
        record(embedded.model, lambda layer, h: norms.update({layer: h[0].norm(dim=-1)})),
    ):
        embedded.model(torch.tensor([ids]))
    assert norms[16][0] > 20 * norms[16][1:].mean()
    pooled = pool_activations(embedded, [Reading(ids, list(range(1, len(ids))))])
    assert pooled.norms[16] == pytest.approx(float(norms[16][1:].mean()), rel=1e-3)


def test_neighbouring_layers_are_alike_so_only_exactness_shows_an_off_by_one(embedded):
    ids = torch.tensor([encode(embedded, "The train left the station at noon and")])
    seen = {}
    with torch.inference_mode(), record(embedded.model, lambda layer, h: seen.update({layer: h[0, -1]})):
        states = embedded.model(ids, output_hidden_states=True).hidden_states
    assert torch.cosine_similarity(seen[15], seen[16], dim=0) > 0.9
    assert torch.equal(seen[15], states[16][0, -1])


def test_the_template_begins_with_its_system_message_and_no_bos(embedded):
    text = embedded.tokenizer.decode(encode(embedded, [{"role": "user", "content": "Hi"}]))
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert text.count("<|im_start|>") == 3


@pytest.mark.parametrize(
    ("n", "max_new_tokens", "strength"),
    [(8, 6, 36.0), pytest.param(16, 16, 12.0, marks=pytest.mark.slow)],
    ids=["short", "long"],
)
def test_rows_of_a_mixed_sweep_batch_equal_solo_runs(embedded, n, max_new_tokens, strength):
    """Greedy tokens agree, row by row; where one differs, the solo run's two best tokens were a near tie
    (batches of other shapes round differently).
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(4, embedded.d_model, generator=generator), dim=-1)
    rows = []
    for i in range(n):
        ids = encode(
            embedded,
            [
                {
                    "role": "user",
                    "content": [
                        "Why is the sea salty?",
                        "Hi",
                        "Name a good book for a long journey.",
                        "What is rain?",
                    ][i % 4],
                }
            ],
        )
        rows.append(Row(ids, pushes=(Push(9 + 4 * (i % 3), vectors[i // 4], strength * (i // 4)),)))
    sampling = Sampling(max_new_tokens=max_new_tokens)
    mixed = [c.ids for c in generate(embedded, rows, sampling)]
    solo = [generate(embedded, [row], sampling)[0].ids for row in rows]
    pairs = [(row, a, b) for row, a, b in zip(rows, mixed, solo, strict=True) if a != b]
    for row, a, b in pairs:
        first = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        with torch.inference_mode(), steer(embedded.model, [row.pushes]):
            top = embedded.model(torch.tensor([row.prompt_ids + b[:first]])).logits[0, -1].topk(2).values
        assert top[0] - top[1] < 1e-3
    agree = sum(x == y for a, b in zip(mixed, solo, strict=True) for x, y in zip(a, b, strict=False))
    print(f"greedy tokens that agree: {agree} of {sum(map(len, solo))}")
    assert len({tuple(ids) for ids in mixed}) > max(4, n // 2)  # the pushes did something: 4 questions


def test_coefficient_zero_is_bit_identical_to_unsteered(embedded):
    ids = torch.tensor([encode(embedded, [{"role": "user", "content": "What is rain?"}])])
    vector = torch.randn(embedded.d_model, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = embedded.model(ids).logits
        with steer(embedded.model, [(Push(12, vector, 0.0),)]):
            assert torch.equal(embedded.model(ids).logits, plain)
