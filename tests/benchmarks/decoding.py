"""What decodes greedy tokens fastest: transformers' own loop, its static cache, its compiled step, or our
step as a CUDA graph. Run: .venv/bin/python tests/benchmarks/decoding.py --device cuda

The work: one batch of prompts, left-padded, and its greedy tokens; what a way writes is compared with what
transformers' own loop writes. What a way does only once, such as compiling, is in its first call, which has
a column of its own. Without a GPU, what needs one is not run.
"""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from torch import Tensor

from benchmarks.rounds import Rounds, ratio_between, run_rounds, summarise, timed
from benchmarks.tables import at_least
from benchmarks.workload import BenchOptions, bench_main, load_model, make_prompts
from traitscope.utils.model import decoding
from traitscope.utils.model.anatomy import end_tokens
from traitscope.utils.model.batching import pad_left
from traitscope.utils.model.generation import cut_at_end
from traitscope.utils.model.hooks import SteerCheck
from traitscope.utils.model.loading import LM

PLAIN, STATIC, COMPILED = "transformers", "transformers, static cache", "transformers, compiled step"
EAGER, GRAPH = "our step, eager", "our step, CUDA graph"
ON_GPU = (COMPILED, GRAPH)
PROMPTS = 10
NOTE = (
    "The ratio is to transformers' own loop in the same round. Same texts: the share of rows with the very "
    "tokens that this loop wrote. The compiled step is what `generate` takes by itself with a static cache "
    "on a GPU. Our CUDA graph is captured anew for every batch, within its seconds."
)


@dataclass(frozen=True)
class Job:
    """One batch to decode."""

    lm: LM
    ids: Tensor  # [rows, width], padded on the left
    mask: Tensor  # [rows, width]
    limit: int  # new tokens

    def by_transformers(self, **settings: Any) -> Tensor:
        """Return the new tokens [rows, new], on the CPU, by the model's own `generate`."""
        output = self.lm.model.generate(
            input_ids=self.ids.to(self.lm.device),
            attention_mask=self.mask.to(self.lm.device),
            do_sample=False,
            max_new_tokens=self.limit,
            **settings,
        )
        return output[:, self.ids.shape[1] :].cpu()

    def by_our_steps(self) -> Tensor:
        """Return the same by our step, taken eagerly."""
        with patch.object(decoding, "replay_on", return_value=None):
            return self._decode()

    def by_our_graph(self) -> Tensor:
        """Return the same by our step, replayed.

        Raises:
            RuntimeError: the graph was left aside, so that nothing of it was measured.
        """
        output = self._decode()
        if self.lm.model in decoding._refused:
            raise RuntimeError("its graph was left aside; the line that begins with the model says why")
        return output

    def _decode(self) -> Tensor:
        return decoding.decode(self.lm, (self.ids, self.mask), None, self.limit, SteerCheck({}))


def make_job(lm: LM, rows: int, limit: int) -> Job:
    """Return a batch of evaluation questions, which repeat where there are more rows."""
    prompts = make_prompts(lm, PROMPTS)
    ids, mask = pad_left([prompts[row % len(prompts)] for row in range(rows)], lm.tokenizer.pad_token_id)
    return Job(lm, ids, mask, limit)


def measure(options: BenchOptions) -> dict:
    """Return the results of decoding batches of several sizes."""
    lm = load_model(options)
    is_gpu = options.device == "cuda"
    sizes = (4,) if options.quick else (1, 32, 256) if is_gpu else (1, 8)
    limit = decoding.WORTH + 4 if options.quick else 128 if is_gpu else 64

    rows, targets = [], []
    for size in sizes:
        found, own_rows = compare(make_job(lm, size, limit), options)
        rows += [row | {"way": f"{row['way']}, batch {size}"} for row in own_rows]
        targets += _targets(found, size)

    setting = {"model": lm.identity["name"], "dtype": lm.identity["dtype"], "device": options.device}
    return {
        "subject": "Decoding",
        "setting": setting | {"new_tokens": limit},
        "rows": rows,
        "targets": targets,
        "notes": [NOTE],
    }


def compare(job: Job, options: BenchOptions) -> tuple[Rounds, list[dict]]:
    """Decode one batch in every way; return the seconds and the rows of the table."""
    written: dict[str, list[list[int]]] = {}

    def keeping(name: str, way: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            written[name] = _texts(job.lm, way())

        return run

    ways = {name: timed(keeping(name, way)) for name, way in _ways(job).items()}
    missing = {name: "it needs a GPU" for name in ON_GPU if name not in ways}
    first = run_rounds(ways, 1)
    working = {name: ways[name] for name in first.seconds}
    found = run_rounds(working, options.rounds or (1 if options.quick else 3))
    found.not_run.update(first.not_run | missing)

    rows = summarise(found, PLAIN)
    for row in rows:
        if "ratio" in row:
            row["first_call_s"] = first.seconds[row["way"]][0]
            row["same_texts"] = _agreement(written[row["way"]], written[PLAIN])
    return found, rows


def _ways(job: Job) -> dict[str, Callable[[], Tensor]]:
    """Return what writes the new tokens, by name, as far as the device can do it."""
    ways = {
        PLAIN: job.by_transformers,
        STATIC: lambda: job.by_transformers(cache_implementation="static", disable_compile=True),
        COMPILED: lambda: job.by_transformers(cache_implementation="static"),
        EAGER: job.by_our_steps,
        GRAPH: job.by_our_graph,
    }
    is_gpu = job.lm.device.type == "cuda"
    return {name: way for name, way in ways.items() if is_gpu or name not in ON_GPU}


def _texts(lm: LM, output: Tensor) -> list[list[int]]:
    ends = set(end_tokens(lm))
    return [cut_at_end(row, ends).ids for row in output.tolist()]


def _agreement(texts: list[list[int]], others: list[list[int]]) -> float:
    """Return the share of rows with the very same tokens."""
    return sum(a == b for a, b in zip(texts, others, strict=True)) / len(texts)


def _targets(found: Rounds, size: int) -> list[dict]:
    """What the graph must reach to be worth its code: half as fast again as the plain loop, and no slower
    than what transformers offers.
    """
    wanted = {PLAIN: 1.5, STATIC: 1.0, COMPILED: 1.0}
    return [
        at_least(
            f"{name} / {GRAPH}, batch {size}",
            limit,
            ratio_between(found, name, GRAPH) if {name, GRAPH} <= set(found.seconds) else None,
        )
        for name, limit in wanted.items()
    ]


if __name__ == "__main__":
    bench_main(measure, __doc__)
