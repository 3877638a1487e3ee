import pytest
import torch

from traitscope.utils.errors import UserError
from traitscope.utils.model.anatomy import end_tokens, layers
from traitscope.utils.model.encode import encode
from traitscope.utils.model.loading import LM, ModelOptions, _loaded, choose_device, choose_dtype, load_lm

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]


def text_of(lm: LM, prompt) -> str:
    return lm.tokenizer.decode(encode(lm, prompt))


@pytest.mark.parametrize("prompt", ["Once upon", "<bos>Once upon", "<bos><bos>Once", CHAT[1:], CHAT])
def test_bos_stands_exactly_once_where_the_tokenizer_uses_it(gemma, prompt):
    ids = encode(gemma, prompt)
    assert ids[0] == gemma.tokenizer.bos_token_id
    assert ids.count(gemma.tokenizer.bos_token_id) == 1


def test_no_bos_where_the_tokenizer_uses_none(llama):
    assert llama.tokenizer.bos_token_id not in encode(llama, "Once upon")
    assert encode(llama, "Once upon") == llama.tokenizer("Once upon").input_ids


def test_a_system_message_goes_into_the_user_turn_where_there_is_no_system_role(gemma):
    assert text_of(gemma, CHAT) == "<bos><|im_start|>user\nBe kind.\n\nHi?<|im_end|>\n<|im_start|>model\n"


def test_thinking_is_switched_off(tiny_folders):
    lm = load_lm(ModelOptions(model=tiny_folders["qwen"]))
    assert "<think>" not in text_of(lm, CHAT)


def test_a_model_without_a_template_gets_plain_text(base_lm):
    assert text_of(base_lm, CHAT) == "<bos>Be kind.\n\nQuestion: Hi?\n\nAnswer:"


def test_the_template_can_be_switched_off(tiny_folders):
    lm = load_lm(ModelOptions(model=tiny_folders["llama"], chat_template=False))
    assert text_of(lm, CHAT[1:]) == "Question: Hi?\n\nAnswer:"


@pytest.mark.parametrize("text", ['She said, "I am', "trailing space ", "你好—“quoted”", "{braces} %s 🙂"])
def test_a_scenario_is_encoded_as_it_stands(llama, text):
    assert llama.tokenizer.decode(encode(llama, text)) == text


def test_blocks_are_found_in_every_architecture(lm):
    assert len(layers(lm.model)) == lm.n_layers == 4


def test_a_loaded_model_is_frozen_and_in_eval_mode(lm):
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert not lm.model.training


def test_shipped_sampling_settings_are_dropped(lm):
    assert lm.model.generation_config.temperature is None
    assert end_tokens(lm)[0] == 2


def test_a_model_is_loaded_once_and_only_one_is_kept(tiny_folders):
    _loaded.clear()
    first = load_lm(ModelOptions(model=tiny_folders["llama"]))
    assert load_lm(ModelOptions(model=tiny_folders["llama"])) is first
    load_lm(ModelOptions(model=tiny_folders["sibling"]))
    assert [options.model for role, (options, _) in _loaded.items() if role == "studied"] == [
        tiny_folders["sibling"]
    ]
    assert load_lm(ModelOptions(model=tiny_folders["llama"])) is not first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such-model", "HF_TOKEN"),
        ("google/gemma-2-2b", "HF_TOKEN"),
        ("/no/such/folder", "no such folder"),
        ("~/no/such/folder", "no such folder"),
    ],
)
def test_a_missing_or_gated_model_is_one_line_that_says_what_to_do(name, says):
    with pytest.raises(UserError, match=says) as caught:
        load_lm(ModelOptions(model=name))
    assert "\n" not in str(caught.value)


def test_a_missing_device_is_one_line():
    with pytest.raises(UserError, match="--device nonsense"):
        choose_device("nonsense")


def test_dtype_follows_the_device_unless_told():
    assert choose_dtype("auto", torch.device("cpu")) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


@pytest.mark.skipif(
    __import__("importlib").util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_quantisation_without_bitsandbytes_says_how_to_get_it(tiny_folders):
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load_lm(ModelOptions(model=tiny_folders["llama"], load_in_8bit=True))
