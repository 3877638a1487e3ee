"""Run the campaign's parts, print what became of every trial, and write docs/reliability.md.

For example:

    python tests/campaign/run.py --short --seed 3 --only damage,kills
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module, util
from io import StringIO
from pathlib import Path
from random import SystemRandom
from typing import Any

from benchmarks.report import describe_machine
from campaign import forks
from campaign.bench import Bench, build
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_text
from traitscope.utils.stage.flags import flag

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
MARKS = ("<!-- campaign -->", "<!-- /campaign -->")
NONE_OF = {  # outcomes of which there may be none, and what is said of them
    "wrong_result": "wrong results, and nothing said",
    "code_run": "files whose code was run",
    "mixture": "mixtures of old and new results",
    "other_bytes": "other bytes after the same command again",
    "not_finished": "work that could not be finished by the same command",
    "lost_work": "more than a batch lost",
    "stayed_damaged": "damaged files that are called up to date",
    "stopped_others": "traits stopped by another's dataset",
    "traceback": "tracebacks",
    "hang": "hangs",
    "long_line": "refusals of more than a line",
    "killed": "commands that the system killed",
    "foreign": "keys or bodies at other hosts",
}
FIGURES = {  # outcome → the figures of storms and attacks that count towards it
    "wrong_result": ("wrong_values", "lost", "let_in", "scripts_run", "dialogs", "views_failed"),
    "traceback": ("tracebacks", "answered_5xx"),
    "hang": ("hangs", "hung_up"),
    "foreign": ("requests_elsewhere", "keys_leaked", "canaries"),
}
MUST = {  # further figures of the attacks on the dashboard, None where a part has none
    "crowd_answered": lambda n: n in (None, 200),
    "beside_slow_status": lambda status: status in (None, 200),
    "was_alive": lambda was: was is not False,
    "was_streaming": lambda was: was is not False,
    "ctrl_c_s": lambda seconds: (seconds or 0) <= 1,
    "exit_status": lambda status: status in (None, 130),
}
MEMORY = 1.2  # times the memory of a quiet run, under storms


@dataclass(frozen=True)
class Part:
    """A part of the campaign: the function that runs it, how often, and for how many seconds at most."""

    module: str
    function: str
    title: str
    full: int
    short: int
    full_seconds: float
    short_seconds: float
    needs_bench: bool = True


PARTS = {
    "damage": Part("damage", "run_damage", "Damaged files", 1200, 48, 2400, 25),
    "kills": Part("kills", "run_kills", "Killed commands", 130, 9, 900, 20),
    "sync": Part("sync_kills", "run_sync_kills", "Killed pushes and pulls", 30, 2, 300, 10),
    "pairs": Part("pairs", "run_pairs", "Two commands at once", 1, 1, 900, 12),
    "datasets": Part("broken_datasets", "run_datasets", "Broken datasets", 1500, 120, 400, 15),
    "disk": Part("disk", "run_full_disk", "Full disks", 70, 6, 300, 12),
    "storms": Part("storms", "run_storms", "Storms at a judge", 8, 1, 600, 30, needs_bench=False),
    "dashboard": Part(
        "dashboard", "run_attacks", "Attacks on the dashboard", 3300, 300, 600, 30, needs_bench=False
    ),
}


@dataclass(frozen=True)
class CampaignOptions:
    """Run the reliability campaign: damage, kills, pairs, broken datasets, full disks, storms, attacks."""

    full: bool = flag(False, "The whole campaign, three quarters of an hour on two cores.")
    short: bool = flag(False, "A short form of every part, two minutes.")
    seed: int = flag(-1, "Seed of every trial; by default a new one, which is printed.")
    only: tuple[str, ...] = flag((), f"Parts, separated by commas: {', '.join(PARTS)}; by default all.")
    out: str = flag("", "Folder for the bad cases, a file of JSON lines each part; by default a new one.")
    write: bool = flag(False, "Write docs/reliability.md.")


def run_campaign(options: CampaignOptions) -> None:
    """Run what is asked for.

    Raises:
        UserError: a flag is wrong, or a target was missed.
    """
    if options.full == options.short:
        raise UserError("pass --full or --short")
    if unknown := [name for name in options.only if name not in PARTS]:
        raise UserError(f"unknown part {unknown[0]!r}; choose {', '.join(PARTS)}")
    seed = SystemRandom().randrange(10**6) if options.seed < 0 else options.seed
    out = Path(options.out or tempfile.mkdtemp(prefix="campaign-"))
    out.mkdir(parents=True, exist_ok=True)

    names = options.only or tuple(PARTS)
    if options.full and len(names) > 1:
        results = run_apart(names, seed, out)
    else:
        results = run_parts(names, seed, out, is_full=options.full)
    table = render(results, seed)
    print(table)
    if options.write:
        write_text(PAGE, insert(PAGE.read_text() if PAGE.exists() else "", table))
    if missed := missed_targets(results):
        raise UserError(f"{'; '.join(missed)}; every case is in {out}")


def run_apart(names: tuple[str, ...], seed: int, out: Path) -> dict[str, dict]:
    """Run every part in a process of its own, as many at once as there are cores."""

    def run(name: str) -> dict:
        flags = ["--full", "--seed", str(seed), "--only", name, "--out", str(out)]
        figures = _figures_of(PARTS[name], out)
        figures.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("run.py")), *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        if not figures.exists():
            raise UserError(f"the part {name} broke off: {done.stderr[-2000:]}")
        return json.loads(figures.read_text())

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def _figures_of(part: Part, out: Path) -> Path:
    return out / f"{part.module}.json"


def run_parts(names: tuple[str, ...], seed: int, out: Path, *, is_full: bool) -> dict[str, dict]:
    """Run parts over one bench; a part whose module is not there is left out."""
    forks.warm_up()
    parts = {name: PARTS[name] for name in names if util.find_spec(f"campaign.{PARTS[name].module}")}
    with_bench = any(part.needs_bench for part in parts.values())
    scratch = Path(tempfile.mkdtemp(prefix="campaign-", dir=roomy_folder()))
    try:
        bench = build(scratch) if with_bench else None
        return {name: _run_part(part, bench, seed, out, is_full) for name, part in parts.items()}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_part(part: Part, bench: Bench | None, seed: int, out: Path, is_full: bool) -> dict:
    function: Callable[..., dict] = getattr(import_module(f"campaign.{part.module}"), part.function)
    start = time.monotonic()
    trials, seconds = (part.full, part.full_seconds) if is_full else (part.short, part.short_seconds)
    if part.needs_bench:
        log = out / f"{part.module}.jsonl"
        log.unlink(missing_ok=True)
        found = function(bench, seed, trials, log, seconds)
    else:
        with redirect_stdout(StringIO()):
            found = as_counts(function(seed, trials))
    found |= {"seconds": time.monotonic() - start}
    write_text(_figures_of(part, out), json.dumps(found, indent=1, default=str) + "\n")
    return found


def as_counts(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a part that counts requests, as outcomes like the others'."""
    bad = {outcome: sum(int(figures.get(name) or 0) for name in names) for outcome, names in FIGURES.items()}
    asked = figures.get("questions", figures.get("requests", 0))
    counts = {"as_they_should": asked - sum(bad.values())} | bad
    quiet, storm = figures.get("rss_quiet_mb", 0), figures.get("rss_storm_mb", 0)
    memory = {"memory_ratio": storm / quiet} if quiet else {}
    return {"counts": counts, "figures": figures} | memory


