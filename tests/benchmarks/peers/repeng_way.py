"""repeng: hidden states of the last token by `batched_get_hiddens`; steering by a ControlModel, one
configuration at a time.
"""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from typing import Any

import torch
from repeng import ControlModel
from repeng.extract import batched_get_hiddens
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.serving import Prepared, pad_left, serve


def prepare_capture(job: dict) -> Prepared:
    """It takes strings, and reads the last token alone: [n, n_layers, d_model] of that one."""
    model, tokenizer = _load(job), AutoTokenizer.from_pretrained(job["model"])
    layers, texts = list(range(model.config.num_hidden_layers)), [t["text"] for t in job["texts"]]

    def capture(batch: int) -> Tensor:
        hidden = batched_get_hiddens(model, tokenizer, texts, layers, batch)
        return torch.stack([torch.from_numpy(hidden[layer]) for layer in layers], dim=1)

    return Prepared(model, {f"batch {n}": lambda n=n: capture(n) for n in (1, 32)}, default="batch 32")


def prepare_sweep(job: dict) -> Prepared:
    """Every configuration wraps its layer, generates for all prompts, and unwraps."""
    model, vectors = _load(job), torch.load(job["vectors"], weights_only=True)
    ids, mask = pad_left(job["prompts"], job["pad"])

    def sweep() -> list[list[int]]:
        written = []
        for layer, coefficient in job["configurations"]:
            control = ControlModel(model, [layer])
            control.set_raw_control({layer: coefficient * vectors[layer]})
            with torch.no_grad():
                out = control.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=job["max_new_tokens"],
                    pad_token_id=job["pad"],
                )
            written += out[:, ids.shape[1] :].tolist()
            control.unwrap()
        return written

    return Prepared(model, {"one configuration at a time": sweep})


def _load(job: dict) -> Any:
    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()


if __name__ == "__main__":
    serve(("repeng", "transformers", "torch", "numpy"), {"capture": prepare_capture, "sweep": prepare_sweep})
