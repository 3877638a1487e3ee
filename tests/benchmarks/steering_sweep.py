"""Seconds per row of a steering sweep, against bare generation of the same rows (the limit) and one
configuration at a time.

The work: questions × layers × doses, greedy. The limit is the model's own `generate`: no hooks, and every
row's prompt computed. Run: .venv/bin/python tests/benchmarks/steering_sweep.py
"""

import runpy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import torch

from benchmarks.kernels import OURS, SHIPPED, kernel_choices
from benchmarks.peers.client import Peer, start_peers
from benchmarks.peers.serving import pad_left
from benchmarks.roofline import decode_work, measure_ceiling, roofline_row
from benchmarks.rounds import Rounds, Way, ratio_between, run_rounds, summarise, timed
from benchmarks.tables import at_least, at_most
from benchmarks.workload import (
    BenchOptions,
    bench_main,
    load_model,
    make_prompts,
    model_folder,
    supports_bf16,
)
from traitscope.utils.model.batching import plan_batches
from traitscope.utils.model.generation import Completion, Row, Sampling, cut_at_end, generate
from traitscope.utils.model.hooks import Push
from traitscope.utils.model.loading import LM

BARE, SWEEP, SHARED = "bare generate, unsteered", "traitscope", "traitscope, response only"
UNSTEERED, SINGLE, BF16 = (
    "traitscope, unsteered",
    "traitscope, one configuration at a time",
    "traitscope, bfloat16",
)
PEERS = ("repeng", "steering-vectors")


