"""How fast scores come from a server that takes its time, against asking one by one. Run:
.venv/bin/python tests/benchmarks/judging.py
"""

import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from judge_server import KEYS, URLS, JudgeServer

from benchmarks.tables import at_least
from benchmarks.workload import BenchOptions, bench_main
from traitscope.utils.judge import Answer, Example, JudgeOptions, Rubric, load_judge

CONCURRENCY, ALONE = 100, 5
RUBRIC = Rubric(
    "x/warmth",
    "Warm weather.",
    tuple(Example(side, i, f"{side} {i}") for side in ("pos", "neg") for i in range(4)),
)


def measure(options: BenchOptions) -> dict:
    """Return seconds for all scores at once, and for a few one by one, times their share."""
    n, latency = (20, 0.1) if options.quick else (400, 2.0)
    rows, targets = [], []
    for provider in ("openai", "anthropic", "gemini"):
        together = score(provider, n, latency, CONCURRENCY)
        alone = score(provider, ALONE, latency, 1) / ALONE * n
        rows.append(
            {"way": provider, "seconds": together, "one_by_one": alone, "times_as_fast": alone / together}
        )
        targets.append(at_least(f"{provider}: one by one / traitscope", 65, alone / together))
    setting = {
        "scores": n,
        "server_latency": f"{latency:g} s",
        "at_once": CONCURRENCY,
        "floor": f"{latency * n / min(n, CONCURRENCY):g} s",
    }
    notes = [f"One by one: from {ALONE} scores. The server is local and does nothing but wait."]
    return {"subject": "Judging", "setting": setting, "rows": rows, "targets": targets, "notes": notes}


def score(provider: str, n: int, latency: float, concurrency: int) -> float:
    """Return the seconds for n scores, each of another text, with an empty cache."""
    with JudgeServer() as server, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TRAITSCOPE_CACHE": cache} | dict.fromkeys(KEYS.values(), server.key)
        os.environ |= {
            name: server.url + ("/v1" if known == "openai" else "") for known, name in URLS.items()
        }
        judge = load_judge(JudgeOptions(provider, judge_concurrency=concurrency), RUBRIC)
        server.latency = latency
        start = time.monotonic()
        scores = judge.score_responses([Answer("q", f"text {i}") for i in range(n)])
        assert all(s.state == "scored" for s in scores)
        return time.monotonic() - start


if __name__ == "__main__":
    bench_main(measure, __doc__)
