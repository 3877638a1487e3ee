"""persona_vectors: a torch file with one tensor [n_layers + 1, d_model], in the order of `hidden_states`.

Row l + 1 is the output of block l, and row 0 the embeddings: layer 16 here is row 17 there, which its scripts
call layer 17. A row of zeros is a layer without a vector. In files that persona_vectors made, the last row
comes from behind the final norm, and is no block's output.
"""

import io
import zipfile

import torch

from traitscope.analysis.exchange.bundle import Bundle, Found, Shape
from traitscope.utils.errors import UserError, first_line


def write(bundle: Bundle) -> bytes:
    """Return the file's content."""
    rows = torch.zeros(bundle.shape.n_layers + 1, bundle.shape.d_model)
    for layer, vector in bundle.vectors.items():
        rows[layer + 1] = vector
    buffer = io.BytesIO()
    torch.save(rows, buffer)
    return buffer.getvalue()


def read(data: bytes, shape: Shape) -> Found:
    """Return the vectors of the rows that are not zero. Nothing in the file is run: only tensors are
    unpickled.

    Raises:
        UserError: it is no torch file, or holds anything but one such tensor.
    """
    _check_archive(data)
    try:
        rows = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fed garbage may raise anything
        raise UserError(
            f"not a torch file that holds nothing but a tensor ({first_line(error)[:200]})"
        ) from None

    expected = (shape.n_layers + 1, shape.d_model)
    if not isinstance(rows, torch.Tensor) or tuple(rows.shape) != expected:
        held = tuple(rows.shape) if isinstance(rows, torch.Tensor) else f"a {type(rows).__name__}"
        raise UserError(f"holds {held}; persona_vectors of this model are a tensor {expected}")
    if rows.layout != torch.strided or rows.device.type != "cpu" or not rows.is_floating_point():
        raise UserError(f"holds a {rows.layout} tensor of {rows.dtype}, not ordinary numbers")

    return Found(
        {layer: rows[layer + 1] for layer in range(shape.n_layers) if rows[layer + 1].count_nonzero()}
    )


def _check_archive(data: bytes) -> None:
    """Refuse what is no uncompressed zip: torch writes nothing else, and a compressed one may unpack to
    any size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UserError(f"not a torch file ({first_line(error)})") from None
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > len(
        data
    ):
        raise UserError(
            "a torch file whose parts are compressed, or larger than the file: torch does not write such"
        )
