"""Whole residual streams on disk, for those who ask for them."""

import torch
from torch import Tensor

from traitscope.utils.files.artifacts import load_tensor, read_json, save_tensor, write_json
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.hooks import record as record_hidden
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import as_stored
from traitscope.utils.records.readings import Projections, Record
from traitscope.utils.records.vectors import Vector


@torch.inference_mode()
def save_raw(lm: LM, paths: InferencePaths, record: Record, made_by: dict) -> None:
    """Store the stream of every layer and token, [n_layers, n_tokens, d_model]: float16 where the model
    ran in 16 bits and every value fits.
    """
    streams = torch.empty(lm.n_layers, len(record.ids), lm.d_model)

    def read(layer: int, hidden: Tensor) -> None:
        streams[layer] = hidden[0].float().cpu()

    with record_hidden(lm.model, read):
        lm.model.base_model(input_ids=torch.tensor([record.ids], device=lm.device), use_cache=False)
    stored = as_stored(streams, lm.identity["dtype"])
    write_json(
        paths.raw_metadata(record.id),
        {
            "made_by": made_by,
            "shape": list(stored.shape),
            "sha256": save_tensor(paths.raw(record.id), stored),
        },
    )


def has_raw(paths: InferencePaths, record: Record, made_by: dict) -> bool:
    """Tell whether streams are stored that were made of these tokens by this model."""
    return (
        paths.raw_metadata(record.id).exists()
        and read_json(paths.raw_metadata(record.id)).get("made_by") == made_by
    )


def project_raw(paths: InferencePaths, record: Record, vectors: list[Vector]) -> list[Projections]:
    """Return the projections of stored streams.

    Raises:
        UserError: the file is damaged, or not the one that its metadata describes.
    """
    about = read_json(paths.raw_metadata(record.id))
    streams = load_tensor(paths.raw(record.id), tuple(about["shape"]), about["sha256"])
    found = []

    for vector in vectors:
        hidden = streams[vector.layer].float()
        found.append(Projections(vector.origin, (hidden @ vector.unit).numpy(), hidden.norm(dim=-1).numpy()))

    return found
