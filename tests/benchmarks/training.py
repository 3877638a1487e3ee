"""Seconds of a step of training through the upper part of the model, against the whole model forward and back with
the same rows and against other trainers; its memory against what it needs; and the whole command. Run:
.venv/bin/python tests/benchmarks/training.py
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import torch

from benchmarks.children import ChildError, run_child
from benchmarks.rounds import Way, processor_timed, ratio_between, run_rounds, summarise
from benchmarks.tables import at_most
from benchmarks.training_commands import prepare, run_rates, run_whole
from benchmarks.training_memory import as_texts
from benchmarks.training_peers import measure_peers
from benchmarks.workload import BenchOptions, bench_main, load_model, make_chats
from traitscope.extraction.training.course import Progress, Start
from traitscope.extraction.training.loop import Task, learn
from traitscope.extraction.training.objectives import LikelyText
from traitscope.extraction.training.options import TrainOptions
from traitscope.extraction.training.texts import Texts
from traitscope.utils.files.journal import Journal
from traitscope.utils.model.loading import LM
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text

NAIVE, DEEPER = "whole model, back to the vector", "whole model, back to the embeddings"
TOGETHER, ALONE = "eight learning rates, one pass", "eight learning rates, a run each"
RATES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)


def naive_step(lm: LM, texts: list[Text], layer: int, *, all_the_way: bool = False) -> Callable[[], None]:
    """Return a step as it is plainly written: all rows padded, every logit, back to the vector as autograd does it.

    Args:
        all_the_way: Ask for a gradient of the embeddings as well, as training that is not frozen below does.
    """
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(t.ids) for t in texts], batch_first=True).to(
        lm.device
    )
    labels = ids.clone()
    for row, text in zip(labels, texts, strict=True):
        row[: len(text.prompt_ids)] = -100
        row[len(text.ids) :] = -100

    def step() -> None:
        vector = torch.zeros(lm.d_model, device=lm.device, requires_grad=True)
        embedded = lm.model.get_input_embeddings()(ids).detach().requires_grad_(all_the_way)
        handle = lm.model.base_model.layers[layer].register_forward_hook(lambda _m, _i, out: out + vector)
        try:
            logits = lm.model(inputs_embeds=embedded, use_cache=False).logits
        finally:
            handle.remove()
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()

    return step


def upper_step(lm: LM, texts: list[Text], layer: int) -> Callable[[], None]:
    """Return a step of ours at a layer; what lies below is read before, as training does once a text."""
    passes = Passes(UpperPart.of(lm, layer), [layer])
    passes.read(texts)
    units = [Unit((Row(text, 0, 1.0),), (text,), 0) for text in texts]

    def step() -> None:
        vector = torch.zeros(1, lm.d_model, device=lm.device, requires_grad=True)
        for batch in passes.batches(units):
            costs = passes.losses(vector, batch)
            torch.autograd.grad(torch.cat([cost for (cost,) in costs]).mean(), vector)

    return step


def training(lm: LM, texts: list[Text], rates: tuple[float, ...]) -> Callable[[], None]:
    """Return a short training with several learning rates in one pass, from the lower blocks to the vectors."""
    layer = (lm.n_layers - 1) // 2
    shared = Texts(texts[2:], texts[:2], [])
    options = TrainOptions(steps=3, learning_rates=rates, patience=0)

    def run() -> None:
        passes = Passes(UpperPart.of(lm, layer), [layer] * len(rates))
        starts = [Start(layer, rate, 0, 100.0) for rate in rates]
        with tempfile.TemporaryDirectory() as folder:
            task = Task(LikelyText(shared), starts, Progress(Journal(Path(folder) / "journal")))
            learn(passes, task, options)

    return run


def measure(options: BenchOptions) -> dict:
    """Return the subject's results."""
    load = os.getloadavg()[0]
    lm, chats = load_model(options), make_chats(4 if options.quick else 16)
    texts = as_texts(chats)
    parts = [measure_steps(options, lm, texts), measure_rates(options, lm, texts)]
    if options.has_peers:
        parts.append(measure_peers(options, [asdict(chat) for chat in chats]))
    if options.device == "cpu" and options.shape == "embedded":
        parts += [measure_memory(options), measure_commands(options)]
    setting = {
        "model": lm.identity["name"],
        "device": str(lm.device),
        "texts": len(texts),
        "tokens": sum(len(text.ids) for text in texts),
        "others_on_the_machine": f"load {load:.1f} before and {os.getloadavg()[0]:.1f} after",
    }
    joined = {
        name: [row for part in parts for row in part.get(name, [])] for name in ("rows", "targets", "notes")
    }
    return {"subject": "Training", "setting": setting, **joined}


