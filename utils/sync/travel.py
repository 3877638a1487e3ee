"""Which files of an experiment travel, and what they are: their MD5, the one digest that every S3 store
knows.
"""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import WRITERS
from traitscope.utils.sync.store import Stored

NEVER = (  # names of files that stay where they are, beside all that begin with a dot
    *(
        "*.env",
        "*.env.*",
        "*.pem",
        "*.key",
        "*.p12",
        "id_rsa*",
        "id_ed25519*",
        "credentials",
        "credentials.*",
        "secrets",
        "secrets.*",
    ),
    *("*.tmp", "*.partial", "*.lock", "*.progress.jsonl", "*.sqlite*", "*.db", "*.pyc", "*~"),
)
TENSORS = (".pt", ".safetensors", ".npy")


def travels(path: str) -> bool:
    """Tell whether a file may leave this machine, or come to it: nothing hidden, secret, cached or
    unfinished does.
    """
    pure = PurePosixPath(path)
    hidden = any(part.startswith(".") or part == "__pycache__" for part in pure.parts)
    return not hidden and not any(fnmatchcase(pure.name.lower(), pattern) for pattern in NEVER)


def is_large(path: str) -> bool:
    """Tell a tensor of activations, which travels only when asked for."""
    pure = PurePosixPath(path)
    return pure.parent.name == "activations" and pure.suffix in TENSORS


def is_manifest(path: str) -> bool:
    """Tell the record of a stage's completed run."""
    pure = PurePosixPath(path)
    return pure.parent.name == "stages" and pure.suffix == ".json"


def check_path(path: object) -> str:
    """Return a path that the store names.

    Raises:
        UserError: it would leave the experiment, or is none that travels.
    """
    if (
        not isinstance(path, str)
        or PurePosixPath(path).as_posix() != path
        or path.startswith("/")
        or set("\0\n\r") & set(path)
        or not travels(path)
    ):
        raise UserError(
            f"the store's record names {path!r}, which is no file of an experiment; nothing was transferred"
        )
    return path


def scan(folder: Path) -> dict[str, Stored]:
    """Return {path: digest and size} of the files that travel; links are not followed.

    Raises:
        UserError: a name cannot be sent.
    """
    found = sorted(p for p in _walk(folder) if travels(p))
    bad = [p for p in found if set("\n\r") & set(p) or _is_broken(p)]
    if bad:
        raise UserError(
            f"{bad[0]!r} in {folder} has a line break or bytes that are no text in its name; rename it"
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(found, pool.map(lambda p: stored(folder / p), found), strict=True))


def _walk(folder: Path) -> Iterable[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (
            (Path(place) / name).relative_to(folder).as_posix()
            for name in names
            if not (Path(place) / name).is_symlink()
        )


def _is_broken(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def stored(file: Path) -> Stored:
    """Return what a store would list for a file."""
    with open(file, "rb") as opened:
        md5 = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return Stored(md5, opened.tell())


def text_stored(text: str) -> Stored:
    """Return what a store would list for a text."""
    return Stored(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), len(text.encode()))


def stage_places(manifests: Iterable[str]) -> dict[str, str]:
    """Return {file or folder that a stage writes: its manifest} for the manifests named."""
    places: dict[str, str] = {}
    for manifest in manifests:
        trait, stage = PurePosixPath(manifest).parts[1:-2], PurePosixPath(manifest).stem
        places |= {
            place.format(trait="/".join(trait)).rstrip("/"): manifest
            for place, writer in WRITERS.items()
            if writer == stage
        }

    return places


def manifest_of(path: str, places: dict[str, str]) -> str | None:
    """Return the manifest that vouches for a file, if one of `places` does."""
    pure = PurePosixPath(path)
    return next((places[p.as_posix()] for p in (pure, *pure.parents) if p.as_posix() in places), None)
