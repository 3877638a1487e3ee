"""Datasets as people break them, in every form: each is fine or refused in one line, and stops no other."""

import json
import os
import signal
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from types import FrameType

from campaign.bench import B, Bench, job, remove
from campaign.dataset_forms import FORMS, TRAIT, break_one, write_form
from campaign.forks import Job, run

PATIENCE = 10  # seconds for one dataset
BATCH = 50  # datasets in one fork
BAD = ("traceback", "hang", "long_line", "stopped_others")


class LateError(BaseException):
    """A dataset took too long."""


def _late(_number: int, _frame: FrameType | None) -> None:
    raise LateError


def read_batch(root: Path, seed: int, numbers: range) -> None:
    """Break and read datasets one after the other, and print a line of JSON for each."""
    signal.signal(signal.SIGALRM, _late)
    for number in numbers:
        rng, form = Random(f"{seed}/{number}"), FORMS[number % len(FORMS)]
        remove(root / "datasets" / "traits" / TRAIT)
        said = break_one(rng, write_form(root, form))
        case = {"seed": seed, "number": number, "form": form, "damage": said}
        print(json.dumps(case | {"outcome": "hang", "last": "ended the whole batch"}), flush=True)
        outcome, last = _read(root, form, is_audited=number % 12 < 6)
        print(json.dumps(case | {"outcome": outcome, "last": last}), flush=True)


def _read(root: Path, form: str, is_audited: bool) -> tuple[str, str]:
    from traitscope.utils.errors import UserError

    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        _use(root, form, is_audited)
    except UserError as error:
        text = str(error)
        return ("one_line" if "\n" not in text and len(text) < 2000 else "long_line"), text[:300]
    except LateError:
        return "hang", f"more than {PATIENCE} s"
    except Exception as error:
        return "traceback", "".join(traceback.format_exception(error))[-700:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "fine", ""


def _use(root: Path, form: str, is_audited: bool) -> None:
    from traitscope.extraction.audit.checks import audit_trait
    from traitscope.extraction.audit.rendering import render_audit
    from traitscope.utils.files.paths import InferencePaths, TraitPaths
    from traitscope.utils.records.dataset import read_trait
    from traitscope.utils.records.prompt_sets import read_prompt_set

    if form == "prompt set":
        json.dumps([item.metadata for item in read_prompt_set(InferencePaths("e", "broken", root)).items])
        return
    paths = TraitPaths("e", TRAIT, root)
    if is_audited:
        audit = audit_trait(paths)  # what is wrong with a dataset is a finding here, and no error
        json.dumps(audit.as_json(), allow_nan=False)
        render_audit(audit).encode()
    read_trait(paths)


def run_datasets(bench: Bench, seed: int, trials: int, log: Path, seconds: float = 1e9) -> dict:
    """Break and read so many datasets, then some beside a good one; returns counts by form and outcome."""
    counts: Counter[tuple[str, str]] = Counter()
    root, start, number = bench.bare("datasets"), time.monotonic(), 0
    while number < trials and time.monotonic() - start < seconds:
        numbers = range(number, min(trials, number + BATCH))
        done = run(Job(action=lambda r=numbers: read_batch(root, seed, r)), root, 20 * BATCH)
        cases = {c["number"]: c for c in map(json.loads, done.out.splitlines())}
        assert cases, done.said
        number = max(cases) + 1
        for case in cases.values():
            _keep(counts, log, case)
    for case in run_beside(bench, seed, max(2, trials // 100)):
        _keep(counts, log, case)
    total: Counter[str] = Counter()
    for (_, outcome), n in counts.items():
        total[outcome] += n
    return {
        "counts": dict(total),
        "kinds": {f"{form}: {outcome}": n for (form, outcome), n in sorted(counts.items())},
    }


def run_beside(bench: Bench, seed: int, trials: int) -> list[dict]:
    """Run the pipeline over a good and a broken trait: the good one is done, whatever the other is."""
    cases = []
    for number in range(trials):
        root = bench.bare("beside")
        rng, form = Random(f"{seed}/beside/{number}"), FORMS[number % 5]
        said = break_one(rng, write_form(root, form))
        own = job(bench.home, root, "one_trait", "--no-steering", "--traits", f"{TRAIT},{B}")
        done = run(own, root, 120)
        is_done = (root / f"experiments/demo/extraction/{B}/stages/4_fit_vectors.json").exists()
        outcome = (
            done.kind
            if done.kind not in ("ok", "one_line")
            else "others_done"
            if is_done
            else "stopped_others"
        )
        cases.append(
            {
                "seed": seed,
                "number": number,
                "form": form,
                "damage": said,
                "outcome": outcome,
                "last": done.last,
            }
        )
    return cases


def _keep(counts: Counter, log: Path, case: dict) -> None:
    counts[case["form"], case["outcome"]] += 1
    if case["outcome"] in BAD:
        with open(log, "a") as file:
            file.write(json.dumps(case) + os.linesep)
