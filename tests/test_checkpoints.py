"""What is loaded is whole, or it is refused in one line that names what is wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from safetensors.torch import load_file, save_file

from traitscope.utils.errors import UserError
from traitscope.utils.judge import JudgeOptions
from traitscope.utils.judge.local import LocalGrader
from traitscope.utils.model.anatomy import end_tokens
from traitscope.utils.model.encode import encode
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.gguf import _left_over, embedded_gguf
from traitscope.utils.model.loading import ModelOptions, _loaded, identify_model, load_lm

Weights = dict[str, torch.Tensor]
WEIGHTS = "model.safetensors"


def load(folder: Path | str, **options):
    _loaded.clear()  # the same folder may hold something else now
    return load_lm(ModelOptions(model=str(folder), device="cpu", **options))


def change_weights(folder: Path, change: Callable[[Weights], Weights], name: str = WEIGHTS) -> Path:
    weights = change(load_file(folder / name))
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, folder / name, {"format": "pt"})
    return folder


@pytest.fixture
def folder(tiny_folders, tmp_path) -> Path:
    """A model's folder of the test's own."""
    return Path(shutil.copytree(tiny_folders["llama"], tmp_path / "own"))


def rename(before: str, after: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k.replace(before, after, 1): v for k, v in weights.items()}


BROKEN: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "a foreign prefix": (rename("", "net."), r"lacks \d+ tensors \(lm_head"),
    "a prefix of PEFT's": (rename("", "base_model.model."), r"lacks \d+ tensors"),
    "a layer without its MLP": (
        lambda w: {k: v for k, v in w.items() if "layers.1.mlp" not in k},
        r"lacks 3 tensors \(model\.layers\.1\.mlp\.down_proj",
    ),
    "no head": (lambda w: {k: v for k, v in w.items() if "lm_head" not in k}, r"lacks 1 tensor \(lm_head"),
    "another shape": (
        lambda w: {k: v[:20] if "layers.2.mlp.up" in k else v for k, v in w.items()},
        r"other shapes of 1 tensor \(model\.layers\.2\.mlp\.up",
    ),
    "a further layer": (
        lambda w: w | {k.replace("layers.3", "layers.4"): v for k, v in w.items() if "layers.3" in k},
        r"also holds 9 tensors \(model\.layers\.4",
    ),
    "a bias that the model has no place for": (
        lambda w: w | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        r"also holds 1 tensor \(model\.layers\.0\.self_attn\.q_proj\.bias",
    ),
    "tensors of another family": (
        lambda w: w | {f"model.layers.{i}.self_attn.q_norm.weight": torch.ones(8) for i in range(4)},
        r"also holds 4 tensors \(model\.layers\.0\.self_attn\.q_norm",
    ),
    "an adapter that was not merged": (
        lambda w: w | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)},
        r"also holds 1 tensor \(model\.layers\.0\.self_attn\.q_proj\.lora_A",
    ),
    "values that are not finite": (
        lambda w: {k: v * float("nan") if "layers.1.mlp.up" in k else v for k, v in w.items()},
        "block 1 puts out values that are not finite in float32",
    ),
}


@pytest.mark.parametrize(("change", "says"), BROKEN.values(), ids=BROKEN)
def test_a_checkpoint_that_is_not_whole_is_refused_with_the_tensors_names(folder, change, says):
    with pytest.raises(UserError, match=says) as caught:
        load(change_weights(folder, change))
    assert "\n" not in str(caught.value)


def test_a_local_judge_that_is_not_whole_is_refused_too(folder):
    change_weights(folder, BROKEN["a layer without its MLP"][0])
    with pytest.raises(UserError, match="lacks 3 tensors"):
        LocalGrader(f"{folder}@cpu", JudgeOptions())


def test_what_belongs_to_towers_other_heads_and_old_buffers_does_not_matter(folder):
    others = (
        *(
            "vision_tower.x.weight",
            "score.weight",
            "v_head.summary.weight",
            "model.layers.0.self_attn.attn.bias",
        ),
        *("model.layers.0.self_attn.rotary_emb.inv_freq", "model.embed_positions.weights", "model.version"),
    )
    load(change_weights(folder, lambda w: w | {name: torch.ones(4) for name in others}))


def test_a_head_that_is_tied_to_the_embeddings_may_be_left_out(folder):
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    load(change_weights(folder, BROKEN["no head"][0]))


class _Code:
    """What a pickle would run when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def as_pickle(folder: Path, content: bytes | None) -> Path:
    """Put weights into the older form: plain tensors, or the content given."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    if content is None:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(content)
    return folder


def test_pickled_weights_are_read_where_they_hold_tensors_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(as_pickle(folder, None))
    for content in (pickle.dumps({"a": _Code()}), b"nonsense"):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match="pickled"):
            load(folder)
    assert not Path("ran").exists()


def test_a_models_own_code_runs_only_when_it_is_asked_for(folder):
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "settings.Own", "AutoModelForCausalLM": "model.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own_kind", "auto_map": auto}))
    (folder / "settings.py").write_text(
        "from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    model_type = 'own_kind'\n"
    )
    (folder / "model.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .settings import Own\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = Own\n"
    )
    with pytest.raises(UserError, match="pass --trust-remote-code"):
        load(folder)
    assert load(folder, trust_remote_code=True).identity["architecture"] == "OwnModel"


def spoil(folder: Path, name: str, content: str | None) -> Path:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", "{", "damaged"),
        ("config.json", None, "has no config.json"),
        ("config.json", '{"model_type": "t5"}', "encoder–decoder"),
        ("config.json", '{"model_type": "vit"}', "no causal language model"),
        ("config.json", '{"model_type": "nonesuch"}', "does not know it"),
        (WEIGHTS, "short", "damaged"),
        (WEIGHTS, None, "damaged"),
        ("tokenizer.json", "{}", "damaged"),
        ("tokenizer.json", None, "tokenizer"),
    ],
)
def test_a_folder_with_a_bad_file_is_one_line(folder, name, content, says):
    with pytest.raises(UserError, match=says) as caught:
        load(spoil(folder, name, content))
    assert "\n" not in str(caught.value)
    assert "licence" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused_where_its_token_is_met(folder):
    lm = load(change_weights(folder, lambda w: w))
    lm.tokenizer.add_tokens(["<further>"])
    with pytest.raises(UserError, match="another model's tokenizer"):
        encode(lm, "one <further> two")


def test_a_tokenizer_with_neither_padding_nor_an_end_serves(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("pad_token", "eos_token", "bos_token"):
        settings.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    lm = load(folder)
    rows = [Row(encode(lm, text)) for text in ("one", "two words")]
    assert [len(c.ids) > 0 for c in generate(lm, rows, Sampling(4))] == [True, True]


def test_every_known_end_ends_a_text(folder):
    """The generation settings name one token, the tokenizer another, the template a third."""
    for file, key, value in (
        ("generation_config.json", "eos_token_id", 77),
        ("config.json", "eos_token_id", 3),
        ("tokenizer_config.json", "eos_token", "<eos>"),
    ):
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | {key: value}))
    assert set(end_tokens(load(folder))) == {77, 3, 2, 4}


def test_an_ordinary_token_that_a_configuration_calls_the_end_by_default_ends_nothing(folder):
    settings = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 100}
    (folder / "config.json").write_text(json.dumps(settings))
    assert 100 not in end_tokens(load(folder))


@pytest.mark.parametrize("content", [b"", b"GGUF", bytes(range(256)) * 8, b'{"json": true}'])
def test_a_file_that_is_no_gguf_is_one_line(content, tmp_path, own_cache):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not of the kind") as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_called_like_a_gguf_file_is_a_folder(folder):
    load(folder.rename(folder.with_name("own.gguf")))


def write_gguf(path: Path, left_out: str = "", added: dict[str, tuple] | None = None) -> Path:
    """Write the embedded model's file with a tensor less, or with further ones of these shapes."""
    reader = GGUFReader(embedded_gguf())
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for entry in reader.fields.values():
        if entry.name != "general.architecture" and not entry.name.startswith("GGUF."):
            inner = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(entry.name, entry.contents(), entry.types[0], sub_type=inner)
    for tensor in reader.tensors:
        if tensor.name != left_out:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, shape in (added or {}).items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.slow
