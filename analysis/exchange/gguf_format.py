"""gguf: llama.cpp's control vectors. Tensor `direction.<k>` (1-D float32) is added to the output of block
k, 1 ≤ k < n_layers.

Files are written with the gguf package and read by a reader of our own: the package's believes the counts
that a file gives, and a hostile one keeps it busy for ever.
"""

import math
import re
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter
from torch import Tensor

from traitscope.analysis.exchange.bundle import SAID, Bundle, Found, Shape
from traitscope.utils.errors import UserError

ARCHITECTURE = "controlvector"
_NAME = re.compile(r"direction\.(\d{1,4})")
# GGUF's value types, as struct writes them
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# GGML's tensor types that are not quantised
_DTYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}


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


def read(data: bytes, shape: Shape) -> Found:
    """Return the vectors.

    Raises:
        UserError: it is no control vector, or its header says what its bytes do not hold.
    """
    cursor = _Cursor(data)
    magic, version, n_tensors, n_values = cursor.take("4sIQQ")
    if magic != b"GGUF" or version not in (2, 3):
        raise UserError("not a GGUF file of version 2 or 3, little-endian")

    values = {}

    for _ in range(n_values):
        name = cursor.text()
        values[name] = cursor.value(cursor.take("I")[0])

    if values.get("general.architecture") != ARCHITECTURE:
        raise UserError(
            f"a GGUF file of {str(values.get('general.architecture'))[:SAID]!r}, not a control vector"
        )
    tensors = [cursor.tensor() for _ in range(n_tensors)]
    start = _align(cursor.position, values.get("general.alignment", 32))
    vectors: dict[int, Tensor] = {}

    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if not match or int(match[1]) in vectors:
            raise UserError(
                f"a tensor named {tensor.name[:SAID]!r}; vectors are named direction.1, direction.2, …, "
                "each once"
            )
        vectors[int(match[1])] = tensor.load(data, start)

    hint = values.get(f"{ARCHITECTURE}.model_hint")
    return Found(vectors, {"model_type": hint[:SAID]} if isinstance(hint, str) else {})


def _align(position: int, alignment: Any) -> int:
    if not isinstance(alignment, int) or not 1 <= alignment <= 4096:
        raise UserError(f"an alignment of {str(alignment)[:SAID]}")
    return math.ceil(position / alignment) * alignment


@dataclass(frozen=True)
class _Entry:
    """One line of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    def load(self, data: bytes, start: int) -> Tensor:
        dtype = _DTYPES.get(self.kind)
        if dtype is None:
            raise UserError(
                f"{self.name} is quantised (GGML type {self.kind}); vectors are float32 or 16-bit floats"
            )

        first, count = start + self.offset, math.prod(self.shape)
        if first + count * dtype.itemsize > len(data):
            raise UserError(f"{self.name} ends behind the end of the file")

        return (
            torch.frombuffer(bytearray(data[first : first + count * dtype.itemsize]), dtype=dtype).reshape(
                self.shape
            )
            if count
            else torch.zeros(0)
        )


@dataclass
class _Cursor:
    """Reads a header from front to back, and never further than the bytes go: so no count in it can cost
    more than the file is long.
    """

    data: bytes
    position: int = field(default=0)

    def chunk(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise UserError("the file ends within its header: cut off, or the header lies")
        self.position += count
        return self.data[self.position - count : self.position]

    def take(self, kinds: str) -> tuple:
        layout = struct.Struct(f"<{kinds}")
        return layout.unpack(self.chunk(layout.size))

    def text(self) -> str:
        return self.chunk(self.take("Q")[0]).decode(errors="replace")

    def value(self, kind: int) -> Any:
        """Return one value; of an array only that it is there."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, count = self.take("IQ")
            return self._skip(item, count)
        if kind not in _SCALARS:
            raise UserError(f"a value of the unknown type {kind} in the header")

        return self.take(_SCALARS[kind])[0]

    def _skip(self, item: int, count: int) -> None:
        if item in _SCALARS:
            self.chunk(count * struct.calcsize(f"<{_SCALARS[item]}"))
        elif item == _STRING:
            for _ in range(count):
                self.text()
        else:
            raise UserError("an array of arrays in the header")

    def tensor(self) -> _Entry:
        name, (n_dims,) = self.text(), self.take("I")
        if n_dims > 4:
            raise UserError(f"a tensor of {n_dims} dimensions")
        shape = tuple(reversed(self.take(f"{n_dims}Q")))
        return _Entry(name, shape, *self.take("IQ"))
