"""steering-vectors: `record_activations` around the model's own forward pass; steering by
`SteeringVector.apply`.
"""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from typing import Any

import torch
from steering_vectors import SteeringVector, record_activations
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.peers.serving import (
    Prepared,
    in_file_order,
    pad_left,
    pad_right,
    read_config,
    response_mean,
    serve,
)


def prepare_capture(job: dict) -> Prepared:
    """Response means [n, n_layers, d_model], texts batched as they come."""
    model = _load(job)

    @torch.no_grad()
    def capture(rows: int) -> Tensor:
        means = []
        for batch in in_file_order(job["texts"], rows):
            ids, mask = pad_right(batch)
            with record_activations(model) as recorded:
                model(input_ids=ids, attention_mask=mask)
            means += [
                torch.stack([response_mean(recorded[layer][0][i], text) for layer in sorted(recorded)])
                for i, text in enumerate(batch)
            ]
        return torch.stack(means)

    return Prepared(model, {f"batch {n}": lambda n=n: capture(n) for n in (1, 16)})


def prepare_sweep(job: dict) -> Prepared:
    """Every configuration applies its vector and generates for all prompts."""
    model, vectors = _load(job), torch.load(job["vectors"], weights_only=True)
    ids, mask = pad_left(job["prompts"], job["pad"])

    @torch.no_grad()
    def sweep() -> list[list[int]]:
        written = []
        for layer, coefficient in job["configurations"]:
            with SteeringVector({layer: vectors[layer]}).apply(model, multiplier=coefficient):
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=job["max_new_tokens"],
                    pad_token_id=job["pad"],
                )
            written += out[:, ids.shape[1] :].tolist()
        return written

    return Prepared(model, {"one configuration at a time": sweep})


def _load(job: dict) -> Any:
    config = read_config(job["model"])
    return AutoModelForCausalLM.from_pretrained(job["model"], config=config, dtype=torch.float32).eval()


if __name__ == "__main__":
    serve(("steering-vectors", "transformers", "torch"), {"capture": prepare_capture, "sweep": prepare_sweep})
