"""nnsight: a trace that saves the output of every decoder block."""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import nnsight
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.serving import Prepared, in_file_order, pad_right, response_mean, serve


def prepare_capture(job: dict) -> Prepared:
    """Response means [n, n_layers, d_model], texts batched as they come."""
    inner = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    model = nnsight.LanguageModel(inner, tokenizer=AutoTokenizer.from_pretrained(job["model"]))
    n_layers = inner.config.num_hidden_layers

    @torch.no_grad()
    def capture(rows: int) -> Tensor:
        means = []
        for batch in in_file_order(job["texts"], rows):
            ids, mask = pad_right(batch)
            with model.trace({"input_ids": ids, "attention_mask": mask}):
                hidden = nnsight.save([model.model.layers[layer].output for layer in range(n_layers)])
            means += [
                torch.stack([response_mean(h[i], text) for h in hidden]) for i, text in enumerate(batch)
            ]
        return torch.stack(means)

    return Prepared(inner, {f"batch {n}": lambda n=n: capture(n) for n in (1, 16)})


if __name__ == "__main__":
    serve(("nnsight", "transformers", "torch"), {"capture": prepare_capture})
