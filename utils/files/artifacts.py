"""Files, read and written so that nobody ever sees half of one."""

import hashlib
import importlib.util
import io
import json
import os
import re
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from traitscope.utils.errors import UserError, first_line

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAPPED = 32 << 20  # bytes from which a tensor file is mapped instead of read


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a sibling temporary file, fsync, rename: a reader sees the old file or the new one."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to; what was written takes the path's place when the block ends without an
    error, and is deleted when not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)

    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return where a file is written before it takes its place: beside it, hidden, named after this
    process and this machine.
    """
    return path.with_name(f".{path.name}.{os.getpid()}@{host_name()}.tmp")


def host_name() -> str:
    """Return this machine's name as part of a file's name."""
    return re.sub(r"[^\w-]+", "-", socket.gethostname())


def sweep_temporaries(folder: Path) -> None:
    """Delete what a killed process of this machine left half written; nothing ever reads such a file.

    What another machine writes into the same folder stays: whether its process still lives cannot be told
    from here.
    """
    for stale in folder.rglob(".*.tmp"):
        pid, _, host = stale.name.split(".")[-2].partition("@")
        is_ours = pid.isdigit() and host in ("", host_name())
        if is_ours and (int(pid) == os.getpid() or not is_running(int(pid))):
            stale.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine is alive."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write strict JSON (a NaN raises ValueError: a missing number is written as null, on purpose or not
    at all); no indent for long lists.
    """
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); mend it, or delete it and run its stage again"
        ) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


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
    with replacing(
        path
    ) as file:  # torch.save into a path would put the temporary file's name into the archive
        torch.save(whole, file)
    return str(digest(path))


def load_tensor(path: Path, shape: tuple[int | None, ...], sha256: str | None = None) -> "Tensor":
    """Load a tensor of the expected shape (None matches any size), never running code from the file.

    Large files are mapped: what nobody reads takes no memory.

    Raises:
        UserError: the file is missing, damaged, of another shape, not finite, or not the one `sha256` names.
    """
    import torch

    if not path.exists():
        raise UserError(f"{path} does not exist; {why_left_out(path) or 'run the stage that writes it'}")
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
            f"{path} is not a readable tensor file ({first_line(error)}); run its stage again with --force"
        ) from None
    fits = (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() == len(shape)
        and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=True))
    )
    if not fits:
        raise UserError(f"{path} holds {tuple(getattr(tensor, 'shape', ()))}, expected {shape}")
    if not all(torch.isfinite(part).all() for part in tensor.reshape(-1).split(1 << 22)):
        raise UserError(f"{path} holds NaN or infinite values; run its stage again with --force")
    return tensor


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG and close it, without the program's name and date, which would
    make every file differ.
    """
    from matplotlib import pyplot as plt

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, data.getvalue())


def read_vector_file(path: Path, size: int | None = None) -> "np.ndarray":
    """Read a vector. What `save_tensor` wrote is read without torch: its archive holds the bare float32
    numbers beside a pickle that stays unread. A file of another make or precision needs torch.

    Args:
        size: How many numbers it must hold; by default any.

    Raises:
        UserError: the file is missing, or not such a vector.
    """
    import numpy as np

    try:
        values = _bare_numbers(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist; {why_left_out(path) or 'run the stage that writes it'}"
        ) from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        if importlib.util.find_spec("torch") is None:
            raise UserError(
                f"{path} is not a readable tensor file ({first_line(error)}); run its stage again with --force"
            ) from None
        values = load_tensor(path, (None,)).float().numpy()

    if not len(values) or len(values) != (size or len(values)) or not np.isfinite(values).all():
        wanted = f" of {size} numbers" if size else ""
        raise UserError(f"{path} is not a finite float32 vector{wanted}; run its stage again with --force")
    return values


def _bare_numbers(path: Path) -> "np.ndarray":
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        parts = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if b"FloatStorage" not in archive.read(parts["data.pkl"]):
            raise ValueError("not of float32 numbers")
        raw, order = archive.read(parts["data/0"]), archive.read(parts["byteorder"])
    return np.frombuffer(raw, "<f4" if order == b"little" else ">f4")


def left_out_note(path: Path) -> Path:
    """Return the note, beside a file, of what a pull left out: {file name: how to get it}."""
    return path.with_name(".left_out.json")


def why_left_out(path: Path) -> str:
    """Say that a pull left a file out, and how to get it; "" when none did."""
    note = left_out_note(path)
    return str(read_json(note).get(path.name, "")) if note.exists() else ""


def digest(path: Path) -> str | None:
    """Return the sha256 of a file's content, or None when there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
