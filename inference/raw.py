"""Whole residual streams on disk, for those who ask for them."""

import torch
from torch import Tensor

from inference.records import Record, Scores
from utils.artifacts import load_tensor, read_json, save_tensor, write_json
from utils.hooks import record as record_hidden
from utils.model import LM
from utils.paths import InferencePaths
from utils.vectors import Card


@torch.inference_mode()
def save_raw(lm: LM, paths: InferencePaths, record: Record, made_by: dict) -> None:
    """Store the stream of every layer and token, [n_layers, n_tokens, d_model]: float16 where the model ran in 16 bits and every value fits."""
    streams = torch.empty(lm.n_layers, len(record.ids), lm.d_model)

    def read(layer: int, hidden: Tensor) -> None:
        streams[layer] = hidden[0].float().cpu()

    with record_hidden(lm.model, read):
        lm.model.base_model(input_ids=torch.tensor([record.ids], device=lm.device), use_cache=False)
    half = streams.half()
    stored = half if lm.identity["dtype"] != "float32" and half.isfinite().all() else streams
    write_json(paths.raw_metadata(record.id), {"made_by": made_by, "shape": list(stored.shape), "sha256": save_tensor(paths.raw(record.id), stored)})


def has_raw(paths: InferencePaths, record: Record, made_by: dict) -> bool:
    """Tell whether streams are stored that were made of these tokens by this model."""
    return paths.raw_metadata(record.id).exists() and read_json(paths.raw_metadata(record.id)).get("made_by") == made_by


def project_raw(paths: InferencePaths, record: Record, cards: list[Card]) -> list[Scores]:
    """Return the projections of stored streams.

    Raises:
        UserError: the file is damaged, or not the one that its metadata describes.
    """
    about = read_json(paths.raw_metadata(record.id))
    streams = load_tensor(paths.raw(record.id), tuple(about["shape"]), about["sha256"])
    found = []
    for card in cards:
        hidden = streams[card.layer].float()
        found.append(Scores(card.origin, (hidden @ card.unit).numpy(), hidden.norm(dim=-1).numpy()))
    return found
