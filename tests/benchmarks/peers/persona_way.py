"""The way of persona_vectors (Chen et al. 2025): one text at a time, output_hidden_states, lm_head and
all. No package; the idea, written anew.
"""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.peers.serving import Prepared, serve


@torch.no_grad()
def capture(model: Any, texts: list[dict]) -> Tensor:
    """Return response means [n, n_layers + 1, d_model]; index 0 is the embedding, and the last one comes
    after the final norm.
    """
    means = []
    for text in texts:
        hidden = model(
            input_ids=torch.tensor([text["ids"]], device=model.device), output_hidden_states=True
        ).hidden_states
        readings = [
            (
                h[:, : text["n_prompt"]].mean(1).cpu(),
                h[:, text["n_prompt"] :].mean(1).cpu(),
                h[:, text["n_prompt"] - 1].cpu(),
            )
            for h in hidden
        ]
        means.append(torch.cat([response for _, response, _ in readings]))
    return torch.stack(means)


def prepare_capture(job: dict) -> Prepared:
    """Load the model."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    return Prepared(model, {"batch 1": lambda: capture(model, job["texts"])})


if __name__ == "__main__":
    serve(("transformers", "torch"), {"capture": prepare_capture})
