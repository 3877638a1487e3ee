"""Damage one file at a time, run who reads it, and sort what comes of it.

one_line      refused, and the line says what to do
repaired      exit 0, and the whole root is what it was before the damage
no_effect     exit 0, and the results are those of the undamaged root
noted         exit 0 with other results, which a note, a warning or a mark of staleness announces
wrong_result  exit 0 with other results, and nothing said
traceback, hang
stayed_damaged  the pipeline calls everything up to date over a file that is not what it wrote
"""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from campaign.bench import Bench, job
from campaign.forks import Outcome, run
from campaign.journals import run_journals
from campaign.mutations import CODE_WAS_RUN, damage
from campaign.observe import (
    Snapshot,
    clear,
    contents,
    copy_as_it_is,
    differing,
    is_plain,
    notes,
    same_figures,
    same_meaning,
    speech,
)
from campaign.readers import KINDS, Kind, judge_dashboard, reader_job

LIMIT = 30.0  # seconds a reader may take
BAD = ("wrong_result", "code_run", "traceback", "hang", "stayed_damaged")


@dataclass(frozen=True)
class Reference:
    """What a reader says and leaves over the undamaged root."""

    out: str
    notes: set[str]
    after: dict[str, object]


@dataclass
class Case:
    """One reader over one damaged file."""

    seed: int
    trial: int
    kind: str
    file: str
    damage: str
    reader: str
    outcome: str
    detail: str = ""
    last: str = ""


class DamageTrials:
    """A root that is damaged, read and put back, again and again."""

    def __init__(self, bench: Bench, seed: int, log: Path, readers: int = 3) -> None:
        self.bench, self.seed, self.log, self.n_readers = bench, seed, log, readers
        self.root = bench.copy("damaged")
        self.whole = Snapshot(self.root)
        self.before = contents(self.root)
        self.references: dict[str, Reference] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def run(self, trials: int, seconds: float) -> None:
        """Run trials, kind after kind, until so many or so long."""
        start = time.monotonic()
        for trial in range(trials):
            if time.monotonic() - start > seconds:
                break
            self.run_trial(trial)

    def run_trial(self, trial: int) -> list[Case]:
        """Damage one file and run its readers; a trial depends on its number alone."""
        rng, kind = Random(f"{self.seed}/{trial}"), KINDS[trial % len(KINDS)]
        self.whole.restore()
        file = rng.choice(sorted(self.root.glob(kind.glob)))
        others = sorted(self.root.glob(kind.others or kind.glob))
        said, is_hidden = damage(rng, file, others)
        if is_edit(kind, file, said):
            return []

        readers = rng.sample(kind.readers, min(self.n_readers, len(kind.readers)))
        damaged, cases = Aside(self.root, file), []
        for reader in readers:
            cases += self._read(trial, kind, file, said, reader, is_hidden)
            self.whole.restore()
            damaged.put_back()
        for case in cases:
            self._keep(case)
        return cases

    def _read(
        self, trial: int, kind: Kind, file: Path, said: str, reader: str, is_hidden: bool
    ) -> list[Case]:
        reference = self.reference(reader, file)
        rel = str(file.relative_to(self.root))
        broken = contents(self.root).get(rel)
        done = run(reader_job(self.bench.home, self.root, reader, file), self.root, LIMIT)
        outcome, detail = self._sort(reader, done, reference, rel, broken)
        cases = [Case(self.seed, trial, kind.name, rel, said, reader, outcome, detail, done.last)]
        is_mended = kind.is_pipelines and reader in ("pipeline", "force") and done.kind == "ok"
        if is_mended and (why := self._stays(file, rel, is_hidden)):
            cases.append(Case(self.seed, trial, kind.name, rel, said, reader, "stayed_damaged", why))
        return cases

    def _sort(
        self, reader: str, done: Outcome, reference: Reference, rel: str, broken: object
    ) -> tuple[str, str]:
        if any(self.root.rglob(CODE_WAS_RUN)):
            return "code_run", ""
        if done.kind != "ok":
            return done.kind, ""
        if reader == "dashboard":
            return judge_dashboard(reference.out, done.out)

        after = contents(self.root)
        changed = differing(after, reference.after)
        others = [path for path in changed if path != rel]
        if same_meaning(broken, reference.after.get(rel)):
            return "no_effect", ""  # only what counts bytes can tell
        others = [path for path in others if not _rounded(path, after, reference)]
        is_half_mended = rel in changed and after.get(rel) != broken
        if reader.startswith("import") and all(path.endswith("_metadata.json") for path in others):
            others = []  # they name the digest of the file that was imported
        is_same = speech(done.out, self.root) == reference.out and not others and not is_half_mended
        if is_same:
            return ("no_effect" if rel in changed else "repaired"), ""
        detail = (others or ["what it prints" if not is_half_mended else rel])[0]
        announced = notes(done.said) - reference.notes or (reader == "dry_run" and "would" in done.out)
        return ("noted" if announced else "wrong_result"), detail

    def reference(self, reader: str, file: Path) -> Reference:
        """Return what a reader does over the undamaged root; asked once for each command line."""
        job_ = reader_job(self.bench.home, self.root, reader, file)
        name = f"{job_.script} {job_.arguments}" if job_.script else reader
        if name not in self.references:
            own = self.bench.copy("reference")
            done = run(reader_job(self.bench.home, own, reader, file), own, LIMIT)
            assert done.kind == "ok", f"{reader}: {done.said}"
            out = done.out if reader == "dashboard" else speech(done.out, own)
            self.references[name] = Reference(out, notes(done.said), contents(own))
        return self.references[name]

    def _stays(self, file: Path, rel: str, is_hidden: bool) -> str:
        """Return why a file that is not what the pipeline wrote is called up to date, "" where it is not."""
        original = self.whole.files[rel][0]
        now = file.read_bytes() if is_plain(file) else None
        if now == original or (now and same_meaning(now, original)) or _is_manifest(rel):
            return ""
        plan = run(job(self.bench.home, self.root, "dry_run"), self.root, LIMIT)
        if plan.kind != "ok" or "would" in plan.out:
            return ""
        if is_hidden:
            found = run(job(self.bench.home, self.root, "verify"), self.root, LIMIT)
            is_found = "unknown flag" not in found.said and (found.kind != "ok" or rel in found.said)
            return "" if is_found else "size and time kept; --verify does not see it"
        return "up to date"

    def _keep(self, case: Case) -> None:
        self.counts[case.kind, case.outcome] += 1
        if case.outcome in (*BAD, "noted"):
            with open(self.log, "a") as file:
                file.write(json.dumps(asdict(case), ensure_ascii=True) + "\n")


