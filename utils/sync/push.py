"""From here to the store: new files go straight to their place, where no record names them yet; what
replaces others waits beside, and moves at once.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from traitscope.utils.errors import UserError
from traitscope.utils.sync.ancestry import Entry, StoreRecord
from traitscope.utils.sync.meeting import (
    INCOMING,
    PENDING,
    RECORD,
    Meeting,
    copy_in_order,
    folder_of,
    keep_agreed,
    keep_sent,
    settle,
)
from traitscope.utils.sync.store import Store
from traitscope.utils.sync.travel import is_large, manifest_of, text_stored


@dataclass(frozen=True)
class PushPlan:
    """What a push will do, as paths in the experiment."""

    new: list[str]  # to their place
    staged: list[str]  # in the place of others
    left_out: list[str] = field(default_factory=list)  # recorded, not sent
    # parts of a stage that is unfinished here and whole in the store
    held: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)  # newer in the store
    kept: list[str] = field(default_factory=list)  # deleted in the store

    @property
    def moves(self) -> list[str]:
        return [*self.new, *self.staged]


def plan_push(meeting: Meeting, *, include_activations: bool, delete: bool) -> PushPlan:
    """Decide what goes, changing nothing."""
    mine = meeting.having("mine")
    places = meeting.places
    held = {path for path in mine if _is_unfinished(meeting, manifest_of(path, places))}
    # left out before, or damaged
    lost = [path for path in meeting.having("same") if not meeting.is_there(path)]
    send = [
        path for path in (*mine, *lost) if path not in held and (include_activations or not is_large(path))
    ]

    return PushPlan(
        new=[path for path in send if not meeting.is_there(path)],
        staged=[path for path in send if meeting.is_there(path)],
        left_out=[path for path in mine if path not in held and is_large(path) and not include_activations],
        held=sorted(held),
        delete=meeting.having("deleted here") if delete else [],
        behind=meeting.having("theirs"),
        kept=meeting.having("deleted there"),
    )


def _is_unfinished(meeting: Meeting, manifest: str | None) -> bool:
    """Tell a stage that has no manifest here but one in the store, which would then vouch for what it has
    never seen.
    """
    return manifest is not None and manifest not in meeting.local and manifest in meeting.record.files


def push(store: Store, meeting: Meeting, plan: PushPlan) -> None:
    """Send, check what arrived, then let the record say so: killed at any moment, the store still holds
    the last finished push.

    Raises:
        UserError: a file changed meanwhile, here or in the store; nothing has been replaced then.
    """
    if not meeting.local and not meeting.record.files:
        return

    folder = folder_of(meeting.paths)
    if not {RECORD, PENDING} & meeting.objects.keys():
        # before the first file: files without a record would count as whole
        store.write(f"{folder}/{RECORD}", meeting.record.text())

    incoming = _digest(meeting, plan.staged) if plan.staged else ""
    _send(store, meeting, plan.new, "")
    _send(store, meeting, plan.staged, f"{INCOMING}/{incoming}/")
    entries = {
        path: _entry(meeting, path, left_out=path in plan.left_out) for path in (*plan.moves, *plan.left_out)
    }
    record = meeting.record.updated(entries, set(plan.delete))
    moved = {path: entry.md5 for path, entry in entries.items()}
    if entries or plan.delete:
        keep_sent(meeting, moved)
        _commit(store, meeting, plan, replace(record, incoming=incoming, gone=tuple(plan.delete)))
    keep_agreed(meeting, moved, set(plan.delete), record)


def _send(store: Store, meeting: Meeting, names: Iterable[str], prefix: str) -> None:
    """Copy what an earlier, interrupted push has not sent yet."""
    absent = {p: meeting.local[p].size for p in names if meeting.objects.get(prefix + p) != meeting.local[p]}
    target = store.remote(f"{folder_of(meeting.paths)}/{prefix}".rstrip("/"))
    copy_in_order(store, str(meeting.paths.dir), target, absent, f"{meeting.name}: pushing")


def _commit(store: Store, meeting: Meeting, plan: PushPlan, record: StoreRecord) -> None:
    folder = folder_of(meeting.paths)
    now = store.listing(folder)
    places = {path: path for path in plan.new} | {
        path: f"{INCOMING}/{record.incoming}/{path}" for path in plan.staged
    }
    wrong = [path for path, place in places.items() if not _entry(meeting, path).describes(now.get(place))]
    if wrong:
        raise UserError(
            f"{meeting.name}: {len(wrong)} files changed while they were pushed, such as {wrong[0]}; run "
            "the same command again"
        )
    if PENDING in now or now.get(RECORD) != meeting.objects.get(RECORD, text_stored(meeting.record.text())):
        raise UserError(
            f"{meeting.name}: someone else pushed meanwhile; nothing was replaced. Run the same command again"
        )

    if record.incoming or record.gone:
        # from here on, whoever comes next finishes this push
        store.write(f"{folder}/{PENDING}", record.text())
        settle(store, meeting.paths, record, now)
    else:
        store.write(f"{folder}/{RECORD}", record.text())


def _entry(meeting: Meeting, path: str, left_out: bool = False) -> Entry:
    return Entry(meeting.local[path].md5, meeting.local[path].size, left_out)


def _digest(meeting: Meeting, names: list[str]) -> str:
    """Return the same name for the same files, so that an interrupted push finds what it has sent."""
    return hashlib.sha256(
        json.dumps([(path, meeting.local[path].md5) for path in sorted(names)]).encode()
    ).hexdigest()[:16]
