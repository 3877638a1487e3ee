"""Judges under a storm: a local server that answers most requests with one of all the faults there are.

    python tests/campaign/storms.py --seed 0 --trials 4

Which fault a request meets depends on the seed, the question and how often it was asked, and on nothing else.
Two processes ask the same questions: one of a quiet server, one of the storm. What they report is compared
with what the server would honestly have said, and their memory with each other's.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib
from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from judge_server import KEYS, URLS, JudgeServer, expected, read_question, score_of

SHARE = 0.6  # of requests, that meet a fault
QUESTIONS = 20  # for each provider and trial
PATIENCE = 600.0  # seconds after which a process that asks has hung
LEADS = re.compile(r"storm (\d+) question (\d+)\b")


async def reset_halfway(writer: asyncio.StreamWriter) -> None:
    writer.write(b'{"choices": [')
    await writer.drain()
    writer.transport.abort()


async def drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b" " * 65536)
        await writer.drain()


@cache
def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()


PAGE = b"<!doctype html><html><body>Sign in to the network</body></html>"
DEEP = b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
PACKED, HTML, SOON = {"content-encoding": "gzip"}, {"content-type": "text/html"}, {"retry-after": "0.02"}
# kind → (status, body, headers); what one question is to meet once, and what all may meet
FAULTS: dict[str, tuple[int, Any, dict]] = {
    "429": (429, {"error": {"message": "too fast"}}, {}),
    "429 with Retry-After": (429, {"error": {"message": "too fast"}}, SOON),
    "500": (500, {"error": {"message": "injected"}}, {}),
    "503": (503, PAGE, HTML),
    "503 with Retry-After": (503, {"error": {"message": "busy"}}, SOON),
    "529": (529, {"error": {"type": "overloaded_error", "message": "overloaded"}}, SOON),
    "reset": (200, reset_halfway, {"content-length": 5000}),
    "timeout": (200, drip, {}),
    "endless": (200, endless, {}),
    "bomb": (200, bomb(), PACKED),
    "bomb as an error": (500, bomb(), PACKED),
    "large error": (500, b"x" * 20_000_000, {}),
    "no UTF-8": (200, b'{"choices": [{"message": {"content": "\xff\xfe"}}]}', {}),
    "no UTF-8 as an error": (500, b"\xff\xfe\xc3", {}),
    "deep JSON": (200, DEEP, {}),
    "empty body": (200, b"", {}),
    "wrong shape": (200, {"choices": 5, "content": [None], "candidates": [[]]}, {}),
    "wrong type": (200, ["text", None, 1e308], {}),
    "page": (200, PAGE, HTML),
    "truncated JSON": (200, b'{"choices": [{"message": {"role": "assi', {}),
    "unknown encoding": (200, b"{}", {"content-encoding": "br"}),
    "damaged gzip": (200, b"\x1f\x8b\x08damaged", PACKED),
    "odd charset": (500, PAGE, {"content-type": "text/html; charset=zlib_codec"}),
}
KINDS = [*FAULTS, "refused connection", "key sent back"]
RARE = ("timeout", "refused connection")  # each of them costs its seconds


@dataclass
class Storm:
    """What the server does to each request, and what it has done so far."""

    seed: int
    server: JudgeServer
    elsewhere: str
    met: Counter = field(default_factory=Counter)  # kind → requests
    asked: Counter = field(default_factory=Counter)  # protocol and question → requests

    def answer(self, body: dict) -> tuple[int, Any, dict] | None:
        """Return a fault in place of an answer, None for an honest answer."""
        question = read_question("generateContent" if "contents" in body else "", body)
        if not (found := LEADS.search(question)):
            return None  # the question by which the way of asking is found

        protocol = "gemini" if "contents" in body else "openai" if body.get("logprobs") else "anthropic"
        self.asked[protocol, found[0]] += 1
        tries = self.asked[protocol, found[0]]
        if tries == 1 and found[1] in "02468" and found[2] == "7":
            self.met["redirect"] += 1
            return 307, {}, {"location": f"{self.elsewhere}/v1?key={self.server.key}"}

        dice = Random(f"{self.seed} {protocol} {found[0]} {tries}")
        return self._fault(dice) if dice.random() < SHARE else None

    def _fault(self, dice: Random) -> tuple[int, Any, dict]:
        kind = dice.choice([k for k in KINDS if k not in RARE or dice.random() < 0.3])
        self.met[kind] += 1
        if kind == "key sent back":
            return 500, {"error": {"message": f"no such key: {self.server.key}"}}, {}
        if kind == "refused connection":
            self.server._loop.create_task(self.server.shut_door(0.1))
            return 200, reset_halfway, {"connection": "close"}
        return FAULTS[kind]


def run_storms(seed: int, trials: int) -> dict:
    """Let judges of all providers ask through a storm, and return what came of it.

    Args:
        trials: How often each provider is asked QUESTIONS questions; every second time, one of them is met by
            a redirect, which ends the run, and the same command is given again.

    Returns:
        Counts, and the peak memory of the process that asked, in MB, in the storm and without.
    """
    with JudgeServer() as server, JudgeServer() as elsewhere:
        quiet = ask_all(server, trials)
        storm = Storm(seed, server, elsewhere.url)
        server.error = storm.answer
        stormy = ask_all(server, trials)
        figures = compare(stormy, trials) | {
            "faults": dict(sorted(storm.met.items())),
            "requests_elsewhere": elsewhere.requests,
            "keys_leaked": sum(run["text"].count(server.key.encode()) for run in (quiet, stormy)),
        }

    assert compare(quiet, trials)["answered"] == 3 * trials * QUESTIONS, "the quiet server lost answers"
    return figures | {
        "trials": trials,
        "tracebacks": quiet["text"].count(b"Traceback") + stormy["text"].count(b"Traceback"),
        "hangs": quiet["hangs"] + stormy["hangs"],
        "rss_quiet_mb": quiet["rss"],
        "rss_storm_mb": stormy["rss"],
    }


def compare(run: dict, trials: int) -> dict:
    """Count the questions that got the honest answer, another one, or a state in its place."""
    found = run["scores"]
    right = [abs(row["value"] - honest(row)) < 1e-6 for row in found if row["value"] is not None]
    states = Counter(row["state"] for row in found)
    return {
        "questions": 3 * trials * QUESTIONS,
        "answered": sum(right),
        "wrong_values": right.count(False),
        "states": dict(states),
        "lost": 3 * trials * QUESTIONS - len(found),  # neither a score nor a state
        "stopped_by_redirect": run["stopped"],
    }


def honest(row: dict) -> float:
    """Return the score that the server gives when it is let."""
    return score_of(row["question"]) if row["mode"].endswith("/text") else expected(row["question"])


def ask_all(server: JudgeServer, trials: int) -> dict:
    """Ask every question of every provider, in a process of its own with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TRAITSCOPE_CACHE": folder}
        for name in KEYS:
            environment[KEYS[name]] = server.key
            environment[URLS[name]] = server.url + ("/v1" if name == "openai" else "")
        command = [sys.executable, __file__, "--ask", "--trials", str(trials)]
        try:
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as expired:
            text = (expired.stdout or b"") + (expired.stderr or b"")
            return {"scores": [], "stopped": 0, "rss": 0.0, "hangs": 1, "text": text}

        kept = b"".join(path.read_bytes() for path in Path(folder).iterdir())

    lines = done.stdout.splitlines()
    report = json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else {}
    return (
        {"scores": [], "stopped": 0, "rss": 0.0, "hangs": 0}
        | report
        | {"text": done.stdout + done.stderr + kept}
    )