class Aside:
    """The damaged file alone, kept so that the next reader meets the same damage."""

    def __init__(self, root: Path, file: Path) -> None:
        self.file, self.aside = file, root.with_name("aside")
        clear(self.aside)
        copy_as_it_is(file, self.aside)

    def put_back(self) -> None:
        """Put the damaged file in its place again."""
        clear(self.file)
        copy_as_it_is(self.aside, self.file)


def is_edit(kind: Kind, file: Path, said: str) -> bool:
    """Tell whether a damaged file is one that somebody may have written so: settings, and vectors of another
    author in another tool's layout.
    """
    if kind.name == "exports":
        return said.startswith(("edit_tensor", "exchange"))
    if said.startswith("missing") and kind.name in ("config", "dynamics", "groups", "comparison"):
        return True  # nobody has to keep these
    if kind.name != "config":
        return False
    try:
        return is_plain(file) and isinstance(json.loads(file.read_text(encoding="utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _rounded(path: str, after: dict[str, object], reference: Reference) -> bool:
    """Tell whether a projection differs by rounding: its tokens were read again, in another batch."""
    return "/inference/" in path and same_figures(after.get(path), reference.after.get(path))


def _is_manifest(rel: str) -> bool:
    return "/stages/" in rel


def run_damage(bench: Bench, seed: int, trials: int, log: Path, seconds: float = 1e9) -> dict:
    """Run the trials; returns counts by kind of file and outcome."""
    campaign = DamageTrials(bench, seed, log)
    campaign.run(trials, seconds)
    campaign.counts += run_journals(bench, seed, max(3, trials // 12), log)
    total = Counter()
    for (_, outcome), n in campaign.counts.items():
        total[outcome] += n
    return {"counts": dict(total), "kinds": {f"{k}: {o}": n for (k, o), n in sorted(campaign.counts.items())}}