@dataclass(frozen=True)
class Grid:
    """What is swept; those that take one configuration at a time do `sample` of them, spread over the
    grid, and are compared per row.
    """

    prompts: list[list[int]]
    vectors: dict[int, torch.Tensor]
    doses: tuple[float, ...]
    sample: int
    sampling: Sampling

    @property
    def configurations(self) -> list[tuple[int, float]]:
        return [(layer, dose) for layer in self.vectors for dose in self.doses]

    @property
    def sampled(self) -> list[tuple[int, float]]:
        step = max(1, len(self.configurations) // self.sample)
        return self.configurations[::step][: self.sample]

    def rows(self, configurations: list[tuple[int, float]]) -> list[Row]:
        """Return every prompt under every configuration."""
        return [
            Row(ids, pushes=(Push(layer, self.vectors[layer], dose),))
            for layer, dose in configurations
            for ids in self.prompts
        ]


def make_grid(lm: LM, options: BenchOptions) -> Grid:
    """Return 10 questions × 6 layers × 5 doses with 32 new tokens, or little of it."""
    layers = sorted(
        {
            round(lm.n_layers * share)
            for share in ((0.5,) if options.quick else (0.27, 0.37, 0.47, 0.57, 0.67, 0.77))
        }
    )
    vectors = {
        layer: torch.nn.functional.normalize(
            torch.randn(lm.d_model, generator=torch.Generator().manual_seed(layer)), dim=0
        )
        for layer in layers
    }
    doses = (5.0, 10.0) if options.quick else (5.0, 10.0, 15.0, 20.0, 25.0)
    batch = 100 if options.device == "cpu" else 0
    sampling = Sampling(max_new_tokens=4 if options.quick else 32, batch_size=batch)
    return Grid(
        make_prompts(lm, 2 if options.quick else 10), vectors, doses, 2 if options.quick else 3, sampling
    )


def measure(options: BenchOptions) -> dict:
    """Return the results of the sweep."""
    lm = load_model(options)
    grid = make_grid(lm, options)
    rows = grid.rows(grid.configurations)
    ways = _own_ways(lm, grid)
    if options.device == "cpu" and supports_bf16():
        low = load_model(options, dtype="bfloat16")
        ways[BF16] = _per_row(lambda: generate(low, rows, grid.sampling), len(rows))
    with tempfile.TemporaryDirectory() as scratch:
        torch.save(grid.vectors, f"{scratch}/vectors.pt")
        job = {
            "task": "sweep",
            "model": model_folder(),
            "prompts": grid.prompts,
            "vectors": f"{scratch}/vectors.pt",
            "configurations": grid.sampled,
        }
        job |= {"max_new_tokens": grid.sampling.max_new_tokens, "pad": lm.tokenizer.pad_token_id}
        peers, missing = start_peers(job, PEERS) if options.has_peers else ([], {})
    try:
        for peer in peers:
            ways |= _peer_ways(peer, len(grid.sampled) * len(grid.prompts))
        found = run_rounds(ways, options.rounds or (1 if options.quick else 2))
        agreement = _agreement(
            lm, grid, [p for p in peers if not any(p.title in name for name in found.not_run)]
        )
    finally:
        for peer in peers:
            peer.close()
    found.not_run.update(missing)
    work = decode_work(
        lm,
        [len(row.prompt_ids) for row in rows],
        grid.sampling.max_new_tokens,
        min(grid.sampling.batch_size or 1024, len(rows)),
    )
    roof = roofline_row(
        BARE, work, measure_ceiling(lm, 512 if options.quick else 0), min(found.seconds[BARE]) * len(rows)
    )
    setting = {
        "model": lm.identity["name"],
        "dtype": lm.identity["dtype"],
        "device": options.device,
        "questions": len(grid.prompts),
    }
    setting |= {
        "configurations": len(grid.configurations),
        "new_tokens": grid.sampling.max_new_tokens,
        "rows_a_call": grid.sampling.batch_size or "chosen",
    }
    return {
        "subject": "Steering sweep",
        "setting": setting,
        "rows": [
            *(
                row | {"same_texts": agreement.get(row["way"].split(",")[0])} if "ratio" in row else row
                for row in summarise(found, BARE)
            ),
            roof,
        ],
        "targets": _targets(found),
        "notes": [
            f"Seconds are per row. Those that take one configuration at a time did {len(grid.sampled)} of "
            f"the configurations. {NOTE}"
        ],
    }


NOTE = "*Same texts* is the share of rows whose greedy text is ours, token for token."


def _per_row(work: object, rows: int) -> Way:
    run = timed(work)  # type: ignore[arg-type]
    return lambda: run() / rows


def _own_ways(lm: LM, grid: Grid) -> dict[str, Way]:
    rows, few = grid.rows(grid.configurations), grid.rows(grid.sampled)
    n = len(grid.prompts)
    return {
        BARE: _per_row(lambda: run_bare(lm, rows, grid.sampling), len(rows)),
        UNSTEERED: _per_row(
            lambda: generate(lm, [Row(r.prompt_ids) for r in rows], grid.sampling), len(rows)
        ),
        SWEEP: _per_row(lambda: generate(lm, rows, grid.sampling), len(rows)),
        SHARED: _per_row(lambda: generate(lm, rows, grid.sampling, positions="response"), len(rows)),
        SINGLE: _per_row(
            lambda: [generate(lm, few[i : i + n], grid.sampling) for i in range(0, len(few), n)], len(few)
        ),
    }


@torch.inference_mode()
def run_bare(lm: LM, rows: list[Row], sampling: Sampling) -> None:
    """The limit: what the model's own `generate` takes for these prompts, in batches of as many rows,
    sorted by length.
    """
    lengths = [len(row.prompt_ids) for row in rows]
    for batch in plan_batches(lengths, max_rows=sampling.batch_size or len(rows)):
        ids, mask = pad_left([rows[i].prompt_ids for i in batch], lm.tokenizer.pad_token_id)
        lm.model.generate(
            input_ids=ids.to(lm.device),
            attention_mask=mask.to(lm.device),
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
        )


def _peer_ways(peer: Peer, rows: int) -> dict[str, Way]:
    return {
        f"{peer.title}, {kernels}": lambda k=kernels: peer.run(peer.ways[0], k) / rows
        for kernels in reversed(kernel_choices())
    }


def _agreement(lm: LM, grid: Grid, peers: list[Peer]) -> dict[str, float]:
    """Return, for each peer, the share of rows with the very tokens that ours has."""
    ours = generate(lm, grid.rows(grid.sampled), grid.sampling)
    ends = {lm.model.generation_config.eos_token_id}
    found = {}
    for peer in peers:
        peer.ask({"do": peer.ways[0], "kernels": kernel_choices()[0]})
        theirs: list[Completion] = [cut_at_end(ids, ends) for ids in peer.numbers()]
        found[peer.title] = sum(a.ids == b.ids for a, b in zip(ours, theirs, strict=True)) / len(ours)
    return found


def _targets(found: Rounds) -> list[dict]:
    targets = [
        at_most("traitscope / bare generate", 1.05, ratio_between(found, SWEEP, BARE)),
        at_most("response only / bare generate", 0.7, ratio_between(found, SHARED, BARE)),
    ]
    for title in PEERS:
        for kernels in (OURS, SHIPPED):
            name = f"{title}, {kernels}"
            is_there = name in found.seconds
            if is_there or kernels == SHIPPED:
                targets.append(
                    at_least(
                        f"{name} / traitscope", 1.5, ratio_between(found, name, SWEEP) if is_there else None
                    )
                )
                targets.append(
                    at_least(
                        f"{name} / traitscope, response only",
                        2.3,
                        ratio_between(found, name, SHARED) if is_there else None,
                    )
                )
    return targets


if __name__ == "__main__":
    bench_main(measure, __doc__)
