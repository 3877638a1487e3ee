"""Seconds of a step of training through the upper part of the model, against the whole model forward and back with
the same rows, and of several learning rates in one pass against as many runs. Run:
.venv/bin/python tests/benchmarks/training.py
"""

import resource
import runpy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


import torch

from benchmarks.rounds import Way, ratio_between, run_rounds, summarise, timed
from benchmarks.tables import at_most
from benchmarks.workload import BenchOptions, bench_main, load_model, make_chats
from traitscope.extraction.training.learning import Start, learn
from traitscope.extraction.training.objectives import LikelyText
from traitscope.extraction.training.options import TrainOptions
from traitscope.extraction.training.texts import Texts
from traitscope.utils.files.journal import Journal
from traitscope.utils.model.loading import LM
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text

NAIVE, DEEPER = "whole model, back to the vector", "whole model, back to the embeddings"
RATES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Work:
    """What a step is computed on."""

    texts: list[Text]
    steps: int  # of a short training


def make_work(options: BenchOptions) -> Work:
    """Return chats with responses of mixed lengths."""
    chats = make_chats(4 if options.quick else 16)
    texts = [
        Text(f"pos:{i}", "pos", i, chat.ids[: chat.n_prompt], chat.ids[chat.n_prompt :])
        for i, chat in enumerate(chats)
    ]
    return Work(texts, 2 if options.quick else 8)


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


def training(lm: LM, work: Work, rates: tuple[float, ...]) -> Callable[[], None]:
    """Return a short training with several learning rates in one pass, from the lower blocks to the vectors."""
    layer = (lm.n_layers - 1) // 2
    half = len(work.texts) // 2
    texts = Texts(work.texts[half:], work.texts[:half], [])
    options = TrainOptions(steps=work.steps, learning_rates=rates, patience=0)

    def run() -> None:
        passes = Passes(UpperPart.of(lm, layer), [layer] * len(rates))
        starts = [Start(layer, rate, 0, 100.0) for rate in rates]
        with tempfile.TemporaryDirectory() as folder:
            learn(passes, LikelyText(texts), starts, options, Journal(Path(folder) / "journal"), "")

    return run


def measure(options: BenchOptions) -> dict:
    """Return the subject's results."""
    lm, work = load_model(options), make_work(options)
    deep = {share: round(share / 100 * (lm.n_layers - 1)) for share in (50, 70)}

    def each() -> None:
        for rate in RATES:
            training(lm, work, (rate,))()

    names = {share: f"traitscope, {share} % of the depth" for share in deep}
    together, alone = "eight learning rates, one pass", "eight learning rates, a run each"
    ways: dict[str, Way] = {
        NAIVE: timed(naive_step(lm, work.texts, deep[50])),
        DEEPER: timed(naive_step(lm, work.texts, deep[50], all_the_way=True)),
    }
    ways |= {names[share]: timed(upper_step(lm, work.texts, layer)) for share, layer in deep.items()}
    steps = run_rounds(ways, options.rounds or (1 if options.quick else 5))
    runs = run_rounds(
        {alone: timed(each), together: timed(training(lm, work, RATES))},
        options.rounds or (1 if options.quick else 2),
    )

    tokens = sum(len(text.ids) for text in work.texts)
    return {
        "subject": "Training: seconds of a step",
        "setting": {
            "model": lm.identity["name"],
            "device": str(lm.device),
            "texts": len(work.texts),
            "tokens": tokens,
        },
        "rows": [*summarise(steps, NAIVE), *summarise(runs, alone)],
        "targets": [
            at_most(
                "a step at 50 % of the depth, of the whole model's",
                0.7,
                ratio_between(steps, names[50], NAIVE),
            ),
            at_most(
                "a step at 70 % of the depth, of the whole model's",
                0.5,
                ratio_between(steps, names[70], NAIVE),
            ),
            at_most(
                "eight learning rates in one pass, of eight runs", 0.6, ratio_between(runs, together, alone)
            ),
        ],
        "notes": [
            f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB."
        ],
    }


if __name__ == "__main__":
    bench_main(measure, __doc__ or "")
