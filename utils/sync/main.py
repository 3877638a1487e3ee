"""The command line of utils/r2_push.sh and utils/r2_pull.sh."""

import runpy
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import ExperimentPaths, found_experiments, root_dir
from traitscope.utils.files.reading import read_json
from traitscope.utils.stage.command import Command, command
from traitscope.utils.stage.flags import flag
from traitscope.utils.sync.meeting import PENDING, Meeting, meet, only_sync, settle, stop_at_conflicts
from traitscope.utils.sync.pull import PullPlan, plan_pull, pull
from traitscope.utils.sync.push import PushPlan, plan_push, push
from traitscope.utils.sync.store import Store, open_store
from traitscope.utils.sync.travel import is_large

DOCS = {
    "push": (
        "Push experiments/ to the S3-compatible store that .env names: what is new or changed here, by "
        "checksum."
    ),
    "pull": (
        "Pull experiments/ from the S3-compatible store that .env names: what is new or changed there, by "
        "checksum."
    ),
}


@dataclass(frozen=True)
class SyncOptions:
    """Bring results from one side to the other."""

    only: tuple[str, ...] = flag((), "Experiments, separated by commas; by default all.")
    dry_run: bool = flag(False, "List what would happen, and change nothing.")
    include_activations: bool = flag(
        False, "Take the large tensors along (activations/*.pt), which are left out otherwise."
    )
    delete: bool = flag(
        False,
        (
            "Delete, too, what was deleted on this side since both agreed (a push) or on the other (a pull); "
            "first with --dry-run, which lists it."
        ),
    )
    verify: bool = flag(False, "Compare both sides by checksum at the end (rclone check).")


def synchronise(direction: str, options: SyncOptions) -> None:
    """Push or pull.

    Raises:
        UserError: the store, a conflict, or what else the user must mend; nothing of this experiment has been
            replaced then.
    """
    if direction not in DOCS:
        raise UserError("run utils/r2_push.sh or utils/r2_pull.sh")

    store = open_store()

    with ExitStack() as locks:
        meetings = [
            _meet(store, ExperimentPaths(name), options, locks)
            for name in _names(store, direction, options.only)
        ]
        stop_at_conflicts(meetings)
        plan = partial(
            plan_push if direction == "push" else plan_pull,
            include_activations=options.include_activations,
            delete=options.delete,
        )
        work = [
            (meeting, plan(meeting)) for meeting in meetings if direction == "push" or not meeting.is_empty
        ]
        if not options.dry_run:
            for meeting, planned in work:
                require_listed(meeting, direction, planned.delete)
        for meeting, planned in work:
            (_show if options.dry_run else _carry_out)(store, direction, meeting, planned)
            if options.verify:
                _verify(store, direction, ExperimentPaths(meeting.name))

    if not meetings:
        print(f"[r2_{direction}] no experiments to {direction}")
    if len(work) < len(meetings):
        unfinished = ", ".join(meeting.name for meeting in meetings if meeting.is_empty)
        raise UserError(
            f"the store holds no finished push of {unfinished}; run utils/r2_push.sh again where it comes "
            "from"
        )


def _names(store: Store, direction: str, only: tuple[str, ...]) -> list[str]:
    here, there = found_experiments(root_dir()), store.folders("experiments")
    found = here if direction == "push" else there
    absent = [name for name in only if name not in found]
    if absent:
        where = "experiments/" if direction == "push" else "the store"
        raise UserError(f"{where} has no {', '.join(absent)}; it has {', '.join(found) or 'none'}")
    return list(dict.fromkeys(only)) or found


def _meet(store: Store, paths: ExperimentPaths, options: SyncOptions, locks: ExitStack) -> Meeting:
    if options.dry_run:
        return meet(store, paths)
    locks.enter_context(only_sync(paths))
    meeting = meet(store, paths)
    if PENDING not in meeting.objects:
        return meeting
    settle(store, paths, meeting.record, meeting.objects)
    return meet(store, paths)


