"""The worker's side: loads once, then does the work once for every line it is sent, and answers with its
seconds.

Lines are JSON. In: {"do": way, "kernels": name} or {"write": path}. Out: first {"ways", "default",
"versions", "threads"}, then {"seconds", "cpu_s", "peak_mb"} or {"written": path}. What a peer itself prints goes to
stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.kernels import use_kernels
from benchmarks.peak import peak_mb


@dataclass(frozen=True)
class Prepared:
    """A loaded model and the ways of doing the job with it; a way returns its numbers."""

    model: nn.Module
    ways: dict[str, Callable[[], Any]]
    default: str = ""  # the way it works when it is not told otherwise


def serve(packages: tuple[str, ...], tasks: dict[str, Callable[[dict], Prepared]]) -> None:
    """Prepare the job named on the command line and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(Path(sys.argv[1]).read_text())
    prepared = tasks[job["task"]](job)
    _say(
        answers,
        {
            "ways": list(prepared.ways),
            "default": prepared.default,
            "versions": {p: _version(p) for p in packages},
            "threads": torch.get_num_threads(),
        },
    )
    numbers: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        if "write" in order:
            torch.save(numbers, order["write"])
            _say(answers, {"written": order["write"]})
            continue
        use_kernels(prepared.model, order["kernels"])
        start, cpu_start = time.perf_counter(), time.process_time()
        numbers = prepared.ways[order["do"]]()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        _say(answers, {"seconds": seconds, "cpu_s": cpu_seconds, "peak_mb": peak_mb()})


def _say(answers: Any, content: dict) -> None:
    print(json.dumps(content), file=answers, flush=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def read_config(folder: str) -> Any:
    """Return a model's config for transformers 4, which does not read the rotary base where transformers 5
    wrote it, and would silently take 10000.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    written = json.loads((Path(folder) / "config.json").read_text())
    config.rope_theta = written["rope_parameters"]["rope_theta"]
    return config


def in_file_order(texts: list[dict], rows: int) -> list[list[dict]]:
    """Cut texts into batches as they come."""
    return [texts[i : i + rows] for i in range(0, len(texts), rows)]


def pad_right(batch: list[dict]) -> tuple[Tensor, Tensor]:
    """Return ids and mask [batch, width]."""
    width = max(len(t["ids"]) for t in batch)
    ids = torch.tensor([t["ids"] + [0] * (width - len(t["ids"])) for t in batch])
    return ids, torch.tensor([[1] * len(t["ids"]) + [0] * (width - len(t["ids"])) for t in batch])


def pad_left(prompts: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask [batch, width]."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    return ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


def labels_of(batch: list[dict]) -> Tensor:
    """Return [batch, width]: a response's tokens, and −100 elsewhere."""
    ids, _ = pad_right(batch)
    for row, text in zip(ids, batch, strict=True):
        row[: text["n_prompt"]] = -100
        row[len(text["ids"]) :] = -100
    return ids


def response_mean(hidden: Tensor, text: dict) -> Tensor:
    """Return the mean over a row's response tokens: [pos, d_model] → [d_model]."""
    return hidden[text["n_prompt"] : len(text["ids"])].float().mean(0)
