"""Files, read and written so that nobody ever sees half of one."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a sibling temporary file, fsync, rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Delete what a killed process left half written; nothing ever reads such a file."""
    for stale in folder.rglob(".*.tmp"):
        pid = stale.name.split(".")[-2]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_running(int(pid))):
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


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (a NaN raises ValueError: a missing number is written as null, on purpose or not at all)."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend it, or delete it and run its stage again") from None


def save_tensor(path: Path, tensor: "Tensor") -> str:
    """Save a tensor (same values, same bytes) and return the sha256 of the file."""
    import torch

    buffer = io.BytesIO()  # torch.save into a path would put the temporary file's name into the archive
    torch.save(tensor.detach().cpu().clone(memory_format=torch.contiguous_format), buffer)  # a clone: a view would bring its whole storage along
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_tensor(path: Path, shape: tuple[int | None, ...], sha256: str | None = None) -> "Tensor":
    """Load a tensor of the expected shape (None matches any size), never running code from the file.

    Raises:
        UserError: the file is missing, damaged, of another shape, not finite, or not the one `sha256` names.
    """
    import torch

    if not path.exists():
        raise UserError(f"{path} does not exist; {why_left_out(path) or 'run the stage that writes it'}")
    if sha256 is not None and digest(path) != sha256:
        raise UserError(f"{path} is not the file its metadata describes; {why_left_out(path) or 'run its stage again with --force'}")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # an unpickler fed garbage may raise anything
        raise UserError(f"{path} is not a readable tensor file ({first_line(error)}); run its stage again with --force") from None
    fits = isinstance(tensor, torch.Tensor) and tensor.dim() == len(shape) and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=True))
    if not fits:
        raise UserError(f"{path} holds {tuple(getattr(tensor, 'shape', ()))}, expected {shape}")
    if not torch.isfinite(tensor).all():
        raise UserError(f"{path} holds NaN or infinite values; run its stage again with --force")
    return tensor


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
