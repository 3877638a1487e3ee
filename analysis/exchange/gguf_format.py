"""gguf: llama.cpp's control vectors. Tensor `direction.<k>` (1-D, float) is added to the output of block k,
1 ≤ k < n_layers.

Files are written and read with the gguf package. Its reader believes every count that a file gives, so ours
stops it where a count leads too far.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from torch import Tensor

from traitscope.analysis.exchange.bundle import SAID, Bundle, Found, Shape
from traitscope.utils.errors import UserError, first_line

ARCHITECTURE = "controlvector"
HINT = f"{ARCHITECTURE}.model_hint"
MOST_READS = 20_000  # each takes 16 µs; a control vector of 200 layers takes 1,500
_NAME = re.compile(r"direction\.(\d{1,4})")
_DTYPES = {
    GGMLQuantizationType.F64: torch.float64,
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_FAULTS = (ValueError, KeyError, IndexError, ArithmeticError, RecursionError)  # of GGUFReader in a bad file


def write(bundle: Bundle) -> bytes:
    """Return the file's content. llama.cpp refuses one with a layer 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.gguf"
        writer = GGUFWriter(path, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", bundle.model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(bundle.vectors))
        for layer, vector in bundle.vectors.items():
            writer.add_tensor(f"direction.{layer}", vector.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


class _BoundedReader(GGUFReader):
    """The package's reader, which gives up on a header that speaks of more than the file holds, or that has
    more values than a control vector.
    """

    n_reads = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        """Return numbers of the file; everything that is read of it passes through here."""
        self.n_reads += 1
        if self.n_reads > MOST_READS:
            raise ValueError("its header has more values than that of any control vector")

        found = super()._get(offset, dtype, count, override_order)
        if len(found) < int(count):
            raise ValueError("its header speaks of bytes behind the end of the file")
        return found

    def text(self, key: str) -> str | None:
        """Return a text of the header; None where there is none of that name."""
        field = self.get_field(key)
        said = field.contents() if field else None
        return said if isinstance(said, str) else None


def read(data: bytes, shape: Shape) -> Found:
    """Return the vectors.

    Raises:
        UserError: it is no control vector, or its header says what its bytes do not hold.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.gguf"
        path.write_bytes(data)

        try:
            with np.errstate(over="raise"):  # an offset so large that it would wrap around
                reader = _BoundedReader(path)
            architecture, hint = reader.text("general.architecture"), reader.text(HINT)
        except _FAULTS as error:
            raise UserError(f"not a sound GGUF file: {first_line(error)[:SAID]}") from None

        if architecture != ARCHITECTURE:
            raise UserError(f"a GGUF file of {str(architecture)[:SAID]!r}, not a control vector")
        if reader.byte_order != "I":
            raise UserError("a GGUF file of the other byte order; convert it with gguf's gguf_convert_endian")
        if sum(tensor.data.nbytes for tensor in reader.tensors) > len(data):
            raise UserError("a GGUF file whose tensors overlap")
        vectors = _load(reader)

    return Found(vectors, {} if hint is None else {"model_type": hint[:SAID]})


def _load(reader: GGUFReader) -> dict[int, Tensor]:
    """Return copies of the vectors, which outlive the mapped file."""
    vectors: dict[int, Tensor] = {}

    for tensor in reader.tensors:
        match = _NAME.fullmatch(tensor.name)
        if not match or int(match[1]) in vectors:
            raise UserError(
                f"a tensor named {tensor.name[:SAID]!r}; vectors are named direction.1, direction.2, …, "
                "each once"
            )
        if tensor.tensor_type not in _DTYPES:
            raise UserError(
                f"{tensor.name} is quantised or of whole numbers ({tensor.tensor_type.name}); vectors are "
                "floats"
            )
        # the package gives bfloat16 as bytes
        values = torch.from_numpy(np.array(tensor.data))
        vectors[int(match[1])] = values.view(_DTYPES[tensor.tensor_type])

    return vectors
