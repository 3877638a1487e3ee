"""TRL: SFTTrainer over a model whose block adds one trainable vector to what it puts out; all else is frozen."""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.serving import Prepared, serve
from datasets import Dataset


class Pushed(nn.Module):
    """A block and the vector that is added behind it, at every position but the first."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block, self.vector = block, nn.Parameter(torch.zeros(width))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        hidden = self.block(*inputs, **named)
        pushed = torch.ones(hidden.shape[1], 1)
        pushed[0] = 0
        return hidden + pushed * self.vector


def prepare_training(job: dict) -> Prepared:
    """The steps as one epoch in the order given; checkpointing is what its configuration begins with."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.requires_grad_(False)
    blocks, layer = model.model.layers, job["layer"]
    blocks[layer] = pushed = Pushed(blocks[layer], model.config.hidden_size)

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    data = Dataset.from_list(
        [
            {
                "input_ids": text["ids"],
                "completion_mask": [int(i >= text["n_prompt"]) for i in range(len(text["ids"]))],
            }
            for step in job["steps"]
            for text in step
        ]
    )

    def train(*, saves_memory: bool) -> Tensor:
        with torch.no_grad():
            pushed.vector.zero_()
        model.gradient_checkpointing_disable()  # a trainer switches it on, and never off
        if hasattr(model, "_require_grads_hook"):
            model.disable_input_require_grads()
        with tempfile.TemporaryDirectory() as folder:
            trainer = SFTTrainer(model, _config(job, folder, saves_memory), None, data, None, tokenizer)
            trainer.train()
        return pushed.vector.detach().clone()[None]

    return Prepared(
        model,
        {
            "with checkpointing": lambda: train(saves_memory=True),
            "without checkpointing": lambda: train(saves_memory=False),
        },
        default="with checkpointing",
    )


def _config(job: dict, folder: str, saves_memory: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=len(job["steps"][0]),
        num_train_epochs=1,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        max_length=None,
        completion_only_loss=True,
        gradient_checkpointing=saves_memory,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    serve(("trl", "transformers", "torch"), {"training": prepare_training})