def measure_steps(options: BenchOptions, lm: LM, texts: list[Text]) -> dict:
    """Return a step on all texts, through the whole model and at two depths."""
    deep = {share: round(share / 100 * (lm.n_layers - 1)) for share in (50, 70)}
    names = {share: f"traitscope, {share} % of the depth" for share in deep}
    ways: dict[str, Way] = {
        NAIVE: processor_timed(naive_step(lm, texts, deep[50])),
        DEEPER: processor_timed(naive_step(lm, texts, deep[50], all_the_way=True)),
    }
    ways |= {names[share]: processor_timed(upper_step(lm, texts, layer)) for share, layer in deep.items()}
    found = run_rounds(ways, options.rounds or (1 if options.quick else 2))
    targets = [
        at_most(
            f"a step at {share} % of the depth, of the whole model's",
            most,
            ratio_between(found, names[share], NAIVE),
        )
        for share, most in ((50, 0.7), (70, 0.5))
    ]
    return {"rows": summarise(found, NAIVE), "targets": targets}


RATES_NOTE = (
    "Where a table has a ratio, seconds are processor seconds, on one thread. Eight learning rates: three steps with four "
    "texts each and validation; every run reads its texts below the layer."
)


def measure_rates(options: BenchOptions, lm: LM, texts: list[Text]) -> dict:
    """Return processor seconds of eight learning rates in one pass and in eight, the model loaded before."""
    rates = RATES[:2] if options.quick else RATES
    together, runs = training(lm, texts, rates), [training(lm, texts, (rate,)) for rate in rates]
    ways = {ALONE: processor_timed(lambda: [run() for run in runs]), TOGETHER: processor_timed(together)}
    found = run_rounds(ways, options.rounds or 1)
    ratio = ratio_between(found, TOGETHER, ALONE)
    return {
        "rows": summarise(found, ALONE),
        "targets": [at_most("training alone: eight learning rates in one pass, of eight runs", 0.6, ratio)],
        "notes": [RATES_NOTE],
    }


def measure_memory(options: BenchOptions) -> dict:
    """Return peaks beside what the arithmetic says, with and without checkpointing."""
    where = {"n": 4 if options.quick else 16, "device": options.device, "shape": options.shape}
    loaded = run_child("benchmarks.training_memory:train", saves_memory=False, is_read_only=True, **where)
    rows: list[dict] = [{"way": "loaded, nothing trained", "peak_MB": loaded["peak_mb"]}]
    targets = []
    for saves_memory in (False, True):
        name = "with checkpointing" if saves_memory else "without checkpointing"
        done = run_child("benchmarks.training_memory:train", saves_memory=saves_memory, **where)
        needed = sum(done["needed"].values())
        rows.append({"way": f"a step, {name}", "peak_MB": done["peak_mb"]} | done["needed"])
        whole = done["peak_mb"] / (loaded["peak_mb"] + needed)
        strict = (done["peak_mb"] - done["before_mb"]) / (done["weights_mb"] + needed)
        targets += [
            at_most(f"peak {name}, of the loaded model's process and what the rows need", 1.15, whole),
            at_most("the same without the libraries, of the weights and what the rows need", 1.15, strict),
        ]
    note = (
        f"Weights {loaded['weights_mb']:.0f} MB; the libraries hold {loaded['before_mb']:.0f} MB before a model is "
        "loaded. What rows need: [training.md](training.md#memory)."
    )
    return {"rows": rows, "targets": targets, "notes": [note]}


def measure_commands(options: BenchOptions) -> dict:
    """Return what the command takes as a user runs it."""
    rates, steps = (RATES[:2], 2) if options.quick else (RATES, 3)
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepare(Path(folder), is_quick=options.quick)
            return commands_in(Path(folder), rates, steps, is_quick=options.quick)
        except ChildError as error:
            return {"rows": [{"way": "train_vectors.py", "not_run": str(error)}]}


def commands_in(root: Path, rates: tuple[float, ...], steps: int, *, is_quick: bool) -> dict:
    """Return the same for a root where stages 0 to 4 are there."""
    whole = run_whole(root, "--steps 2" if is_quick else "")
    each, one = run_rates(root, rates, steps, is_quick=is_quick)
    targets = [
        at_most("the whole of trained_nll at one layer, seconds", 60, whole[0]["seconds"]),
        at_most("the same, processor seconds of two cores", 120, whole[0]["CPU_s"]),
        at_most(
            "one command with eight learning rates, of eight commands (CPU)",
            0.6,
            one["CPU_s"] / each["CPU_s"],
        ),
    ]
    return {"rows": [*whole, each, one], "targets": targets}


if __name__ == "__main__":
    bench_main(measure, __doc__ or "")