def test_a_gguf_file_that_lacks_a_tensor_is_refused(tmp_path, own_cache):
    file = write_gguf(tmp_path / "model.gguf", left_out="blk.3.ffn_up.weight")
    with pytest.raises(UserError, match=r"lacks 1 tensor \(model\.layers\.3\.mlp\.up_proj"):
        load(file)


@pytest.mark.slow
def test_tensors_of_a_gguf_file_that_would_be_dropped_without_a_word_are_found(tmp_path, embedded):
    added = {"blk.3.attn_q.bias": (576,), "blk.30.ffn_up.weight": (1536, 576), "rope_freqs.weight": (32,)}
    file = write_gguf(tmp_path / "model.gguf", added=added)
    assert _left_over(file, embedded.model) == ["blk.3.attn_q.bias", "blk.30.ffn_up.weight"]
    assert _left_over(embedded_gguf(), embedded.model) == []


ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def adapter(folder, tmp_path) -> Path:
    """A LoRA adapter that changes something."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


SPOILT: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "foreign names": (rename("base_model.model.", ""), "lacks 16 tensors"),
    "a layer left out": (lambda w: {k: v for k, v in w.items() if "layers.2" not in k}, "lacks 4 tensors"),
    "a further layer": (
        lambda w: w | {k.replace("layers.3", "layers.7"): v for k, v in w.items() if "layers.3" in k},
        r"no place for, 4 tensors \(base_model\.model\.model\.layers\.7",
    ),
    "another rank": (lambda w: {k: v[:1] if "layers.2" in k else v for k, v in w.items()}, "size mismatch"),
    "nothing but zeros": (lambda w: {k: v * ("lora_A" in k) for k, v in w.items()}, "changes nothing"),
}


@pytest.mark.parametrize(("change", "says"), SPOILT.values(), ids=SPOILT)
def test_an_adapter_that_does_not_fit_tensor_by_tensor_is_refused(folder, adapter, change, says):
    change_weights(adapter, change, ADAPTER)
    with pytest.raises(UserError, match=says) as caught:
        load(folder, lora=str(adapter))
    assert "\n" not in str(caught.value)


def test_an_adapter_that_fits_changes_the_logits(folder, adapter):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain, adapted = (lm.model(ids).logits for lm in (load(folder), load(folder, lora=str(adapter))))
    assert (plain - adapted).norm() > 0.1 * plain.norm()


def test_an_adapter_on_tied_embeddings_does_merged_what_it_did_unmerged(folder, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(settings))
    change_weights(folder, BROKEN["no head"][0])
    base = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]))
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "tied")

    ids = torch.tensor([[5, 6, 7]])
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "tied")
    with torch.no_grad():
        wanted = unmerged.eval()(ids).logits
        found = load(folder, lora=str(tmp_path / "tied")).model(ids).logits
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_an_adapter_that_merges_to_something_else_is_refused(folder, tmp_path):
    """Layers that are repeated share their weights, so that merging mixes what was added to each."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[[0, 3], [1, 4]])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "repeated")
    with pytest.raises(UserError, match="merged, it does something else"):
        load(folder, lora=str(tmp_path / "repeated"))


def test_learned_prompts_are_no_adapter_to_merge(folder, tmp_path):
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / "prompts")
    with pytest.raises(UserError, match="no weights to merge"):
        load(folder, lora=str(tmp_path / "prompts"))


def test_an_adapter_beside_a_model_is_not_loaded_in_passing(folder, adapter):
    for file in adapter.glob("adapter_*"):
        shutil.copy(file, folder)
    with pytest.raises(UserError, match="holds an adapter beside a model"):
        load(folder)


def test_an_adapter_in_the_models_place_is_told_from_it(adapter):
    with pytest.raises(UserError, match="--lora"):
        load(adapter)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "/" + "y" * 5000, "~" + "z" * 300 + "/model", "~nobody/model.gguf"]
)
def test_a_name_that_no_file_can_have_is_one_line(name):
    assert identify_model(name) == name
    with pytest.raises(UserError) as caught:
        load_lm(ModelOptions(model=name, device="cpu"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 12_000
