"""One rule for when a stage runs: its manifest must exist, and must still describe the parameters and the
files on disk.
"""

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from traitscope.utils.errors import UserError, explain_disk_error, first_line, is_disk_error
from traitscope.utils.files.artifacts import sweep_temporaries
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.stage.flags import OWN_HEADING, Flag, bind, flag, flags_of, remembered
from traitscope.utils.stage.manifest import (
    changed_input,
    damaged_output,
    read_manifest,
    set_aside,
    write_manifest,
)

FORCED = "--force"


@dataclass(frozen=True)
class Instead:
    """Something else that a stage's script can do with what the stage left; it changes nothing of that."""

    help: str
    run: Callable[[TraitPaths, dict], dict]  # run(paths, parameters) -> summary


@dataclass(frozen=True)
class Stage:
    """A numbered step: what it runs, what it reads and what it writes."""

    name: str  # file stem, e.g. "1_generate_responses"
    run: Callable[..., dict]  # run(paths, *, parameters with defaults) -> summary: ints, floats and texts
    inputs: Callable[[TraitPaths, dict], Iterable[Path]]
    outputs: Callable[[TraitPaths, dict], Iterable[Path]]  # asked after the run, so it may look at the inputs
    version: int = 1  # bump when the same inputs now give different outputs
    cosmetic: tuple[str, ...] = ()  # parameters that cannot change the outputs
    # parameter → the switch without which it has no effect
    only_with: dict[str, str] = field(default_factory=dict)
    # switch → what its script does instead of running the stage
    instead: dict[str, "Instead"] = field(default_factory=dict)
    # what is done for several traits at once before each is run, into their journals: ahead(traits, parameters)
    ahead: Callable[[Sequence[TraitPaths], dict], None] | None = None

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return self.name.partition("_")[2].replace("_", " ").capitalize()

    @property
    def flags(self) -> dict[str, Flag]:
        """The stage's parameters, all of them settings of an experiment: the signature of `run` is their
        only declaration.
        """
        declared = flags_of(self.run).items()
        own = {
            name: replace(f, is_cosmetic=f.is_cosmetic or name in self.cosmetic, is_setting=True)
            for name, f in declared
        }
        return {
            name: replace(f, group=self.title) if f.group == OWN_HEADING else f for name, f in own.items()
        }

    def params(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return every parameter: its default, or its value where `values` has one (other keys are
        ignored).
        """
        return {name: values.get(name, flag.default) for name, flag in self.flags.items()}

    def tracked(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters that can change the outputs, as JSON gives them back."""
        kept = {n: v for n, v in params.items() if n not in self.only_with or params[self.only_with[n]]}
        return json.loads(json.dumps(remembered(self.flags, kept)))


def why_run(stage: Stage, paths: TraitPaths, params: dict[str, Any], *, verify: bool = False) -> str | None:
    """Return the reason the stage must run, in words, or None when its outputs are up to date.

    Args:
        verify: Read every output; else only one whose size or time is not as it was.
    """
    done = read_manifest(paths.manifest(stage.name))
    if isinstance(done, str):
        return done
    if done.get("trait", paths.trait) != paths.trait:
        return f"manifest of {done['trait']}"
    if done["version"] != stage.version:
        return f"stage version {done['version']} → {stage.version}"

    recorded, tracked = done["params"], stage.tracked(params)

    for name in tracked | recorded:
        if recorded.get(name) != tracked.get(name):
            return f"{name} {recorded.get(name)} → {tracked.get(name)}"

    return damaged_output(done, paths.root, verify=verify) or changed_input(
        done, take_digests(stage, paths, params)
    )


def take_digests(stage: Stage, paths: TraitPaths, params: dict[str, Any]) -> dict[str, str | None]:
    """Return {path: sha256} of the stage's inputs; None for one that does not exist."""
    return {paths.relative(path): digest(path) for path in stage.inputs(paths, params)}


@dataclass(frozen=True)
class How:
    """In which way a stage is run."""

    force: bool = flag(False, "Run even where everything is up to date, and forget partial progress.")
    verify: bool = flag(
        False, "Read every output to see whether it is as it was written, not only its size and time."
    )
    wait: bool = flag(False, "Wait for another process that runs the same stage of the same trait.")

    heading = "How to run"


DEFAULTS = How()


def execute(
    stage: Stage,
    paths: TraitPaths,
    params: dict[str, Any],
    how: How = DEFAULTS,
    keep: Callable[[], None] = lambda: None,
) -> bool:
    """Run the stage for one trait if it has a reason to, and return whether it ran.

    Args:
        keep: Called when the work is done, before the manifest says so.

    The manifest goes first and is written last: whatever kills the run leaves "no completed run".

    Raises:
        UserError: an input is missing, or the stage says what the user must mend.
    """
    if not how.force and why_run(stage, paths, params, verify=how.verify) is None:
        _drop_leftover(paths.journal(stage.name), paths.lock(stage.name))
        print(f"[{stage.name}] {paths.trait}: up to date", flush=True)
        return False

    with only_one(stage.name, paths, wait=how.wait):
        # asked again: who waited may find it done
        reason = FORCED if how.force else why_run(stage, paths, params, verify=how.verify)
        if reason is None:
            print(f"[{stage.name}] {paths.trait}: done by another process", flush=True)
            return False
        inputs = take_digests(
            stage, paths, params
        )  # before the run: an edit during it makes the result stale
        _require_inputs(stage, paths, inputs)
        with set_aside(paths.manifest(stage.name)):
            _execute(stage, paths, params, inputs, reason, keep)

    return True


def _drop_leftover(journal: Path, lock: Path) -> None:
    """Delete the journal of a run that was killed after it had written its manifest."""
    if journal.exists():
        with contextlib.suppress(UserError), hold(lock, "another process is running it"):
            journal.unlink(missing_ok=True)


def _require_inputs(stage: Stage, paths: TraitPaths, inputs: dict[str, str | None]) -> None:
    absent = [name for name, found in inputs.items() if found is None]
    if absent:
        writer = paths.writer(paths.root / absent[0])
        raise UserError(
            f"{stage.name} needs {absent[0]}, which does not exist"
            + (f"; run {writer} first" if writer else "")
        )


def only_one(stage: str, paths: TraitPaths, *, wait: bool | None = None) -> AbstractContextManager[None]:
    """Keep a second process off the same stage of the same trait."""
    return hold(
        paths.lock(stage),
        f"another process is running {stage} for {paths.trait} in {paths.experiment}",
        wait=wait,
    )


def _execute(
    stage: Stage,
    paths: TraitPaths,
    params: dict[str, Any],
    inputs: dict[str, str | None],
    reason: str,
    keep: Callable[[], None],
) -> None:
    if reason == FORCED:
        paths.journal(stage.name).unlink(missing_ok=True)
    for folder in (paths.dir, paths.steering):
        sweep_temporaries(folder)

    start = time.monotonic()
    summary = stage.run(paths, **bind(stage.run, params))
    seconds = time.monotonic() - start

    outputs = list(stage.outputs(paths, params))
    unwritten = [paths.relative(path) for path in outputs if not path.exists()]
    assert not unwritten, f"{stage.name} did not write {unwritten}"
    record = {
        "stage": stage.name,
        "trait": paths.trait,
        "version": stage.version,
        "reason": reason,
        "params": stage.tracked(params),
        "inputs": inputs,
        "summary": summary,
        "seconds": round(seconds, 2),
    }
    keep()
    write_manifest(paths.manifest(stage.name), record, outputs, paths.root)
    # after the manifest: a kill between the two costs nothing
    paths.journal(stage.name).unlink(missing_ok=True)
    print(f"[{stage.name}] {paths.trait}: {_line(summary)}, {seconds:.0f} s ({reason})", flush=True)


def run_stage(
    stage: Stage,
    traits: Sequence[TraitPaths],
    values: dict[str, Any],
    how: How = DEFAULTS,
    *,
    instead: str = "",
    keep: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Run a stage for several traits, so that what it loads is loaded once; a trait that fails does not
    stop the others.

    Args:
        instead: One of the stage's other doings, by its switch.
        keep: Called when the work on a trait is done, before its manifest says so.

    Returns:
        {trait: one line} for the traits that failed.
    """
    failures: dict[str, str] = {}
    if stage.ahead and not instead and not how.force:
        _run_ahead(stage, stage.ahead, traits, stage.params(values), how)
    for paths in traits:
        try:
            if instead:
                print(
                    (
                        f"[{stage.name} --{instead}] {paths.trait}: "
                        f"{_line(stage.instead[instead].run(paths, stage.params(values)))}"
                    ),
                    flush=True,
                )
            else:
                execute(stage, paths, stage.params(values), how, keep)
        except UserError as error:
            failures[paths.trait] = str(error)
        except BrokenPipeError:
            raise  # nobody reads our output any more: that is the run's end, not the trait's
        except Exception as error:  # a defect of ours in one trait must not cost the others their night
            failures[paths.trait] = _explain(error)
        if paths.trait in failures:
            print(
                f"[{stage.name}] {paths.trait}: failed: {failures[paths.trait]}", file=sys.stderr, flush=True
            )

    return failures


def _run_ahead(
    stage: Stage, ahead: Callable, traits: Sequence[TraitPaths], params: dict[str, Any], how: How
) -> None:
    """Do what can be done for all traits at once; where that fails, each trait's own run does it, and says why not."""
    try:
        ahead([paths for paths in traits if why_run(stage, paths, params, verify=how.verify)], params)
    except BrokenPipeError:
        raise
    except Exception as error:
        print(f"note: [{stage.name}] one trait at a time: {first_line(error)}", file=sys.stderr, flush=True)


def _explain(error: Exception) -> str:
    if isinstance(error, OSError) and is_disk_error(error):
        return explain_disk_error(error)
    traceback.print_exception(error)
    return f"unexpected {type(error).__name__}: {first_line(error)} (traceback above; please report it)"


def _line(summary: dict) -> str:
    """Whole numbers read "240 responses", others "AUROC 0.93"."""
    return ", ".join(
        f"{v} {k}" if isinstance(v, int) else f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in summary.items()
        if v is not None
    )
