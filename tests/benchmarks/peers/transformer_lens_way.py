"""TransformerLens: `run_with_cache` of a TransformerBridge, its cache filtered to the residual stream."""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peers.serving import Prepared, in_file_order, pad_right, response_mean, serve


def prepare_capture(job: dict) -> Prepared:
    """Response means [n, n_layers, d_model], texts batched as they come."""
    bridge = TransformerBridge.boot_transformers(job["model"], device="cpu", dtype=torch.float32)
    names = [f"blocks.{layer}.hook_out" for layer in range(bridge.cfg.n_layers)]

    @torch.no_grad()
    def capture(rows: int) -> Tensor:
        means = []
        for batch in in_file_order(job["texts"], rows):
            ids, mask = pad_right(batch)
            _, cache = bridge.run_with_cache(ids, attention_mask=mask, names_filter=names)
            means += [
                torch.stack([response_mean(cache[name][i], text) for name in names])
                for i, text in enumerate(batch)
            ]
        return torch.stack(means)

    return Prepared(bridge, {f"batch {n}": lambda n=n: capture(n) for n in (1, 16)})


if __name__ == "__main__":
    serve(("transformer-lens", "transformers", "torch"), {"capture": prepare_capture})
