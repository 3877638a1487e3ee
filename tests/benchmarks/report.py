"""Run the benchmarks and write docs/performance.md and tests/benchmarks/results.json. Run:
.venv/bin/python tests/benchmarks/report.py

Every subject is a process of its own, so that one that fails costs only its own table; a subject that is not
run keeps the results it had.
"""

import platform
import re
import runpy
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import psutil
import torch

from benchmarks.kernels import kernel_choices
from benchmarks.peers.client import ENVIRONMENTS
from benchmarks.tables import render_subject
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.files.reading import read_json
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

HERE = Path(__file__).resolve().parent
SUBJECTS = (
    "capture",
    "capture_chats",
    "steering_sweep",
    "decoding",
    "fit",
    "judging",
    "pipeline",
    "memory",
    "training",
)
ON_GPU = ("capture", "capture_chats", "steering_sweep", "decoding", "memory", "training")
GPU_SHAPES = ("gemma-2-2b", "llama-3.1-8b")
RESULTS, PAGE = HERE / "results.json", HERE.parents[1] / "docs" / "performance.md"
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy")
PEERS = {
    "repeng": "repeng",
    "steering_vectors": "steering-vectors",
    "nnsight": "nnsight",
    "transformer_lens": "transformer-lens",
    "trl": "trl",
    "pyreft": "pyreft",
}


@dataclass(frozen=True)
class ReportOptions:
    """Run the benchmarks, and write the tables."""

    only: tuple[str, ...] = flag(
        SUBJECTS,
        "Subjects to run: capture, capture_chats, steering_sweep, decoding, fit, judging, pipeline, memory, training; "
        "none writes the tables anew.",
    )
    quick: bool = flag(False, "Small sizes, to see that everything works; nothing is written.")
    gpu: bool = flag(
        False,
        "Run capture, sweep, decoding and memory on the GPU, with Gemma-2-2B- and Llama-3.1-8B-shaped models, "
        "instead of everything on the CPU.",
    )


def report(options: ReportOptions) -> None:
    """Run what is asked for, and write the results.

    Raises:
        UserError: an unknown subject, or no GPU.
    """
    if unknown := [name for name in options.only if name not in (*SUBJECTS, "none")]:
        raise UserError(f"unknown subject {unknown[0]!r}; choose {', '.join(SUBJECTS)} or none")
    if options.gpu and not torch.cuda.is_available():
        raise UserError("this machine has no GPU that torch can use")
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for key, typed in _runs(options).items():
        results[key] = _run(typed) | {"machine": describe_machine(), "measured": time.strftime("%Y-%m-%d")}
        print(render_subject(results[key]), flush=True)
        if not options.quick:
            write_json(RESULTS, results)
    if not options.quick:
        write_text(PAGE, insert(PAGE.read_text(), results))


def _runs(options: ReportOptions) -> dict[str, list[str]]:
    """Return {key of the results: command}."""
    quick = ["--quick"] if options.quick else []
    if not options.gpu:
        return {name: [f"{name}.py", *quick] for name in SUBJECTS if name in options.only}
    pairs = [(name, shape) for name in ON_GPU if name in options.only for shape in GPU_SHAPES]
    return {
        f"{name}, {shape}": [f"{name}.py", "--device", "cuda", "--shape", shape, *quick]
        for name, shape in pairs
    }


def _run(command: list[str]) -> dict:
    """Run one benchmark; a failure is a result that says so."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "results.json"
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:], "--json", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return read_json(file)
    reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    return {
        "subject": command[0].removesuffix(".py"),
        "setting": {},
        "rows": [{"way": "all", "not_run": reason}],
    }


def describe_machine() -> dict:
    """Return what decides speed here: no host name, no path."""
    return {
        "CPU": _describe_cpu(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_GB": round(psutil.virtual_memory().total / 2**30),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "kernels": kernel_choices()[0],
        "Python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES} | _peer_versions(),
    }


def _describe_cpu() -> str:
    """Return the processor's name, and its family and model, which are told where a name may not be."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    said = dict(re.findall(r"^(model name|cpu family|model)[ \t]*: (.*)$", text, re.MULTILINE))
    if "model name" not in said:
        return platform.processor() or platform.machine()
    about = [
        f"{word} {said[key]}" for key, word in (("cpu family", "family"), ("model", "model")) if key in said
    ]
    return f"{said['model name']} ({' '.join(about)})" if about else said["model name"]


def _peer_versions() -> dict[str, str]:
    """Return the versions of the installed peers, from the names of their metadata folders."""
    found = {}
    for folder, package in PEERS.items():
        for info in (ENVIRONMENTS / folder).glob(f"lib/*/site-packages/{folder}-*.dist-info"):
            found[package] = info.name.removesuffix(".dist-info").rpartition("-")[2]
    return found


def insert(page: str, results: dict) -> str:
    """Return the page with the tables between its markers, `<!-- name -->` and `<!-- /name -->`, replaced."""
    tables = {name: _table(results.get(name), name) for name in SUBJECTS}
    gpu = {key: content for key, content in results.items() if ", " in key}
    command = "not run: `.venv/bin/python tests/benchmarks/report.py --gpu` on a machine with one writes these tables\n"
    tables["gpu"] = "\n".join(_table(content, key) for key, content in gpu.items()) or command
    for name, table in tables.items():
        page, n = re.subn(
            rf"<!-- {name} -->.*?<!-- /{name} -->",
            lambda _, n=name, t=table: f"<!-- {n} -->\n{t}<!-- /{n} -->",
            page,
            flags=re.DOTALL,
        )
        assert n == 1, f"the page has no place for {name}"
    return page


def _table(content: dict | None, name: str) -> str:
    if content is None:
        return f"not run: {name}\n"
    machine = content["machine"]
    packages = ", ".join(f"{package} {v}" for package, v in machine["packages"].items())
    about = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in machine.items() if key != "packages"
    )
    return f"{render_subject(content)}\n{content['measured']}: {about}; {packages}.\n"


if __name__ == "__main__":
    command(report)
