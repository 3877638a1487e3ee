"""Peak memory of capture and sweep, and how it grows with texts, length, layers and rows. Run:
.venv/bin/python tests/benchmarks/memory.py

Every case is a process of its own; its peak is the kernel's own record, and on a GPU the allocator's.
"""

import runpy
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from benchmarks.capture import run_bare
from benchmarks.children import ChildError, run_child
from benchmarks.kernels import SHIPPED
from benchmarks.peers.client import NAMES, Peer, PeerError
from benchmarks.steering_sweep import make_grid
from benchmarks.tables import at_most
from benchmarks.workload import (
    LONGEST,
    BenchOptions,
    bench_main,
    build_model,
    llama,
    load_model,
    make_texts,
    model_folder,
    token_budget,
)
from traitscope.utils.model.batching import plan_batches
from traitscope.utils.model.capture import pool_activations
from traitscope.utils.model.generation import generate
from traitscope.utils.model.loading import LM

TWICE = 2 * LONGEST


def measure(options: BenchOptions) -> dict:
    """Return peaks, for sizes that differ in one thing at a time."""
    n = 8 if options.quick else 50
    cases = {
        "load only": ("loaded", {"n": 1}),
        f"bare forward, {n} texts": ("bare", {"n": n}),
        f"capture, {n} texts": ("capture", {"n": n}),
        f"bare forward, {4 * n} texts": ("bare", {"n": 4 * n}),
        f"capture, {4 * n} texts": ("capture", {"n": 4 * n}),
        f"capture, {n} texts of twice the length": ("capture", {"n": n, "longest": TWICE}),
        f"bare forward, {n} texts of twice the length": ("bare", {"n": n, "longest": TWICE}),
        "sweep, half of the rows": ("sweep", {"share": 0.5}),
        "sweep, all rows": ("sweep", {"share": 1.0}),
    }
    if options.quick:
        cases = {name: case for name, case in cases.items() if "twice" not in name and case[0] != "sweep"}
    where = {"device": options.device, "shape": options.shape, "quick": options.quick}
    rows = [_row(name, function, arguments | where) for name, (function, arguments) in cases.items()]
    rows += [_layers(options, n, depth) for depth in ((2,) if options.quick else (15, 30, 60))]
    rows += [_peer_row(title, n) for title in NAMES] if options.has_peers and not options.quick else []
    found = {row["way"]: row.get("peak_MB") for row in rows}
    setting = {
        "model": options.shape,
        "device": options.device,
        "longest_text": f"{LONGEST} tokens",
        "rows_a_call_of_the_sweep": 100,
    }
    return {"subject": "Memory", "setting": setting, "rows": rows, "targets": _targets(found, n), "notes": []}


def _row(name: str, function: str, arguments: dict) -> dict:
    try:
        done = run_child(f"benchmarks.memory:{function}", **arguments)
    except ChildError as error:
        return {"way": name, "not_run": str(error)}
    return _peaks(name, done)


def _peaks(name: str, done: dict) -> dict:
    gpu = {"GPU_peak_MB": done["gpu_peak_mb"]} if "gpu_peak_mb" in done else {}
    return {"way": name, "peak_MB": done["peak_mb"], "weights_MB": done["weights_mb"]} | gpu


def _layers(options: BenchOptions, n: int, depth: int) -> dict:
    arguments = {"n": n, "depth": depth, "device": options.device, "width": 64 if options.quick else 576}
    return _row(f"capture, {n} texts, random weights of {depth} layers", "deep", arguments)


def _peer_row(title: str, n: int) -> dict:
    job = {"task": "capture", "model": model_folder(), "texts": [asdict(t) for t in make_texts(n)]}
    try:
        with Peer(title, job) as peer:
            way = peer.ways[-1]
            return {
                "way": f"{title}, {way}, {n} texts",
                "peak_MB": peer.ask({"do": way, "kernels": SHIPPED})["peak_mb"],
            }
    except PeerError as error:
        return {"way": title, "not_run": str(error)}


def _targets(found: dict, n: int) -> list[dict]:
    def ratio(name: str, base: str) -> float | None:
        return found[name] / found[base] if found[name] and found[base] else None

    return [
        *(
            at_most(
                f"peak of capture / bare forward, {m} texts",
                1.05,
                ratio(f"capture, {m} texts", f"bare forward, {m} texts"),
            )
            for m in (n, 4 * n)
        ),
        at_most(
            f"peak at {4 * n} texts / at {n}", 1.05, ratio(f"capture, {4 * n} texts", f"capture, {n} texts")
        ),
    ]


def loaded(n: int, **where: object) -> dict:
    """Load the model and nothing else."""
    return _weights(load_model(BenchOptions(**where)))  # type: ignore[arg-type]


def capture(n: int, longest: int = LONGEST, **where: object) -> dict:
    """Capture n texts."""
    lm = load_model(BenchOptions(**where))  # type: ignore[arg-type]
    pool_activations(lm, [t.reading for t in make_texts(n, longest)])
    return _weights(lm)


def bare(n: int, longest: int = LONGEST, **where: object) -> dict:
    """Run the bare forward pass over n texts."""
    lm, texts = load_model(BenchOptions(**where)), make_texts(n, longest)  # type: ignore[arg-type]
    run_bare(lm, texts, plan_batches([len(t.ids) for t in texts], max_tokens=token_budget(lm)))
    return _weights(lm)


def sweep(share: float, **where: object) -> dict:
    """Generate that share of the sweep's rows."""
    options = BenchOptions(**where)  # type: ignore[arg-type]
    lm = load_model(options)
    grid = make_grid(lm, options)
    rows = grid.rows(grid.configurations)
    generate(lm, rows[: round(share * len(rows))], grid.sampling)
    return _weights(lm)


def deep(n: int, depth: int, width: int, device: str) -> dict:
    """Capture n texts with random weights of so many layers."""
    lm = build_model(llama(width, depth), device)
    pool_activations(lm, [t.reading for t in make_texts(n)])
    return _weights(lm)


def _weights(lm: LM) -> dict:
    return {"weights_mb": sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**20}


if __name__ == "__main__":
    bench_main(measure, __doc__)
