"""Seconds per trait by stage, cold and up to date, and how cost grows with traits and scenarios. Run:
.venv/bin/python tests/benchmarks/pipeline.py

Seconds by stage are the embedded model's. Growth is measured on a tiny random model, where arithmetic is next
to nothing and what should not grow would show.
"""

import io
import os
import re
import runpy
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import numpy as np

from benchmarks.children import run_child
from benchmarks.tables import at_least, at_most
from benchmarks.workload import SHAPES, TRAITS, BenchOptions, bench_main, build_model
from traitscope.extraction import run_pipeline
from traitscope.utils.files.paths import STAGES, TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.stage.command import parse_arguments, run_command
from traitscope.utils.stage.flags import option_flags, pick
from traitscope.utils.stage.stage import why_run

FULL = "--judge embedded --subset 16"
SMALL = (
    "--judge embedded --max-new-tokens 4 --no-steering --pos-threshold 0 --neg-threshold 100 --min-usable 2"
)


def measure(options: BenchOptions) -> dict:
    """Return seconds by stage, and growth."""
    names = [p.parent.relative_to(TRAITS).as_posix() for p in sorted(TRAITS.glob("*/*/positive.txt"))]
    traits = ["epistemic/optimism"] if options.quick else ["behavioral/formality", "epistemic/optimism"]
    rows = _by_stage(traits, "--max-new-tokens 4 --no-steering --min-usable 2" if options.quick else "")
    by_traits = _growth(
        "traits",
        (1, 2) if options.quick else (1, 2, 4, 8),
        lambda k: _run_tiny(names[0], k, 6 if options.quick else 50),
    )
    by_scenarios = _growth(
        "scenarios",
        (6, 12) if options.quick else (50, 100, 200, 400, 800),
        lambda k: _run_tiny(names[0], 1, k),
    )
    check = max(row["up_to_date_ms"] for row in rows)
    loads = max(row["loads"] for row in by_traits["rows"])
    targets = [
        at_most("up-to-date check of all stages, ms a trait", 50, check),
        at_most("loads of the model, whatever the traits", 1, float(loads)),
    ]
    targets += [
        at_least(f"linear in {name}: R²", 0.99, found["r2"])
        for name, found in (("traits", by_traits), ("scenarios", by_scenarios))
    ]
    setting = {"model": "embedded (by stage), tiny random (growth)", "device": "cpu", "flags": FULL}
    return {
        "subject": "Pipeline",
        "setting": setting,
        "rows": [*rows, *by_traits["rows"], *by_scenarios["rows"], by_traits["line"], by_scenarios["line"]],
        "targets": targets,
        "notes": [NOTE],
    }


NOTE = (
    "Seconds by stage are those that the manifests record, and the first trait's hold the loading of the "
    "models. "
    "Growth is that of stages 0 to 4 with few new tokens. It is given in seconds and processor seconds "
    "of the "
    "whole run, and the straight line is fitted to the latter."
)


