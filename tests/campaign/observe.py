"""What lies under a root, put back as it was, and compared without what may differ: times and reasons."""

import json
import os
import re
import shutil
import stat
from pathlib import Path

TIMES = ("reason", "seconds", "finished", "git_commit", "packages", "seal", "inputs", "outputs")
QUIET = re.compile(r"(model|judge): |\[\d_\w+\] |\[r2_|summary: |\s*$")
NUMBER = re.compile(r"(?<![\w#.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)")
SEAL = re.compile(rb',?\s*"seal": "[0-9a-f]{64}"')
NOTES = re.compile(r"^(> )*\s*(note|warning): ?", re.MULTILINE)  # a chat's prompt may stand before it


class Snapshot:
    """A root's files as bytes, and how to bring them back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {rel: (path.read_bytes(), path.stat().st_mtime_ns) for rel, path in walk(root).items()}
        self.folders = {p.relative_to(root) for p in root.rglob("*") if p.is_dir()}

    def restore(self) -> None:
        """Make the root what it was, times included."""
        now = walk(self.root)
        for rel in now.keys() - self.files.keys():
            clear(now[rel])
        for folder in sorted((p for p in self.root.rglob("*") if p.is_dir()), reverse=True):
            if folder.relative_to(self.root) not in self.folders:
                clear(folder)
        for rel, (data, time) in self.files.items():
            path = self.root / rel
            if not is_plain(path) or path.read_bytes() != data:
                clear(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            if path.stat().st_mtime_ns != time:
                os.utime(path, ns=(time, time))


def walk(root: Path) -> dict[str, Path]:
    """Return {path below the root: path} of all that is no folder; links are not followed."""
    return {
        str(Path(folder, name).relative_to(root)): Path(folder, name)
        for folder, folders, files in os.walk(root)
        for name in (*files, *(f for f in folders if Path(folder, f).is_symlink()))
    }


def is_plain(path: Path) -> bool:
    """Tell whether a regular file lies there; links are not followed."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def clear(path: Path) -> None:
    """Delete whatever lies at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_as_it_is(source: Path, target: Path) -> None:
    """Copy whatever lies at a path, links as links, with its times; nothing where there is nothing."""
    if not os.path.lexists(source):
        return
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif stat.S_ISFIFO(source.lstat().st_mode):
        os.mkfifo(target)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def contents(root: Path) -> dict[str, object]:
    """Return {path: content} of a root's files, without what may differ; hidden ones are nobody's result."""
    return {
        rel: content_of(rel, path, root)
        for rel, path in walk(root).items()
        if not Path(rel).name.startswith(".") and not rel.startswith("datasets/") and "/.sync/" not in rel
    }


def content_of(rel: str, path: Path, root: Path) -> object:
    """Return a file's bytes, a manifest's content without its times, or in words what else lies there."""
    if not is_plain(path):
        return f"no regular file: {stat.filemode(path.lstat().st_mode)}"
    data = path.read_bytes()
    if (place := str(root).encode()) in data:  # and its seal is that of a file with this root's name in it
        data = SEAL.sub(b"", data.replace(place, b"ROOT"))
    if "/stages/" in rel and rel.endswith(".json"):
        try:
            found = json.loads(data)
            return json.dumps({k: v for k, v in found.items() if k not in TIMES}, sort_keys=True)
        except (ValueError, AttributeError, RecursionError):
            return data
    return data


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Return the paths whose content differs, or that only one side has."""
    return sorted(rel for rel in one.keys() | other.keys() if one.get(rel) != other.get(rel))


def speech(text: str, root: Path) -> str:
    """Return what a command printed as results: without seconds, places, and what it says of its own work."""
    lines = [line for line in text.replace(str(root), "ROOT").splitlines() if not QUIET.match(line)]
    said = "\n".join(line for line in lines if not NOTES.match(line))
    said = re.sub(r"\d+(\.\d+)? s\b", "N s", said)
    return re.sub(r"\(\d+ new\)|\d+ (projected|computed|new)", "N", said)


def notes(text: str) -> set[str]:
    """Return the notes and warnings that a command printed."""
    return {line.strip() for line in text.splitlines() if NOTES.match(line)}


def same_meaning(one: object, other: object) -> bool:
    """Tell whether two files hold the same JSON, whatever digest of it stands at their end."""
    try:
        return _parse(one) == _parse(other)
    except (ValueError, RecursionError, AttributeError):
        return False


def _parse(data: object) -> object:
    content = json.loads(data.decode("utf-8-sig"))  # type: ignore[attr-defined]
    return {k: v for k, v in content.items() if k != "seal"} if isinstance(content, dict) else content


def same_figures(one: object, other: object) -> bool:
    """Tell whether two texts differ in the last digits of numbers alone: another batch rounds otherwise."""
    if not (isinstance(one, bytes) and isinstance(other, bytes)):
        return False
    texts = [SEAL.sub(b"", data).decode(errors="replace") for data in (one, other)]
    if NUMBER.sub("#", texts[0]) != NUMBER.sub("#", texts[1]):
        return False
    pairs = zip(*(map(float, NUMBER.findall(text)) for text in texts), strict=True)
    return all(abs(a - b) <= 1e-5 + 1e-3 * abs(a) for a, b in pairs)