def roomy_folder() -> str | None:
    """Return a folder in memory, where syncing costs nothing, or None for the usual one."""
    shm = Path("/dev/shm")
    is_roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 1 << 30
    return str(shm) if is_roomy else None


def missed_targets(results: dict[str, dict]) -> list[str]:
    """Return, in words, every target that a part missed."""
    missed = [
        f"{name}: {n} {NONE_OF[outcome]}"
        for name, found in results.items()
        for outcome, n in found["counts"].items()
        if n and outcome in NONE_OF
    ]
    for name, found in results.items():
        if found.get("memory_ratio", 0) > MEMORY:
            missed.append(f"{name}: {found['memory_ratio']:.2f} × the memory of a quiet run")
        known = found.get("figures", {})
        missed += [
            f"{name}: {key} is {known[key]}" for key, is_met in MUST.items() if not is_met(known.get(key))
        ]
    return missed


def render(results: dict[str, dict], seed: int) -> str:
    """Return the campaign's table, and what it was run on."""
    rows = ["| part | checks | what became of them | bad | seconds |", "|---|---:|---|---|---:|"]
    rows += [_row(PARTS[name].title, found) for name, found in results.items()]
    return "\n".join(rows) + f"\n\n{time.strftime('%Y-%m-%d')}, seed {seed}: {_machine()}.\n"


def _row(title: str, found: dict[str, Any]) -> str:
    counts = {o: n for o, n in sorted(found["counts"].items()) if n}
    words = {o: f"{n} {o.replace('_', ' ')}" for o, n in counts.items()}
    good = ", ".join(text for o, text in words.items() if o not in NONE_OF)
    bad = ", ".join(f"**{text}**" for o, text in words.items() if o in NONE_OF) or "none"
    aside = ", ".join(_aside(found))
    name = f"{title} ({aside})" if aside else title
    return f"| {name} | {sum(counts.values())} | {good} | {bad} | {found['seconds']:.0f} |"


def _aside(found: dict[str, Any]) -> list[str]:
    aside = [found["way"]] if "way" in found else []
    if "most_lost" in found:
        aside.append(f"at most {found['most_lost']} answers lost")
    if "memory_ratio" in found:
        aside.append(f"{found['memory_ratio']:.2f} × the memory of a quiet run")
    if "ctrl_c_s" in found.get("figures", {}):
        aside.append(f"ctrl-C takes {found['figures']['ctrl_c_s']:.1f} s")
    return aside


def _machine() -> str:
    known = describe_machine()
    return ", ".join(f"{key} {known[key]}" for key in ("CPU", "cores", "memory_GB", "Python"))


def insert(page: str, table: str) -> str:
    """Return the page with the table between its markers; a page without them gets both."""
    begin, end = MARKS
    if begin not in page:
        page = f"{page.rstrip() or '# Reliability'}\n\n{begin}\n{end}\n"
    body = f"{begin}\n{table}{end}"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: body, page, flags=re.DOTALL)
