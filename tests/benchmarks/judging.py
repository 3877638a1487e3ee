"""How fast scores come from a server that takes its time, against asking one by one. Run: .venv/bin/python tests/benchmarks/judging.py"""

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from judge_server import JudgeServer

from utils.judge import Answer, Example, JudgeOptions, Rubric, load_judge

N, LATENCY, CONCURRENCY, ALONE = 400, 2.0, 100, 5
RUBRIC = Rubric("x/warmth", "Warm weather.", tuple(Example(side, i, f"{side} {i}") for side in ("pos", "neg") for i in range(4)))


def measure(provider: str, n: int, concurrency: int) -> float:
    """Return the seconds for n scores, each of another text, with an empty cache."""
    with JudgeServer() as server, tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TRAITSCOPE_CACHE": cache, "OPENAI_BASE_URL": f"{server.url}/v1", "ANTHROPIC_BASE_URL": server.url, "GOOGLE_GEMINI_BASE_URL": server.url}
        os.environ |= dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), server.key)
        judge = load_judge(JudgeOptions(provider, judge_concurrency=concurrency), RUBRIC)
        server.latency = LATENCY
        start = time.monotonic()
        scores = judge.score_responses([Answer("q", f"text {i}") for i in range(n)])
        assert all(s.state == "scored" for s in scores)
        return time.monotonic() - start


if __name__ == "__main__":
    print(f"{N} scores, {LATENCY:g} s of server latency, {CONCURRENCY} at once; the floor is {LATENCY * N / CONCURRENCY:g} s")
    for provider in ("openai", "anthropic", "gemini"):
        together, alone = measure(provider, N, CONCURRENCY), measure(provider, ALONE, 1) / ALONE * N
        print(f"{provider}: {together:.1f} s, one by one {alone:.0f} s (from {ALONE}): {alone / together:.0f} times as fast")