def _carry_out(store: Store, direction: str, meeting: Meeting, plan: PushPlan | PullPlan) -> None:
    start = time.monotonic()
    if isinstance(plan, PushPlan):
        push(store, meeting, plan)
    else:
        pull(store, meeting, plan)

    _listing(meeting, direction).unlink(missing_ok=True)
    print(
        f"[r2_{direction}] {meeting.name}: {summarise(meeting, plan)}, {time.monotonic() - start:.0f} s",
        flush=True,
    )


def _show(store: Store, direction: str, meeting: Meeting, plan: PushPlan | PullPlan) -> None:
    for verb, names in (
        (direction, plan.moves),
        ("delete", plan.delete),
        ("leave out", plan.left_out),
        ("hold back", plan.held),
    ):
        for path in names:
            print(f"{verb} {meeting.name}/{path}")

    if plan.delete:
        write_json(_listing(meeting, direction), _listed(meeting, plan.delete))
    print(f"[r2_{direction} --dry-run] {meeting.name}: {summarise(meeting, plan)}", flush=True)


def summarise(meeting: Meeting, plan: PushPlan | PullPlan) -> str:
    """Return what a plan comes to, in a line."""
    sizes, newer = (
        (meeting.local, "newer in the store")
        if isinstance(plan, PushPlan)
        else (meeting.record.files, "newer here")
    )
    remarks = (
        (plan.delete, "deleted"),
        (plan.left_out, "left out (--include-activations)"),
        (plan.held, "held back, as their stage is unfinished here"),
        (plan.behind, newer),
        (plan.kept, "deleted in the store and kept here"),
    )
    said = [f"{len(names)} {what}" for names, what in remarks if names]
    moved = (
        f"{len(plan.moves)} files, {describe_bytes(sum(sizes[path].size for path in plan.moves))}"
        if plan.moves
        else "up to date"
    )

    return "; ".join([moved, *said])


def require_listed(meeting: Meeting, direction: str, names: list[str]) -> None:
    """Allow deletions only where the last `--dry-run --delete` listed exactly these.

    Raises:
        UserError: it listed others, or there was none.
    """
    file = _listing(meeting, direction)
    if names and (not file.exists() or read_json(file) != _listed(meeting, names)):
        raise UserError(
            f"{meeting.name}: {len(names)} files would be deleted, and no dry run has listed just these; nothing was transferred. "
            f"Run utils/r2_{direction}.sh --only {shlex.quote(meeting.name)} --delete --dry-run, read its list, then run this again"
        )


def _listing(meeting: Meeting, direction: str) -> Path:
    return meeting.paths.sync / f"delete_{direction}.json"


def _listed(meeting: Meeting, names: Iterable[str]) -> dict:
    return {"store": meeting.record.store, "files": {path: meeting.agreed[path] for path in sorted(names)}}


def _verify(store: Store, direction: str, paths: ExperimentPaths) -> None:
    """Compare what both sides should have in common, byte sums of the store against byte sums here."""
    meeting = meet(store, paths)
    common = [p for p in meeting.having("same") if not meeting.record.files[p].left_out]
    unequal = store.differing(paths.dir, f"experiments/{paths.experiment}", common) if common else []
    if unequal:
        raise UserError(
            f"{paths.experiment}: {len(unequal)} of {len(common)} files differ between here and the store: {', '.join(unequal[:10])}"
        )

    rest = sum(not is_large(p) for p, change in meeting.changes.items() if change != "same")
    print(
        f"[r2_{direction} --verify] {paths.experiment}: {len(common)} files equal on both sides"
        + (f", {rest} not on both" if rest else ""),
        flush=True,
    )


def describe_bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def direction_command(direction: str) -> Command:
    """Return the command of one of the two scripts."""

    def run(options: SyncOptions) -> None:
        synchronise(direction, options)

    return Command(run, doc=DOCS.get(direction, ""))


if __name__ == "__main__":
    _direction = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    sys.argv[0] = f"utils/r2_{_direction}.sh"
    command(direction_command(_direction))
