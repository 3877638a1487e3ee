"""Ten lines of Python for each tool that can steer with an export."""

import json
from dataclasses import dataclass
from typing import Any

QUESTION = "How was your day?"
PLAIN = f"Question: {QUESTION}\n\nAnswer:"  # as a model is asked that has no chat template
SOMEWHERE = "path/to/the/model"

OURS = """
import traitscope as ts  # in the folder of the export, with traitscope installed
from safetensors.torch import load_file
from traitscope.utils.model.hooks import Push, steer
lm = ts.load_model({model}, {ask})
vector = load_file("vectors.safetensors")["layer_{layer}"]
with steer(lm.model, [[Push({layer}, vector, coefficient={coefficient})]]):
    print(ts.ask(lm, {question}, max_new_tokens=40))
"""
REPENG = """
from repeng import ControlModel, ControlVector
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({model})
steered = ControlModel(AutoModelForCausalLM.from_pretrained({model}), layer_ids=[{layer}])
steered.set_control(ControlVector.import_gguf("repeng.gguf"), {coefficient})
{ask}
text = steered.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(text, skip_special_tokens=True))
"""
REPENG_CHAT = """
chat = [{{"role": "user", "content": {question}}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt")
"""
LLAMA_CPP = """
import ctypes, llama_cpp, numpy as np
from gguf import GGUFReader
llm = llama_cpp.Llama({model}, n_ctx=2048, verbose=False)
tensors = {{tensor.name: tensor.data for tensor in GGUFReader("control_vector.gguf").tensors}}
push = np.zeros(({n_layers} - 1, {d_model}), np.float32)  # row k - 1 is for block k; always all rows: what is not given stays from before
push[{layer} - 1] = {coefficient} * tensors["direction.{layer}"]
data = push.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
llama_cpp.llama_set_adapter_cvec(llm.ctx, data, push.size, {d_model}, 1, {n_layers} - 1)
{ask}
"""
VLLM = """
from safetensors.torch import load_file
from vllm import LLM, SamplingParams
from vllm_lens import SteeringVector
llm = LLM({model}, enforce_eager=True, enable_prefix_caching=False)
vector = load_file("vectors.safetensors")["layer_{layer}"]
push = SteeringVector(activations=vector[None], layer_indices=[{layer}], scale={coefficient})
settings = SamplingParams(temperature=0, max_tokens=40, extra_args={{"apply_steering_vectors": [push]}})
print(llm.{ask}[0].outputs[0].text)
"""


@dataclass(frozen=True)
class Target:
    """A tool, and how it steers with a file of the export."""

    title: str
    format: str  # the file it reads
    template: str
    chat: str  # how it is asked through the chat template …
    plain: str  # … and without one
    model: str = ""  # what to put for the model, where it is not what transformers loads
    note: str = ""


TARGETS = {
    "transformers": Target(
        "transformers, with traitscope's `steer`",
        "safetensors",
        OURS,
        "chat_template=True",
        "chat_template=False",
    ),
    "repeng": Target(
        "repeng", "repeng", REPENG, REPENG_CHAT, 'inputs = tokenizer({plain}, return_tensors="pt")'
    ),
    "llama.cpp": Target(
        "llama.cpp, with llama-cpp-python",
        "gguf",
        LLAMA_CPP,
        'print(llm.create_chat_completion([{{"role": "user", "content": {question}}}], max_tokens=40, temperature=0)["choices"][0]["message"]["content"])',
        'print(llm({plain}, max_tokens=40, temperature=0)["choices"][0]["text"])',
        "model.gguf",
        (
            "`model.gguf` is the same model, converted. What it is quantised to changes its activations, and so "
            "what the vector does."
        ),
    ),
    "vllm": Target(
        "vLLM, with the plugin vllm-lens",
        "safetensors",
        VLLM,
        'chat([{{"role": "user", "content": {question}}}], settings, chat_template_kwargs={{"enable_thinking": False}})',
        "generate([{plain}], settings)",
    ),
}


@dataclass(frozen=True)
class Use:
    """Which model is steered, where and how far."""

    model: str  # what the target's loader takes
    layer: int
    coefficient: float  # factor on the vector as saved
    chats: bool = True  # whether the model is asked through its chat template


def render_snippet(target: Target, facts: dict[str, Any], use: Use) -> str:
    """Return a target's snippet for one layer."""
    values = {
        "model": json.dumps(use.model, ensure_ascii=False),
        "layer": use.layer,
        "coefficient": f"{use.coefficient:g}",
        "n_layers": facts["n_layers"],
        "d_model": facts["d_model"],
        "question": json.dumps(QUESTION),
        "plain": json.dumps(PLAIN),
    }
    ask = (target.chat if use.chats else target.plain).strip("\n").format(**values)
    return target.template.strip("\n").format(ask=ask, **values) + "\n"


def model_for(target: Target, loads_as: str | None) -> str:
    """Return what a card's snippet names as the model: an id that anybody can load, or a place to fill in."""
    if target.model:
        return target.model
    is_embedded = loads_as == "embedded"
    return loads_as if loads_as and (not is_embedded or target is TARGETS["transformers"]) else SOMEWHERE
