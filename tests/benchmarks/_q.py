"""Seconds per row of a steering sweep, against unsteered generation of the same rows and against one configuration at a time.

Interleaved rounds in one process; the figures that mean something are the ratios. Run: .venv/bin/python tests/benchmarks/steering_sweep.py
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import torch

from utils.generation import Row, Sampling, generate
from utils.hooks import Push
from utils.model import ModelOptions, encode, load_lm

LAYERS, DOSES, QUESTIONS, TOKENS, ROUNDS = (8, 14, 20), (0.05, 0.1, 0.15, 0.2), 10, 32, 3


def sweep_rows(lm) -> list[Row]:
    """Return 10 questions × 6 layers × 5 doses, row by row with its own push."""
    prompts = [encode(lm, [{"role": "user", "content": f"What should I know about topic number {i}, and why does it matter?"}]) for i in range(QUESTIONS)]
    vectors = {layer: torch.nn.functional.normalize(torch.randn(lm.d_model, generator=torch.Generator().manual_seed(layer)), dim=0) for layer in LAYERS}
    return [Row(ids, pushes=(Push(layer, vectors[layer], 100 * dose),)) for layer in LAYERS for dose in DOSES for ids in prompts]


def main() -> None:
    """Measure and print."""
    lm = load_lm(ModelOptions(model="embedded"))
    rows, sampling = sweep_rows(lm), Sampling(max_new_tokens=TOKENS, batch_size=100)
    ways = {
        "unsteered, same rows": lambda: generate(lm, [Row(r.prompt_ids) for r in rows], sampling),
        "sweep": lambda: generate(lm, rows, sampling),
        "sweep, response only": lambda: generate(lm, rows, sampling, positions="response"),
        "one configuration at a time": lambda: [generate(lm, rows[i : i + QUESTIONS], sampling) for i in range(0, len(rows), QUESTIONS)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / len(rows))
    base = statistics.median(seconds["unsteered, same rows"])
    for name, found in seconds.items():
        print(f"{name}: {statistics.median(found):.4f} s a row ({min(found):.4f}–{max(found):.4f}), {statistics.median(found) / base:.2f} × unsteered")


if __name__ == "__main__":
    main()
