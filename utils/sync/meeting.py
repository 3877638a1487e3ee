"""Both sides of one experiment, as a push or a pull finds them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import ExperimentPaths
from traitscope.utils.files.reading import is_there, read_json
from traitscope.utils.sync.ancestry import Change, Entry, StoreRecord, compare, read_record
from traitscope.utils.sync.store import Store, Stored
from traitscope.utils.sync.travel import is_manifest, scan, stage_places, travels

RECORD, INCOMING = ".sync/record.json", ".sync/incoming"
PENDING = f"{INCOMING}/pending.json"  # goes with all that waits


@dataclass(frozen=True)
class Meeting:
    """An experiment here and in the store."""

    paths: ExperimentPaths
    local: dict[str, Stored]
    objects: dict[str, Stored]  # everything the store lists under the experiment
    record: StoreRecord  # what of it counts
    agreed: dict[str, str]  # {path: MD5} when the sides last agreed
    changes: dict[str, Change]

    @property
    def name(self) -> str:
        return self.paths.experiment

    @property
    def places(self) -> dict[str, str]:
        """What each stage writes, and the manifest that vouches for it."""
        return stage_places(
            path for path in self.changes if is_manifest(path) and path.startswith("extraction/")
        )

    @property
    def is_empty(self) -> bool:
        """Whether the store holds nothing of the experiment: its first push has not finished."""
        return not self.record.files and not self.record.push

    def having(self, *changes: Change) -> list[str]:
        """Return the files that any of these happened to."""
        return [path for path, change in self.changes.items() if change in changes]

    def is_there(self, path: str) -> bool:
        """Tell whether the store really holds the file of its record."""
        entry = self.record.files.get(path)
        return entry is not None and not entry.left_out and entry.describes(self.objects.get(path))


def folder_of(paths: ExperimentPaths) -> str:
    """Return an experiment's folder in the bucket."""
    return f"experiments/{paths.experiment}"


def meet(store: Store, paths: ExperimentPaths) -> Meeting:
    """Look at both sides, changing neither.

    Raises:
        UserError: the store's record cannot be read.
    """
    objects = store.listing(folder_of(paths))
    record = _find_record(store, paths, objects)
    local = scan(paths.dir)
    agreed = read_agreed(paths, record)
    return Meeting(paths, local, objects, record, agreed, compare(local, agreed, record.files))


def _find_record(store: Store, paths: ExperimentPaths, objects: Mapping[str, Stored]) -> StoreRecord:
    """Return what counts in the store: what a push has promised, else finished, else what someone put
    there without us.
    """
    for name in (PENDING, RECORD):
        if name in objects:
            return read_record(store.read(f"{folder_of(paths)}/{name}"), paths.experiment)
    found = {path: Entry(o.md5, o.size) for path, o in objects.items() if travels(path)}
    return StoreRecord(found, store=store.identity) if found else StoreRecord()


def settle(store: Store, paths: ExperimentPaths, record: StoreRecord, objects: Mapping[str, Stored]) -> None:
    """Put in place what a push has promised (its pending record), ours just now or one that was killed
    before it could.

    All it needs lies in the store, so whoever comes next can do it, as often as it takes.
    """
    folder = folder_of(paths)
    waiting = f"{INCOMING}/{record.incoming}"
    staged = {
        p.removeprefix(f"{waiting}/"): found.size
        for p, found in objects.items()
        if p.startswith(f"{waiting}/")
    }
    due = {
        path: size
        for path, size in staged.items()
        if path in record.files and not record.files[path].describes(objects.get(path))
    }

    copy_in_order(
        store,
        store.remote(f"{folder}/{waiting}"),
        store.remote(folder),
        due,
        f"{paths.experiment}: putting in place",
    )
    if doomed := [path for path in record.gone if path in objects]:
        store.delete(folder, doomed)
    store.write(f"{folder}/{RECORD}", replace(record, incoming="", gone=()).text())
    store.purge(f"{folder}/{INCOMING}")


def copy_in_order(store: Store, source: str, target: str, names: Mapping[str, int], label: str) -> None:
    """Copy {path: size}, manifests last: what a manifest vouches for is there before it is."""
    for last in (False, True):
        part = {path: size for path, size in names.items() if is_manifest(path) == last}
        if part:
            store.copy(source, target, part, label)


def stop_at_conflicts(meetings: list[Meeting]) -> None:
    """Refuse to go on when a file changed on both sides, before anything has moved.

    Raises:
        UserError: the files, by name.
    """
    clashes = [f"{meeting.name}/{path}" for meeting in meetings for path in meeting.having("conflict")]
    if clashes:
        what = "files differ" if len(clashes) > 1 else "file differs"
        raise UserError(
            f"{len(clashes)} {what} here and in the store and neither side's descends from the other's; nothing was transferred. Move yours out of "
            f"the experiment, pull, and put back what is to replace the store's: {', '.join(clashes)}"
        )


def read_agreed(paths: ExperimentPaths, record: StoreRecord) -> dict[str, str]:
    """Return {path: MD5} as of the last agreement with this store; empty where it was never made, or is lost.

    What a push has sent and was killed before it could remember is agreed too, once the record has it, or has
    had it.
    """
    sent = _remembered(_memory(paths, record, "sent"))
    arrived = {
        p: md5
        for p, md5 in sent.items()
        if p in record.files and md5 in (record.files[p].md5, *record.files[p].was)
    }
    return _remembered(_memory(paths, record, "agreed")) | arrived


def keep_agreed(meeting: Meeting, moved: Mapping[str, str], gone: set[str], record: StoreRecord) -> None:
    """Remember what both sides have now.

    Args:
        moved: {path: MD5} of what this push or pull made equal.
        gone: Files that neither side has any more.
        record: The store's record now.
    """
    same = {path: meeting.local[path].md5 for path in meeting.having("same")}
    known = (meeting.local.keys() | record.files.keys()) - gone
    agreed = {path: md5 for path, md5 in (meeting.agreed | same | dict(moved)).items() if path in known}

    file = _memory(meeting.paths, record, "agreed")
    if agreed != _remembered(file):
        write_json(file, agreed)
    _memory(meeting.paths, record, "sent").unlink(missing_ok=True)


def keep_sent(meeting: Meeting, moved: Mapping[str, str]) -> None:
    """Remember what a push is about to promise: whoever finishes it in our place, we shall know our own
    files again.
    """
    keep_agreed(meeting, {}, set(), meeting.record)
    write_json(_memory(meeting.paths, meeting.record, "sent"), dict(moved))


def _memory(paths: ExperimentPaths, record: StoreRecord, what: str) -> Path:
    return paths.sync / f"{what}_{record.store[:12]}.json"


def _remembered(file: Path) -> dict[str, str]:
    try:
        content = read_json(file) if is_there(file) else {}
    except UserError:
        return {}  # damaged is forgotten: then only equal files and known ancestors are common
    return {str(path): str(md5) for path, md5 in content.items()} if isinstance(content, dict) else {}


@contextmanager
def only_sync(paths: ExperimentPaths) -> Iterator[None]:
    """Keep a second push or pull off the same experiment; the lock dies with its process."""
    with hold(paths.sync / ".lock", f"another push or pull of {paths.experiment} is running"):
        yield
