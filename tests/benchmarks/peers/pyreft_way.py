"""pyreft: a ReftModel whose only intervention adds one learned vector, trained by its ReftTrainer."""

import runpy
import sys
from pathlib import Path

if not __package__:  # run as a worker, in an environment of its own
    runpy.run_path(str(Path(__file__).resolve().parents[3] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tempfile
from typing import Any

import pyreft
import pyvene
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, TrainingArguments

from benchmarks.peers.serving import Prepared, labels_of, pad_right, read_config, serve


class Added(
    pyvene.SourcelessIntervention, pyvene.TrainableIntervention, pyvene.DistributedRepresentationIntervention
):
    """h + v, as AxBench's steering vector; pyreft itself has no intervention that is a vector alone."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named, keep_last_dim=True)
        self.vector = nn.Parameter(torch.zeros(int(self.embed_dim)))

    def forward(self, base: Tensor, source: object = None, subspaces: object = None) -> Tensor:
        return base + self.vector


class InOrder(pyreft.ReftTrainerForCausalLM):
    """Its trainer, with the steps in the order given; its own shuffles."""

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, self.args.train_batch_size, collate_fn=self.data_collator)


def prepare_training(job: dict) -> Prepared:
    """The steps as one epoch in the order given."""
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], config=read_config(job["model"]), torch_dtype=torch.float32
    )
    added = Added(embed_dim=model.config.hidden_size)
    place = {"layer": job["layer"], "component": "block_output", "intervention": added}
    reft = pyreft.get_reft_model(model, pyreft.ReftConfig(representations=[place]))
    texts = [text for step in job["steps"] for text in step]

    def train() -> Tensor:
        with torch.no_grad():
            added.vector.zero_()
        with tempfile.TemporaryDirectory() as folder:
            InOrder(reft, _arguments(job, folder), _collate, texts).train()
        return added.vector.detach().clone()[None]

    return Prepared(model, {"its trainer": train})


def _collate(batch: list[dict]) -> dict[str, Tensor]:
    """Return what the trainer feeds: it pushes at every position but the first, padding on the right included,
    which changes nothing before it.
    """
    ids, mask = pad_right(batch)
    places = torch.arange(1, ids.shape[1]).expand(len(batch), 1, -1)  # [batch, interventions, positions]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels_of(batch),
        "intervention_locations": places,
    }


def _arguments(job: dict, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=len(job["steps"][0]),
        num_train_epochs=1,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        remove_unused_columns=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    serve(("pyreft", "pyvene", "transformers", "torch"), {"training": prepare_training})
