"""Whole residual streams, for those who ask for them."""

from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.capture import record_stream
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import as_stored
from traitscope.utils.records.readings import Projections, read_stream, write_stream
from traitscope.utils.records.recorded import Record
from traitscope.utils.records.vectors import Vector


def save_raw(lm: LM, paths: InferencePaths, record: Record, made_by: dict) -> None:
    """Store the stream of every layer and token, [n_layers, n_tokens, d_model].

    It is float16 where the model ran in 16 bits and every value fits.
    """
    stream = as_stored(record_stream(lm, record.ids), lm.identity["dtype"])
    write_stream(paths, record.id, stream, made_by)


def project_raw(paths: InferencePaths, record: Record, vectors: list[Vector]) -> list[Projections]:
    """Return the projections of stored streams.

    Raises:
        UserError: the file is damaged, or not the one that its metadata describes.
    """
    stream = read_stream(paths, record.id)
    found = []

    for vector in vectors:
        hidden = stream[vector.layer].float()
        found.append(Projections(vector.origin, (hidden @ vector.unit).numpy(), hidden.norm(dim=-1).numpy()))

    return found
