"""How well the keyless judge of coherence tells whole answers from broken ones, on answers that it has not seen. Run:
.venv/bin/python tests/benchmarks/coherence.py
"""

import json
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.tables import at_least
from benchmarks.workload import BenchOptions, bench_main
from traitscope.utils.judge.coherence import TokenText
from traitscope.utils.judge.learned import LearnedCoherence
from traitscope.utils.judge.sentences import embed
from traitscope.utils.model.encode import encode, encode_text
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.loading import LM, ModelOptions, load_lm

HELD_OUT = Path(__file__).resolve().parents[1] / "data" / "coherence_held_out.jsonl"
QUESTIONS = (
    "Why is the sea salty?",
    "How do I clean glasses?",
    "What is a good breakfast?",
    "How should I spend a rainy afternoon?",
    "What can I do about a noisy neighbour?",
    "Tell me about your city.",
    "Explain how a bicycle stays upright.",
    "Is it rude to be late to a party?",
    "What makes a good friend?",
    "How do I write a thank-you note?",
)
WELL, BADLY = 70, 40  # a good text should reach the one, a broken one stay below the other


def read_held_out() -> list[dict]:
    """Return the answers that the judge never sees: {"question", "text", "label", "kind"}."""
    return [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]


def as_texts(lm: LM, rows: Sequence[dict]) -> list[TokenText]:
    """Return answers as the model's tokens, each after its question."""
    prompts = {q: encode(lm, [{"role": "user", "content": q}]) for q in {row["question"] for row in rows}}
    return [
        TokenText(prompts[row["question"]], encode_text(lm, row["text"]), row["question"], row["text"])
        for row in rows
    ]


def calibrate(lm: LM) -> LearnedCoherence:
    """Return the judge, calibrated on the model's greedy answers to ten questions."""
    prompts = [encode(lm, [{"role": "user", "content": q}]) for q in QUESTIONS]
    own = generate(lm, [Row(p) for p in prompts], Sampling(max_new_tokens=48))
    texts = [TokenText(p, c.ids, q) for p, c, q in zip(prompts, own, QUESTIONS, strict=True)]
    return LearnedCoherence(lm, texts, embed)


def tabulate(rows: Sequence[dict], values: np.ndarray) -> list[dict]:
    """Return per kind, "good" first: how many, mean score, the share that scores as it should, and the AUROC
    against all good texts.
    """
    kinds = np.array(["good" if row["label"] == "good" else row["kind"] for row in rows])
    good = kinds == "good"
    table = [
        {
            "kind": "good",
            "n": int(good.sum()),
            "mean": values[good].mean(),
            "right": (values[good] >= WELL).mean(),
            "auroc": roc_auc_score(good, values),
        }
    ]
    for kind in sorted(set(kinds) - {"good"}):
        these = kinds == kind
        both = good | these
        table.append(
            {
                "kind": kind,
                "n": int(these.sum()),
                "mean": values[these].mean(),
                "right": (values[these] <= BADLY).mean(),
                "auroc": roc_auc_score(good[both], values[both]),
            }
        )
    return [
        {k: v if isinstance(v, (str, int)) else round(float(v), 3) for k, v in row.items()} for row in table
    ]


def measure(options: BenchOptions) -> dict:
    """Return the table of the held-out answers."""
    lm, rows = load_lm(ModelOptions(model="embedded")), read_held_out()
    rows = rows[::6] if options.quick else rows
    start = time.monotonic()
    judge = calibrate(lm)
    calibrated = time.monotonic()
    values = np.array([score.value for score in judge.score(as_texts(lm, rows))])
    scored = time.monotonic()

    table = tabulate(rows, values)
    setting = {"model": "embedded", "texts": len(rows), **judge.identity}
    setting |= {
        "calibration": f"{calibrated - start:.0f} s",
        "a text": f"{(scored - calibrated) / len(rows):.2f} s",
    }
    notes = [f"right: the share of good texts at {WELL} or more, of broken ones at {BADLY} or less."]
    targets = [at_least("AUROC, good against broken", 0.9, table[0]["auroc"])]
    return {"subject": "Coherence", "setting": setting, "rows": table, "targets": targets, "notes": notes}


if __name__ == "__main__":
    bench_main(measure, __doc__)
