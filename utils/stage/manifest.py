"""Manifests: the record of a stage's last completed run, and whether it still describes the files on disk."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import is_inside
from traitscope.utils.files.reading import LARGEST, digest, read_json, why_left_out

NOT_DONE, UNREADABLE = "no completed run", "manifest unreadable"
PACKAGES = ("torch", "transformers", "scikit-learn", "sentence-transformers", "numpy")


def read_manifest(path: Path) -> dict | str:
    """Return a manifest, its outputs as {name: what is known of the file, or None}; or in words why there is
    none to go by.
    """
    if not os.path.lexists(path):
        return NOT_DONE
    try:
        done = read_json(path)
        inputs, outputs = done["inputs"], done["outputs"]
        known = outputs if isinstance(outputs, dict) else dict.fromkeys(outputs)  # of older ones, only names
        is_whole = (
            done["stage"] == path.stem
            and all(isinstance(done[name], dict) for name in ("params", "inputs"))
            and all(map(_is_below, [*inputs, *known]))
            and all(about is None or _is_about(about) for about in known.values())
            and "version" in done
        )
    except (UserError, KeyError, TypeError, AttributeError):
        return UNREADABLE
    return done | {"outputs": known} if is_whole else UNREADABLE


def _is_below(name: Any) -> bool:
    """Tell whether a name is that of a file below the root."""
    if not isinstance(name, str) or "\0" in name:
        return False
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts


def _is_about(about: Any) -> bool:
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    return isinstance(about, dict) and all(isinstance(about.get(name), kind) for name, kind in kinds.items())


def write_manifest(path: Path, record: dict, outputs: Iterable[Path], root: Path) -> None:
    """Write what a stage did, and what is known of the files that it left."""
    known = {file.relative_to(root).as_posix(): _describe(file) for file in outputs}
    write_json(
        path, {**record, "outputs": known, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **provenance()}
    )


def _describe(file: Path) -> dict[str, Any]:
    about = file.stat()
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns, "sha256": digest(file)}


def damaged_output(done: dict, root: Path, *, verify: bool = False) -> str | None:
    """Name the first output of a manifest that is gone, or is another file now. What a pull left out is known to
    be elsewhere.

    Args:
        verify: Read every file; else only one whose size or time is not as it was.
    """
    for name, known in done["outputs"].items():
        file = root / name
        if not os.path.lexists(file):
            if not why_left_out(file):
                return f"output missing: {name}"
        elif not _is_same(file, known, verify):
            return f"output changed: {name}"

    return None


def _is_same(file: Path, known: dict[str, Any] | None, verify: bool) -> bool:
    try:
        if known is None:
            return file.is_file()
        about = file.stat()
        if about.st_size != known["size"]:
            return False
        return (not verify and about.st_mtime_ns == known["mtime_ns"]) or digest(file) == known["sha256"]
    except (OSError, UserError):  # a pipe, a link to nothing
        return False


def changed_input(done: dict, now: dict[str, str | None]) -> str | None:
    """Name the first input of a manifest whose content is another now."""
    return next(
        (
            f"input changed: {name}"
            for name in done["inputs"] | now
            if done["inputs"].get(name) != now.get(name)
        ),
        None,
    )


def why_outdated(manifest: Path, root: Path) -> str | None:
    """Return why a stage's files are not what its manifest describes, or None: all that can be told
    without the stage itself. Nothing outside experiments/ and datasets/ is looked at.
    """
    done = read_manifest(manifest)
    if isinstance(done, str):
        return done

    outside = [name for name in (*done["inputs"], *done["outputs"]) if not is_inside(root, root / name)]
    if outside:
        return f"{outside[0]} lies outside experiments/ and datasets/"
    try:
        now = {name: digest(root / name, LARGEST) for name in done["inputs"]}
    except UserError as error:
        return str(error)
    return damaged_output(done, root) or changed_input(done, now)


@contextmanager
def set_aside(manifest: Path) -> Iterator[None]:
    """Put a manifest aside while its stage runs, so that a killed run leaves none; put it back when the run ends
    in an error. It knows its outputs by their digests, so that it says "output changed" where the run wrote any.
    """
    aside = manifest.with_name(f".{manifest.name}.before")
    aside.unlink(missing_ok=True)
    done = read_manifest(manifest)
    if os.path.lexists(manifest):
        os.replace(manifest, aside)

    try:
        yield
    except BaseException as error:
        # an older manifest knows no digests: it is true again only where nothing was written, before a refusal
        knows_outputs = isinstance(done, dict) and all(done["outputs"].values())
        if aside.exists() and (knows_outputs or isinstance(error, UserError)):
            os.replace(aside, manifest)
        raise
    aside.unlink(missing_ok=True)


@cache
def provenance() -> dict:
    """Return the git commit and the package versions of this process."""
    commit = None
    if shutil.which("git"):
        git = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = git.stdout.strip() or None

    return {"git_commit": commit, "packages": {name: v for name in PACKAGES if (v := _version(name))}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
