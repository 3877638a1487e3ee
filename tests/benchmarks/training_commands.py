"""The command that trains, as a user runs it: a process of its own, from its start to its end."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.children import ChildError, run_child
from benchmarks.pipeline import copy_trait

ROOT = Path(__file__).resolve().parents[2]
TRAIT = "behavioral/formality"
FEW = "--train-tokens 400 --val-tokens 100 --patience 0"


def prepare(root: Path, *, is_quick: bool) -> None:
    """Run stages 0 to 4 for the demo's trait under a root of its own."""
    copy_trait(root, TRAIT, 12 if is_quick else 0)
    short = "--max-new-tokens 8 --min-usable 2 --pos-threshold 0 --neg-threshold 100" if is_quick else ""
    flags = f"--experiment demo --traits {TRAIT} --judge embedded --no-steering {short}"
    run_child("benchmarks.pipeline:run", root=str(root), arguments=flags.split())


def run_training(root: Path, flags: str, threads: int) -> dict[str, float]:
    """Return the seconds and the processor seconds of the command.

    Raises:
        ChildError: it failed; the message is its last line.
    """
    arguments = f"--experiment demo --traits {TRAIT} --objective nll --force {flags}".split()
    script = str(ROOT / "extraction" / "train_vectors.py")
    before, start = _used(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=os.environ | {"TRAITSCOPE_ROOT": str(root), "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildError((done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1])
    return {"seconds": time.perf_counter() - start, "CPU_s": _used() - before}


def _used() -> float:
    """Return the processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_whole(root: Path, flags: str) -> list[dict]:
    """Return a row for the whole training on two threads, and on one, and how busy the machine was before."""
    rows = []
    for threads, said in ((2, "two threads"), (1, "one thread")):
        load = os.getloadavg()[0]
        found = run_training(root, flags, threads)
        rows.append({"way": f"train_vectors.py --objective nll, {said}"} | found | {"load_before": load})
    return rows


def run_rates(root: Path, rates: tuple[float, ...], steps: int, *, is_quick: bool) -> list[dict]:
    """Return a row for a command with all learning rates, and one for as many commands."""
    few = f"{'' if is_quick else FEW} --steps {steps} --learning-rates"
    one = run_training(root, f"{few} {','.join(map(str, rates))}", 1)
    each = [run_training(root, f"{few} {rate}", 1) for rate in rates]
    total = {name: sum(found[name] for found in each) for name in one}
    return [
        {"way": f"{len(rates)} commands, a learning rate each, {steps} steps"} | total,
        {"way": f"one command, {len(rates)} learning rates, {steps} steps"} | one,
    ]
