"""What can become of a file: of its bytes, of its place, of the JSON in it, of the tensor in it.

Every damage is a function of a Random, a path and the other files of its kind. It changes the path in place
and returns what it did in words, or None where it cannot be done to this file.
"""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from campaign.json_edits import JSON_EDITS, RAW

Damage = Callable[[Random, Path, Sequence[Path]], str | None]
MB = 1 << 20
CODE_WAS_RUN = "code-was-run.json"


def truncate(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Cut a file at a random byte."""
    n = rng.randrange(max(1, path.stat().st_size))
    os.truncate(path, n)
    return f"cut to {n} bytes"


def empty(_: Random, path: Path, __: Sequence[Path]) -> str:
    """Leave a file of no bytes."""
    os.truncate(path, 0)
    return "emptied"


def flip_bit(rng: Random, path: Path, _: Sequence[Path]) -> str | None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    if not data:
        return None
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} flipped"


def zero_tail(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Replace the end by zeros, as a file system does that lost its last blocks."""
    data = path.read_bytes()
    n = rng.randrange(max(1, len(data)))
    path.write_bytes(data[:n] + bytes(len(data) - n))
    return f"zeros from byte {n}"


def append(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Add bytes at the end."""
    more = rng.choice([b"\n", b"}", b"{}", b"\0", rng.randbytes(40)])
    path.write_bytes(path.read_bytes() + more)
    return f"{more!r} appended"


def exchange(rng: Random, path: Path, others: Sequence[Path]) -> str | None:
    """Put the same kind of file of something else in its place."""
    own = path.read_bytes()
    there = [p for p in others if p != path and p.is_file() and p.read_bytes() != own]
    if not there:
        return None
    other = rng.choice(there)
    path.write_bytes(other.read_bytes())
    return f"replaced by {other.parent.parent.name}/{other.parent.name}/{other.name}"


def invalid_utf8(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Put bytes that are no UTF-8 at a random place."""
    data = path.read_bytes()
    n = rng.randrange(len(data) + 1)
    path.write_bytes(data[:n] + b"\xff\xc0\xaf" + data[n:])
    return f"invalid UTF-8 at byte {n}"


def recode(rng: Random, path: Path, _: Sequence[Path]) -> str | None:
    """Encode the text otherwise."""
    name = rng.choice(["utf-16", "utf-8-sig", "utf-32", "utf-16-be"])
    try:
        path.write_bytes(path.read_text(encoding="utf-8").encode(name))
    except UnicodeError:
        return None
    return f"encoded as {name}"


BYTES: tuple[Damage, ...] = (truncate, empty, flip_bit, flip_bit, zero_tail, append, exchange, exchange)
TEXT: tuple[Damage, ...] = (invalid_utf8, recode)


def as_folder(_: Random, path: Path, __: Sequence[Path]) -> str:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def as_fifo(_: Random, path: Path, __: Sequence[Path]) -> str:
    """Put a pipe in a file's place: who opens it waits."""
    path.unlink()
    os.mkfifo(path)
    return "a FIFO in its place"


def as_link(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Put a link in a file's place: to nothing, to endless zeros, to itself, out of the root."""
    target = rng.choice(["/nonexistent/file", "/dev/zero", "/dev/null", "/etc/hostname", str(path)])
    path.unlink()
    path.symlink_to(target)
    return f"a link to {'itself' if target == str(path) else target} in its place"


def missing(_: Random, path: Path, __: Sequence[Path]) -> str:
    """Delete a file."""
    path.unlink()
    return "deleted"


def forbidden(_: Random, path: Path, __: Sequence[Path]) -> str | None:
    """Take every right away; the superuser has them all the same."""
    if os.getuid() == 0:
        return None
    path.chmod(0)
    return "chmod 000"


PLACE: tuple[Damage, ...] = (as_folder, as_fifo, as_link, as_link, missing, forbidden)


def edit_json(rng: Random, path: Path, _: Sequence[Path]) -> str | None:
    """Change the JSON in a file; its last byte stays a newline."""
    try:
        content = json.loads(path.read_bytes())
        said = rng.choice(JSON_EDITS)(rng, content)
    except (LookupError, ValueError):
        return None
    text = json.dumps(content, ensure_ascii=False, indent=rng.choice([None, 1]))
    for name, raw in RAW.items():
        text = text.replace(f'"@@{name}@@"', raw)
    path.write_text(text + "\n")
    return said


class _Code:
    """Unpickled, it leaves a file beside the one that it came from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return shutil.copyfile, (str(self.path), str(self.path.with_name(CODE_WAS_RUN)))


def edit_tensor(rng: Random, path: Path, _: Sequence[Path]) -> str | None:
    """Save another tensor, made of the one in the file."""
    import torch

    try:
        tensor = torch.load(path, weights_only=True)
    except Exception:
        return None
    name, other = rng.choice(list(_tensors(tensor).items()))
    data = io.BytesIO()
    torch.save(other, data)
    path.write_bytes(data.getvalue())
    return f"tensor: {name}"


def _tensors(t: Any) -> dict[str, Any]:
    import torch

    at = torch.zeros_like(t)
    at.view(-1)[t.numel() // 2] = 0.01
    return {
        "negated": -t,
        "doubled": 2 * t,
        "one number changed": t + at,
        "bfloat16": t.bfloat16(),
        "float64": t.double(),
        "complex": t.to(torch.complex64),
        "integers": t.int(),
        "one number more": torch.cat([t, t[:1]]),
        "transposed": t.transpose(0, -1),
        "flat": t.reshape(-1, 1),
        "zeros": torch.zeros_like(t),
        "NaN": t * float("nan"),
        "infinite": t * float("inf"),
        "reversed": t.flip(0),
        "sparse": t.to_sparse(),
        "a list": [t],
        "a dictionary": {"t": t},
        "empty": t[:0],
        "scalar": t.reshape(-1)[0].clone(),
    }


def hostile(rng: Random, path: Path, _: Sequence[Path]) -> str:
    """Write an archive that runs code, or one that grows without end."""
    if rng.random() < 0.5:
        path.write_bytes(pickle.dumps(_Code(path)))
        return "a pickle with code"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "archive/data/0", "archive/byteorder"):
            with archive.open(name, "w", force_zip64=True) as part:
                for _n in range(256):
                    part.write(bytes(MB))
    return "an archive of zeros"


TENSOR: tuple[Damage, ...] = (*(edit_tensor,) * 6, hostile)


def damages_of(path: Path) -> tuple[Damage, ...]:
    """Return what may be done to a file, by what it is; the more telling more often."""
    if path.suffix in (".json", ".jsonl"):
        return (*BYTES, *TEXT, *PLACE, *(edit_json,) * 10)
    if path.suffix == ".pt":
        return (*BYTES, *PLACE, *TENSOR)
    return (*BYTES, *PLACE)


def damage(rng: Random, path: Path, others: Sequence[Path]) -> tuple[str, bool]:
    """Damage a file in one way; keep its time of change or not. Returns what was done, and whether size and
    time are as before.
    """
    before = path.stat()
    while True:
        how = rng.choice(damages_of(path))
        if said := how(rng, path, others):
            break
    is_kept = rng.random() < 0.5 and path.is_file() and not path.is_symlink()
    if is_kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    same_size = is_kept and path.stat().st_size == before.st_size
    return f"{how.__name__}: {said}{', its time kept' if is_kept else ''}", same_size
