"""What can become of a file: of its bytes, of its place, of the JSON in it, of the tensor in it.

Every damage is a function of a Random, a path and the other files of its kind. It changes the path in place and
returns what it did in words, or None where it cannot be done to this file.
"""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

Damage = Callable[[Random, Path, Sequence[Path]], str | None]
MB = 1 << 20


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


def _spots(content: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON content."""
    found: list[tuple[Any, Any]] = []
    keys = (
        content.keys()
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key in keys:
        found.append((content, key))
        found += _spots(content[key])
    return found


def _spot(rng: Random, content: Any) -> tuple[Any, Any]:
    """Return one place, each depth as likely as the next: else long lists of ids would get all."""
    holder, key = None, None
    while isinstance(content, (dict, list)) and content:
        holder, key = content, rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
        content = holder[key]
        if rng.random() < 0.3:
            break
    if holder is None:
        raise LookupError
    return holder, key


RAW = {  # JSON that json.dumps does not write
    "NaN": "NaN",
    "Infinity": "Infinity",
    "1e400": "1e400",
    "huge int": "9" * 5000,
    "lone surrogate": '"\\ud800"',
    "nesting": "[" * 100_000 + "]" * 100_000,
}
VALUES: list[Any] = [
    None,
    True,
    "",
    "x",
    0,
    -1,
    -0.5,
    1e30,
    2**63,
    [],
    {},
    [[]],
    {"a": None},
    "../../etc/passwd",
]


def set_value(rng: Random, content: Any) -> str:
    """Give a random place another value."""
    holder, key = _spot(rng, content)
    value = rng.choice(VALUES)
    holder[key] = value
    return f"{key!r} set to {value!r}"


def set_raw(rng: Random, content: Any) -> str:
    """Give a random place what no writer writes."""
    holder, key = _spot(rng, content)
    name = rng.choice(list(RAW))
    holder[key] = f"@@{name}@@"
    return f"{key!r} set to {name}"


def delete_key(rng: Random, content: Any) -> str:
    """Delete a random place."""
    holder, key = _spot(rng, content)
    del holder[key]
    return f"{key!r} deleted"


def add_key(rng: Random, content: Any) -> str:
    """Add a key to a random object."""
    dicts = [content, *(h[k] for h, k in _spots(content))]
    holder = rng.choice([d for d in dicts if isinstance(d, dict)])
    holder["surplus"] = 1
    return "a key added"


def nudge(rng: Random, content: Any) -> str:
    """Change a number a little."""
    spots = [
        (h, k) for h, k in _spots(content) if isinstance(h[k], (int, float)) and not isinstance(h[k], bool)
    ]
    holder, key = rng.choice(spots)
    before = holder[key]
    holder[key] = before + 1 if isinstance(before, int) else before * 1.01 + 1e-3
    return f"{key!r} {before} → {holder[key]}"


def disorder(rng: Random, content: Any) -> str:
    """Double, drop or swap rows of a list."""
    holder, key = rng.choice([(h, k) for h, k in _spots(content) if isinstance(h[k], list) and len(h[k]) > 1])
    rows, how = holder[key], rng.choice(["doubled", "dropped", "swapped"])
    i, j = rng.sample(range(len(rows)), 2)
    if how == "doubled":
        rows.insert(j, rows[i])
    elif how == "dropped":
        del rows[i]
    else:
        rows[i], rows[j] = rows[j], rows[i]
    return f"rows {i} and {j} of {key!r}: {how}"


def swap_words(rng: Random, content: Any) -> str:
    """Exchange the sides, or train and val, or another pair, somewhere."""
    pairs = [("pos", "neg"), ("train", "val"), ("high", "low"), ("dev", "test"), ("plus", "minus")]
    spots = [
        (h, k, a, b)
        for h, k in _spots(content)
        for a, b in pairs
        if isinstance(h[k], dict) and {a, b} <= h[k].keys()
    ]
    spots += [(h, k, a, b) for h, k in _spots(content) for a, b in pairs if h[k] in (a, b)]
    holder, key, a, b = rng.choice(spots)
    value = holder[key]
    if isinstance(value, dict):
        value[a], value[b] = value[b], value[a]
    else:
        holder[key] = b if value == a else a
    return f"{a} and {b} exchanged in {key!r}"


def move_keys(rng: Random, content: Any) -> str:
    """Move half of what is held out to what is trained on."""
    spots = [
        h[k]
        for h, k in [*_spots({"": content})]
        if isinstance(h[k], dict) and isinstance(h[k].get("val"), list)
    ]
    place = rng.choice([p for p in spots if p["val"]])
    half = place["val"][::2]
    place["val"] = place["val"][1::2]
    if isinstance(place.get("train"), list):
        place["train"] += half
    return "keys moved from val to train"


def retype(_: Random, content: Any) -> str:
    """Change nothing: the file is only written anew."""
    return "written anew, unchanged"


JSON_EDITS: tuple[Callable[[Random, Any], str], ...] = (
    *(set_value, set_value, set_raw, delete_key, delete_key, add_key, nudge, nudge),
    *(disorder, swap_words, move_keys, retype),
)


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
    def __reduce__(self) -> tuple:
        return os.mkdir, ("/tmp/traitscope-campaign-code-was-run",)


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
        path.write_bytes(pickle.dumps(_Code()))
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
    """Damage a file in one way; keep its time of change or not. Returns what was done, and whether size and time
    are as before.
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
