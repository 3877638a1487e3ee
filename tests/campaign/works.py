"""Pieces of work that write, each with the root it begins from and the readers of what it writes.

What may be seen of it while it is under way, or after it was cut short, is what stood before or what stands
in the end; `Work.judge` tells whether a reader's answer is one of the two.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from campaign.bench import SET, A, Bench, job, remove
from campaign.forks import Job, Outcome, run
from campaign.observe import NOTES, Snapshot, contents, speech
from campaign.readers import ask_dashboard, judge_pages

UNFINISHED = ("–", "not yet", "unfinished")  # what a table says of results that are still to come
DASHES = {"–", "-", "—", "", "no", "nan", "None"}


@dataclass
class Work:
    """A command with its beginning, its end and its readers."""

    name: str
    job: Callable[[Path], Job]
    readers: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda root: None
    again: Callable[[Path], Job] | None = None  # how to go on, where that is another command
    start: Path = Path()  # a root before it, kept
    before: dict[str, str] = field(
        default_factory=dict
    )  # reader → what it says there; absent where it refuses
    after: dict[str, str] = field(default_factory=dict)
    end: dict[str, object] = field(default_factory=dict)  # what the finished root holds

    def learn(self, bench: Bench) -> None:
        """Run it undisturbed, and keep what was said and held before and after."""
        self.start = bench.copy(f"start-{self.name}")
        self.prepare(self.start)
        root = bench.scratch / "undisturbed"
        replace_by(self.start, root)
        self.before = self.ask_all(bench, root)
        replace_by(self.start, root)
        done = run(self.job(root), root)
        assert done.kind == "ok", f"{self.name}: {done.said}"
        self.end = contents(root)
        self.after = self.ask_all(bench, root)

    def ask_all(self, bench: Bench, root: Path) -> dict[str, str]:
        """Return what every reader says, where it does not refuse."""
        said, here = {}, Snapshot(root)
        for name in self.readers:
            done = ask(bench, root, name)
            here.restore()  # what one reader writes is nothing to the next
            if done.kind == "ok":
                said[name] = done.out if name == "dashboard" else speech(done.out, root)
        return said

    def judge(self, reader: str, done: Outcome, root: Path) -> tuple[str, str]:
        """Sort a reader's answer over a half-finished root: one_line, old, new, noted, partial or mixture."""
        if done.kind != "ok":
            return done.kind, done.last
        if reader == "dashboard":
            return judge_pages(self.before[reader], self.after[reader], done.out)
        said, old, new = speech(done.out, root), self.before.get(reader), self.after.get(reader)
        if said in (old, new):
            return ("new" if said == new else "old"), ""
        if NOTES.search(done.said):
            return "noted", done.last
        is_partial = reader.endswith("table") and _cells_known(said, (old or "", new or ""))
        return ("partial" if is_partial else "mixture"), said[:600]


def _cells_known(said: str, sides: tuple[str, ...]) -> bool:
    """Tell whether every cell of a table stands in one of two others, or is still empty."""
    known = {cell.strip() for side in sides for cell in re.split(r"[|\n]", side)}
    cells = {cell.strip() for cell in re.split(r"[|\n]", said)}
    return all(cell in known or cell in DASHES or cell.startswith(UNFINISHED) for cell in cells)


def replace_by(source: Path, target: Path) -> None:
    """Make one root a copy of another."""
    remove(target)
    shutil.copytree(source, target, symlinks=True)


def ask(bench: Bench, root: Path, reader: str) -> Outcome:
    """Run a reader."""
    if reader == "dashboard":
        return run(Job(action=lambda: ask_dashboard(root)), root)
    return run(job(bench.home, root, reader), root)


def _forget(*places: str) -> Callable[[Path], None]:
    def delete(root: Path) -> None:
        for place in places:
            remove(root / place)

    return delete


def _other_export(root: Path) -> None:
    """Put other vectors where the import finds its file, so that an import brings other numbers."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = root / f"experiments/demo/exports/{A}/mean_diff/vectors.safetensors"
    with safe_open(file, "pt") as source:
        names, said = list(source.keys()), source.metadata()
        tensors = {name: source.get_tensor(name).flip(0).contiguous() for name in names}
    save_file(tensors, file, said)
    file.with_name("facts.json").unlink(missing_ok=True)  # which tell an export that was changed


PIPELINE_READERS = ("table", "steering_table", "export", "draw", "project", "dashboard")
CAPTURE_READERS = ("project", "dynamics", "groups", "compare", "dashboard")
IMPORT_READERS = ("export_import", "watch_import", "dashboard")


def works(bench: Bench, seed: int, number: int) -> Iterator[Work]:
    """Yield so many pieces of work, in an order that the seed decides; each is learned once a campaign."""
    if "works" not in bench.known:
        bench.known["works"] = _all_works(bench)
    found = Random(seed).sample(bench.known["works"], min(max(1, number), len(bench.known["works"])))
    for work in found:
        if not work.end:
            work.learn(bench)
        yield work


def _all_works(bench: Bench) -> list[Work]:
    home = bench.home

    def typed(name: str, *more: str) -> Callable[[Path], Job]:
        return lambda root: job(home, root, name, *more)

    return [
        Work("first pipeline", typed("pipeline"), PIPELINE_READERS, _forget("experiments")),
        Work("pipeline, longer texts", typed("pipeline", "--max-new-tokens", "7"), PIPELINE_READERS),
        Work("pipeline --force", typed("force"), PIPELINE_READERS, again=typed("pipeline")),
        Work(
            "first capture", typed("capture"), CAPTURE_READERS, _forget(f"experiments/demo/inference/{SET}")
        ),
        Work("capture with another model", typed("recapture"), CAPTURE_READERS),
        Work("import over an import", typed("import"), IMPORT_READERS, _other_export),
        Work(
            "export of other layers",
            typed("export", "--layers", "1-2"),
            ("import", "import_gguf", "import_repeng"),
        ),
    ]