def _by_stage(traits: list[str], flags: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as root:
        for trait in traits:
            copy_trait(Path(root), trait)
        arguments = f"--experiment demo --traits {','.join(traits)} {FULL} {flags}".split()
        cold = run_child("benchmarks.pipeline:run", root=root, arguments=arguments)
        warm = run_child("benchmarks.pipeline:run", root=root, arguments=arguments)
        rows = []
        for trait in traits:
            manifests = {
                name: read_json(file)
                for name in STAGES
                if (file := TraitPaths("demo", trait, Path(root)).manifest(name)).exists()
            }
            stages = {
                f"stage_{name[0]}_s": float(manifest["seconds"]) for name, manifest in manifests.items()
            }
            rows.append(
                {
                    "way": trait,
                    **stages,
                    "sum_s": sum(stages.values()),
                    "up_to_date_ms": warm["check_ms"][trait],
                }
            )
        whole = {
            "way": f"the process, {len(traits)} traits",
            "cold_s": cold["seconds"],
            "up_to_date_s": warm["seconds"],
        }
        return [*rows, whole | {"up_to_date_ms": max(warm["check_ms"].values()), "loads": cold["loads"]}]


def copy_trait(root: Path, trait: str, scenarios: int = 0, copy: int = 0) -> None:
    """Put a shipped trait under another root; with `scenarios`, so many pairs, its lines repeated with a
    number where they do not suffice.

    A further copy has another name, and a number before every line: what is judged once is not judged again.
    """
    target = root / "datasets" / "traits" / (f"{trait}_{copy}" if copy else trait)
    target.mkdir(parents=True)
    for file in ("positive.txt", "negative.txt"):
        lines = [line for line in (TRAITS / trait / file).read_text().split("\n") if line]
        numbered = [(i // len(lines) + copy, lines[i % len(lines)]) for i in range(scenarios or len(lines))]
        (target / file).write_text(
            "\n".join(f"{number}. {line}" if number else line for number, line in numbered)
        )
    for file in ("definition.txt", "steering.json"):
        (target / file).write_bytes((TRAITS / trait / file).read_bytes())


def run(root: str, arguments: list[str]) -> dict:
    """Run the pipeline in this process; return how often a model was loaded, and what the check of every
    trait takes when all is done.
    """
    os.environ["TRAITSCOPE_ROOT"] = root
    printed = io.StringIO()
    start, cpu_start = time.perf_counter(), time.process_time()
    with redirect_stdout(printed):
        run_command(run_pipeline.COMMAND, arguments)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    given = parse_arguments(arguments, run_pipeline.COMMAND.flags) or {}
    loads = len(re.findall(r"^model: ", printed.getvalue(), re.MULTILINE))
    return {"seconds": seconds, "cpu_s": cpu_seconds, "loads": loads, "check_ms": _check(given, Path(root))}


def _check(given: dict[str, Any], root: Path) -> dict[str, float]:
    """Return {trait: milliseconds} that `why_run` takes for all stages of an up-to-date trait; the
    quickest of three.
    """
    options = pick(run_pipeline.PipelineOptions, given)
    own = option_flags(run_pipeline.PipelineOptions)
    steps = run_pipeline.plan_stages(options, {k: v for k, v in given.items() if k not in own})
    found = {}
    for paths in (TraitPaths(options.experiment, trait, root) for trait in options.traits):
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            reasons = [why_run(step.stage, paths, step.stage.params(step.settings)) for step in steps]
            tries.append(1000 * (time.perf_counter() - start))
            assert not any(reasons), reasons
        found[paths.trait] = min(tries)
    return found


def _run_tiny(trait: str, copies: int, scenarios: int) -> dict:
    """Run stages 0 to 4 on copies of a trait: traits of other texts would cost something else each."""
    with tempfile.TemporaryDirectory() as root:
        for copy in range(copies):
            copy_trait(Path(root), trait, scenarios, copy)
        traits = [trait, *(f"{trait}_{copy}" for copy in range(1, copies))]
        lm = build_model(SHAPES["tiny"], "cpu")
        for part in (lm.model, lm.tokenizer):
            part.save_pretrained(f"{root}/tiny")
        arguments = f"--experiment tiny --model {root}/tiny --traits {','.join(traits)} {SMALL}".split()
        done = run_child("benchmarks.pipeline:run", root=root, arguments=arguments)
        return {name: done[name] for name in ("seconds", "cpu_s", "loads")}


def _growth(what: str, sizes: tuple[int, ...], run_size: Any) -> dict:
    found = [run_size(k) for k in sizes]
    seconds = np.array([f["cpu_s"] for f in found])  # what else runs on the machine counts for less in them
    slope, start = np.polyfit(sizes, seconds, 1)
    residuals = seconds - (start + slope * np.array(sizes))
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    rows = [
        {"way": f"{k} {what}", **f, "of_the_line_s": float(start + slope * k)}
        for k, f in zip(sizes, found, strict=True)
    ]
    r2 = 1 - float((residuals**2).sum()) / spread
    line = {
        "way": f"line in {what}",
        "start_s": float(start),
        "each_s": float(slope),
        "largest_residual_s": float(np.abs(residuals).max()),
        "R2": r2,
    }
    return {"rows": rows, "line": line, "r2": r2}


if __name__ == "__main__":
    bench_main(measure, __doc__)
