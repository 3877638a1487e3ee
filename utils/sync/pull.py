"""From the store to here: everything is fetched beside, checked, and put in place at once, manifests last."""

import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import left_out_note
from traitscope.utils.stage.stage import only_one
from traitscope.utils.sync.meeting import Meeting, folder_of, keep_agreed
from traitscope.utils.sync.store import Store
from traitscope.utils.sync.travel import is_large, is_manifest, manifest_of, stored


@dataclass(frozen=True)
class PullPlan:
    """What a pull will do, as paths in the experiment."""

    moves: list[str]
    left_out: list[str] = field(default_factory=list)  # known, not fetched
    held: list[str] = field(default_factory=list)  # manifests of stages whose files here are not theirs
    delete: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)  # newer here
    kept: list[str] = field(default_factory=list)  # deleted in the store


def plan_pull(meeting: Meeting, *, include_activations: bool, delete: bool) -> PullPlan:
    """Decide what comes, changing nothing.

    Raises:
        UserError: the store has lost a file of its record.
    """
    theirs = meeting.having("theirs", "deleted here")
    places = meeting.places
    disturbed = {manifest_of(path, places) for path in meeting.having("mine")}
    held = [path for path in theirs if path not in meeting.local and path in disturbed]
    left_out = [
        path
        for path in theirs
        if meeting.record.files[path].left_out or (is_large(path) and not include_activations)
    ]
    stays = {*held, *left_out}
    moves = [path for path in theirs if path not in stays]
    lost = [path for path in moves if not meeting.is_there(path)]
    if lost:
        raise UserError(
            f"{meeting.name}: {len(lost)} files in the store are not what was pushed, such as {lost[0]}; "
            "push again from a machine that has them"
        )

    gone = meeting.having("deleted there")
    return PullPlan(
        moves, left_out, held, gone if delete else [], meeting.having("mine"), [] if delete else gone
    )


def pull(store: Store, meeting: Meeting, plan: PullPlan) -> None:
    """Fetch, check, put in place: killed at any moment, every manifest here still tells the truth.

    Raises:
        UserError: a file changed meanwhile, here or in the store, or a stage that wrote it is running;
            nothing has been replaced then.
    """
    incoming = meeting.paths.sync / "incoming"
    files = meeting.record.files
    absent = {path: files[path].size for path in plan.moves if not _is_fetched(meeting, incoming, path)}
    if absent:
        store.copy(store.remote(folder_of(meeting.paths)), str(incoming), absent, f"{meeting.name}: pulling")
    wrong = [path for path in absent if not _is_fetched(meeting, incoming, path)]
    if wrong:
        raise UserError(
            f"{meeting.name}: {len(wrong)} files changed in the store meanwhile, such as {wrong[0]}; run "
            "the same command again"
        )

    with _stages_stopped(meeting, [*plan.moves, *plan.delete]):
        _put_in_place(meeting, plan, incoming)
    note_left_out(meeting, plan)
    keep_agreed(meeting, {path: files[path].md5 for path in plan.moves}, set(plan.delete), meeting.record)
    shutil.rmtree(incoming, ignore_errors=True)


def _is_fetched(meeting: Meeting, incoming: Path, path: str) -> bool:
    entry, file = meeting.record.files[path], incoming / path
    return file.is_file() and entry.describes(stored(file))


@contextmanager
def _stages_stopped(meeting: Meeting, names: list[str]) -> Iterator[None]:
    """Keep the stages whose files are replaced from running meanwhile."""
    places = meeting.places
    manifests = {path if path in places.values() else manifest_of(path, places) for path in names} - {None}
    with ExitStack() as held:
        for pure in map(PurePosixPath, sorted(filter(None, manifests))):
            trait = TraitPaths(meeting.name, "/".join(pure.parts[1:-2]), meeting.paths.root)
            held.enter_context(only_one(pure.stem, trait))
        yield


def _put_in_place(meeting: Meeting, plan: PullPlan, incoming: Path) -> None:
    """Take away the manifests that are replaced, then put the files, then the manifests."""
    here = meeting.paths.dir
    changed = [
        p
        for p in (*plan.moves, *plan.delete)
        if (stored(here / p) if (here / p).is_file() else None) != meeting.local.get(p)
    ]
    if changed:
        raise UserError(
            f"{meeting.name}: {len(changed)} files changed here meanwhile, such as {changed[0]}; nothing "
            "was replaced. Run the same command again"
        )

    for path in filter(is_manifest, (*plan.moves, *plan.delete)):
        (here / path).unlink(missing_ok=True)

    for path in sorted(plan.moves, key=is_manifest):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (incoming / path).replace(here / path)

    for path in plan.delete:
        (here / path).unlink(missing_ok=True)


def note_left_out(meeting: Meeting, plan: PullPlan) -> None:
    """Write beside every tensor that is known and not here how to get it; take back notes of those that
    have come.
    """
    notes: dict[Path, dict[str, str]] = {}
    for path in filter(is_large, meeting.record.files):
        file = meeting.paths.dir / path
        lacks = path in plan.left_out
        notes.setdefault(left_out_note(file), {}).update(
            {file.name: _how_to_get(meeting, path)} if lacks else {}
        )

    for note, content in notes.items():
        if content:
            write_json(note, content)
        else:
            note.unlink(missing_ok=True)


def _how_to_get(meeting: Meeting, path: str) -> str:
    fetch = f"utils/r2_pull.sh --only {shlex.quote(meeting.name)} --include-activations"
    if meeting.record.files[path].left_out:
        return (
            "left out of the push; run utils/r2_push.sh --include-activations where it was made, then "
            f"{fetch}"
        )
    return f"left out of the pull; get it with {fetch}"
