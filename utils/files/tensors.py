"""Tensor files: saved so that the same values are the same bytes, and checked for what they should be when read."""

import importlib.util
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.artifacts import replacing
from traitscope.utils.files.reading import digest, open_file, why_left_out

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAPPED = 32 << 20  # bytes from which a tensor file is mapped instead of read


def save_tensor(path: Path, tensor: "Tensor") -> str:
    """Save a tensor (same values, same bytes) and return the sha256 of the file."""
    import torch

    whole = tensor.detach().cpu().contiguous()
    if (
        whole.untyped_storage().nbytes() > whole.nbytes
        or whole.stride() != torch.empty(whole.shape, device="meta").stride()
    ):
        # a view would bring its whole storage and its strides along
        whole = whole.clone(memory_format=torch.contiguous_format)
    # not into a path: torch would put the temporary file's name into the archive
    with replacing(path) as file, _telling_why(file) as told:
        torch.save(whole, told)
    return str(digest(path))


@contextmanager
def _telling_why(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file to write to. Where writing fails, torch reports an error of its own; this raises the disk's."""
    told = _Told(file)
    try:
        yield cast(BinaryIO, told)
    except RuntimeError:
        if told.error is None:
            raise
        raise told.error from None


class _Told:
    """Writes into a file, and remembers what went wrong."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load_tensor(
    path: Path,
    shape: tuple[int | None, ...],
    sha256: str | None = None,
    dtypes: Sequence[str] = ("float32", "float16"),
) -> "Tensor":
    """Load a tensor of the expected shape (None matches any size), never running code from the file.

    Large files are mapped: what nobody reads takes no memory.

    Raises:
        UserError: the file is missing, damaged, of another shape or precision, not finite, or not the one `sha256`
            names.
    """
    import torch

    require_file(path)
    if sha256 is not None and digest(path) != sha256:
        raise UserError(
            f"{path} is not the file its metadata describes; "
            f"{why_left_out(path) or 'run its stage again with --force'}"
        )
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=path.stat().st_size > MAPPED)
    except OSError:
        raise
    except Exception as error:  # an unpickler fed garbage may raise anything
        raise UserError(
            f"{path} is not a readable tensor file ({first_line(error)[:160]}); run its stage again with --force"
        ) from None
    found = describe_tensor(tensor)
    fits = len(found[0]) == len(shape) and all(w in (None, g) for w, g in zip(shape, found[0], strict=True))
    if not fits or found[1] not in dtypes:
        wanted = f"{shape} {' or '.join(dtypes)}"
        raise UserError(
            f"{path} holds {found[0]} {found[1]}, expected {wanted}; run its stage again with --force"
        )
    if not all(torch.isfinite(part).all() for part in tensor.reshape(-1).split(1 << 22)):
        raise UserError(f"{path} holds NaN or infinite values; run its stage again with --force")
    return tensor


def describe_tensor(tensor: object) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of an ordinary tensor; of anything else no shape, and what it is."""
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        return (), type(tensor).__name__
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def require_file(path: Path) -> None:
    """Raise UserError where there is no regular file that may be read."""
    try:
        open_file(path).close()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; {why_left_out(path) or 'run the stage that writes it'}"
        ) from None


def read_vector_file(path: Path, size: int | None = None) -> "np.ndarray":
    """Read a vector. What `save_tensor` wrote is read without torch: its archive holds the bare float32
    numbers beside a pickle that stays unread. A file of another make needs torch.

    Args:
        size: How many numbers it must hold; by default any.

    Raises:
        UserError: the file is missing, or not such a vector.
    """
    import numpy as np

    require_file(path)
    try:
        values = _bare_numbers(path)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError) as error:
        if importlib.util.find_spec("torch") is None:
            raise UserError(
                f"{path} is not a readable tensor file ({first_line(error)}); run its stage again with --force"
            ) from None
        values = load_tensor(path, (None,), dtypes=("float32",)).numpy()

    if not len(values) or len(values) != (size or len(values)) or not np.isfinite(values).all():
        wanted = f" of {size} numbers" if size else ""
        raise UserError(f"{path} is not a finite float32 vector{wanted}; run its stage again with --force")
    return values


def _bare_numbers(path: Path) -> "np.ndarray":
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        parts = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.values()):
            raise ValueError("packed smaller than torch packs")  # and perhaps far larger than it looks
        if b"\nFloatStorage" not in archive.read(parts["data.pkl"]):
            raise ValueError("not of float32 numbers")
        raw, order = archive.read(parts["data/0"]), archive.read(parts["byteorder"])
    return np.frombuffer(raw, "<f4" if order == b"little" else ">f4")
