"""What the tests of exported files run in the interpreters of other tools: it imports nothing of ours.
Arguments: tool, a JSON of the job.
"""

import json
import sys
from pathlib import Path

import numpy as np


def run_repeng(job: dict) -> np.ndarray:
    """Return the logits of a model under repeng's control."""
    import torch
    from repeng import ControlModel, ControlVector
    from transformers import AutoModelForCausalLM

    steered = ControlModel(
        AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32), layer_ids=[job["layer"]]
    )
    steered.set_control(ControlVector.import_gguf(job["file"]), job["coefficient"])
    with torch.no_grad():
        return steered(torch.tensor([job["ids"]])).logits[0].numpy()


def run_llama_cpp(job: dict) -> np.ndarray:
    """Return the logits of a GGUF model, made float32 once, under a control vector, everything in float32."""
    import ctypes

    import llama_cpp
    from gguf import GGUFReader

    if not Path(job["f32"]).exists():
        how = llama_cpp.llama_model_quantize_default_params()
        how.ftype, how.allow_requantize = 0, True
        assert (
            llama_cpp.llama_model_quantize(job["model"].encode(), job["f32"].encode(), ctypes.byref(how)) == 0
        )
    options = {"type_k": 0, "type_v": 0, "flash_attn": False}
    llm = llama_cpp.Llama(job["f32"], n_ctx=256, logits_all=True, verbose=False, **options)
    tensors = {t.name: t.data for t in GGUFReader(job["file"]).tensors}
    push = np.zeros((job["n_layers"] - 1, job["d_model"]), np.float32)
    push[job["layer"] - 1] = job["coefficient"] * tensors[f"direction.{job['layer']}"]
    data = push.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert (
        llama_cpp.llama_set_adapter_cvec(llm.ctx, data, push.size, job["d_model"], 1, job["n_layers"] - 1)
        == 0
    )
    llm.eval(job["ids"])
    logits = llm.scores[: len(job["ids"])].copy()
    written = []
    for _ in range(job["greedy"]):
        written.append(int(llm.scores[llm.n_tokens - 1].argmax()))
        llm.eval(written[-1:])
    Path(job["out"]).with_suffix(".json").write_text(json.dumps(written))
    return logits


if __name__ == "__main__":
    tool, job = sys.argv[1], json.loads(sys.argv[2])
    np.save(job["out"], {"repeng": run_repeng, "llama.cpp": run_llama_cpp}[tool](job))
