"""traitscope itself, as a worker of its own like everybody else."""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.peers.serving import Prepared, serve
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.model.steered_costs import Passes, Row, Unit
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.own_texts import Text


def prepare_training(job: dict) -> Prepared:
    """The steps, from what lies below the layer to the vector, by the very passes that training takes."""
    lm = load_lm(ModelOptions(model=job["model"], device="cpu", dtype="float32"))
    texts = {}
    for text in (text for step in job["steps"] for text in step):
        ids, n = text["ids"], text["n_prompt"]
        texts.setdefault(tuple(ids), Text(f"pos:{len(texts)}", "pos", len(texts), ids[:n], ids[n:]))
    steps = [[texts[tuple(text["ids"])] for text in step] for step in job["steps"]]

    def train(*, saves_memory: bool) -> Tensor:
        passes = Passes(UpperPart.of(lm, job["layer"]), [job["layer"]], saves_memory=saves_memory)
        passes.read(list(texts.values()))
        vector = torch.zeros(1, lm.d_model, requires_grad=True)
        adam = torch.optim.Adam([vector], job["learning_rate"])
        for step in steps:
            vector.grad = _gradient(passes, vector, step)
            adam.step()
        return vector.detach()

    ways: dict[str, Callable[[], Tensor]] = {
        "without checkpointing": lambda: train(saves_memory=False),
        "with checkpointing": lambda: train(saves_memory=True),
    }
    return Prepared(lm.model, ways, default="without checkpointing")


def _gradient(passes: Passes, vector: Tensor, texts: list[Text]) -> Tensor:
    """Return the gradient of the mean over response tokens, in as many passes as the rows take."""
    units = [Unit((Row(text, 0, 1.0),), (text,), 0) for text in texts]
    gradient = torch.zeros_like(vector)
    for batch in passes.batches(units):
        costs = passes.losses(vector, batch)
        total = torch.cat([cost for (cost,) in costs]).sum()
        gradient += torch.autograd.grad(total, vector)[0]
    return gradient / sum(unit.n_tokens for unit in units)


if __name__ == "__main__":
    serve(("torch", "transformers"), {"training": prepare_training})