def ask(trials: int) -> None:
    """Ask in this process, and print what was answered, what memory it took, and how often it was stopped."""
    from resource import RUSAGE_SELF, getrusage

    from traitscope.utils.judge import Answer, Example, JudgeOptions, Rubric, asking, load_judge
    from traitscope.utils.judge.prompts import ask_trait

    asking.FIRST_WAIT = asking.LAST_WAIT = 0.02  # seconds
    examples = tuple(Example(side, i, f"{side} {i}") for side in ("pos", "neg") for i in range(6))
    rubric = Rubric("weather/warmth", "Warm weather.", examples)
    rows, stopped = [], 0
    for name in KEYS:
        judge = load_judge(JudgeOptions(name, judge_timeout=1.0), rubric)
        for trial in range(trials):
            answers = [Answer("q", f"storm {trial} question {i}") for i in range(QUESTIONS)]
            scores, again = score_in_the_end(judge, answers)
            stopped += again
            rows += [
                score.as_json()
                | {"value": score.value, "question": ask_trait(rubric, answer).messages[-1]["content"]}
                for answer, score in zip(answers, scores, strict=True)
            ]

    print(json.dumps({"scores": rows, "stopped": stopped, "rss": getrusage(RUSAGE_SELF).ru_maxrss / 1024}))


def score_in_the_end(judge: Any, answers: list) -> tuple[list, int]:
    """Return the scores, and how often the same command had to be given again."""
    from traitscope.utils.errors import UserError

    for again in range(10):
        try:
            return judge.score_responses(answers), again
        except UserError as error:  # one redirect ends the run
            print(error)
    return [], 10


def main() -> None:
    """Run storms and print their figures."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--ask", action="store_true", help="be the process that asks")
    options = parser.parse_args()
    if options.ask:
        ask(options.trials)
    else:
        print(json.dumps(run_storms(options.seed, options.trials), indent=1))


if __name__ == "__main__":
    main()
