"""One rule for when a stage runs: its manifest must exist, and must still describe the parameters and the
files on disk.
"""

import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from traitscope.utils.errors import UserError, explain_disk_error, first_line, is_disk_error
from traitscope.utils.files.artifacts import digest, sweep_temporaries, why_left_out, write_bytes, write_json
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.stage.flags import OWN_HEADING, Flag, bind, flags_of

FORCED = "--force"
NOT_DONE, UNREADABLE = "no completed run", "manifest unreadable"
PACKAGES = ("torch", "transformers", "scikit-learn", "sentence-transformers", "numpy")


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
        flags = self.flags
        kept = {
            n: v
            for n, v in params.items()
            if not flags[n].is_cosmetic and (n not in self.only_with or params[self.only_with[n]])
        }
        known = {n: identify(v) if (identify := flags[n].identify) else v for n, v in kept.items()}
        # a flag that is identified as nothing is as if it did not exist, so that manifests before it stay good
        return json.loads(json.dumps({n: v for n, v in known.items() if v is not None}))


def why_run(stage: Stage, paths: TraitPaths, params: dict[str, Any]) -> str | None:
    """Return the reason the stage must run, in words, or None when its outputs are up to date."""
    done = read_manifest(paths.manifest(stage.name))
    if isinstance(done, str):
        return done
    if done["version"] != stage.version:
        return f"stage version {done['version']} → {stage.version}"

    recorded, tracked = done["params"], stage.tracked(params)

    for name in tracked | recorded:
        if recorded.get(name) != tracked.get(name):
            return f"{name} {recorded.get(name)} → {tracked.get(name)}"

    return missing_output(done, paths.root) or changed_input(done, take_digests(stage, paths, params))


def why_outdated(manifest: Path, root: Path) -> str | None:
    """Return why a stage's files are not what its manifest describes, or None: all that can be told
    without the stage itself.
    """
    done = read_manifest(manifest)
    if isinstance(done, str):
        return done
    return missing_output(done, root) or changed_input(
        done, {name: digest(root / name) for name in done["inputs"]}
    )


def read_manifest(path: Path) -> dict | str:
    """Return a manifest, or in words why there is none to go by."""
    try:
        done = json.loads(path.read_text())
        _, inputs, outputs, _ = done["params"], done["inputs"], done["outputs"], done["version"]
    except FileNotFoundError:
        return NOT_DONE
    except (ValueError, KeyError, TypeError, RecursionError):
        return UNREADABLE

    is_whole = (
        isinstance(done["params"], dict)
        and isinstance(inputs, dict)
        and isinstance(outputs, list)
        and all(isinstance(o, str) for o in outputs)
    )
    return done if is_whole else UNREADABLE


def missing_output(done: dict, root: Path) -> str | None:
    """Name the first output of a manifest that is gone; what a pull left out is known to be elsewhere."""
    gone = (name for name in done["outputs"] if not (root / name).exists() and not why_left_out(root / name))
    return next((f"output missing: {name}" for name in gone), None)


def changed_input(done: dict, now: dict[str, str | None]) -> str | None:
    """Name the first input of a manifest whose content is another now."""
    return next(
        (
            f"input changed: {name}"
            for name in done["inputs"] | now
            if done["inputs"].get(name) != now.get(name)
        ),
        None,
    )


def take_digests(stage: Stage, paths: TraitPaths, params: dict[str, Any]) -> dict[str, str | None]:
    """Return {path: sha256} of the stage's inputs; None for one that does not exist."""
    return {paths.relative(path): digest(path) for path in stage.inputs(paths, params)}


def execute(stage: Stage, paths: TraitPaths, params: dict[str, Any], *, force: bool = False) -> bool:
    """Run the stage for one trait if it has a reason to, and return whether it ran.

    The manifest is deleted first and written last: whatever interrupts the run leaves "no completed run". A
    stage raises UserError only before it writes, and then its earlier results stay complete.

    Raises:
        UserError: an input is missing, or the stage says what the user must mend.
    """
    reason = FORCED if force else why_run(stage, paths, params)
    if reason is None:
        print(f"[{stage.name}] {paths.trait}: up to date", flush=True)
        return False

    inputs = take_digests(stage, paths, params)  # before the run: an edit during it makes the result stale
    absent = [name for name, found in inputs.items() if found is None]
    if absent:
        writer = paths.writer(paths.root / absent[0])
        raise UserError(
            f"{stage.name} needs {absent[0]}, which does not exist"
            + (f"; run {writer} first" if writer else "")
        )

    with only_one(stage.name, paths):
        return _execute(stage, paths, params, inputs, reason)


@contextmanager
def only_one(stage: str, paths: TraitPaths) -> Iterator[None]:
    """Keep a second process off the same stage of the same trait; the lock dies with its process."""
    lock = paths.manifest(stage).with_name(f".{stage}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)

    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another process is running {stage} for {paths.trait} in {paths.experiment}; wait for it, or "
            "stop it"
        ) from None


def _execute(
    stage: Stage, paths: TraitPaths, params: dict[str, Any], inputs: dict[str, str | None], reason: str
) -> bool:
    if reason == FORCED:
        paths.journal(stage.name).unlink(missing_ok=True)
    for folder in (paths.dir, paths.steering):
        sweep_temporaries(folder)
    start = time.monotonic()
    with _manifest_gone(paths.manifest(stage.name)):
        summary = stage.run(paths, **bind(stage.run, params))
    seconds = time.monotonic() - start
    outputs = [paths.relative(path) for path in stage.outputs(paths, params)]
    unwritten = [name for name in outputs if not (paths.root / name).exists()]
    assert not unwritten, f"{stage.name} did not write {unwritten}"
    record = {
        "stage": stage.name,
        "version": stage.version,
        "reason": reason,
        "params": stage.tracked(params),
        "inputs": inputs,
        "outputs": outputs,
    }
    write_json(
        paths.manifest(stage.name),
        record | {"summary": summary, "seconds": round(seconds, 2), "finished": _now(), **provenance()},
    )
    # not before the manifest: a kill in between must cost nothing
    paths.journal(stage.name).unlink(missing_ok=True)
    print(f"[{stage.name}] {paths.trait}: {_line(summary)}, {seconds:.0f} s ({reason})", flush=True)

    return True


@contextmanager
def _manifest_gone(manifest: Path) -> Iterator[None]:
    """Delete a manifest; put it back if the stage refuses to work, which it does before it writes: a
    mistyped flag must not cost old results.
    """
    before = manifest.read_bytes() if manifest.exists() else None
    manifest.unlink(missing_ok=True)

    try:
        yield
    except UserError:
        if before is not None:
            write_bytes(manifest, before)
        raise


def run_stage(
    stage: Stage,
    traits: Sequence[TraitPaths],
    values: dict[str, Any],
    *,
    force: bool = False,
    instead: str = "",
) -> dict[str, str]:
    """Run a stage for several traits, so that what it loads is loaded once; a trait that fails does not
    stop the others.

    Args:
        instead: One of the stage's other doings, by its switch.

    Returns:
        {trait: one line} for the traits that failed.
    """
    failures: dict[str, str] = {}
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
                execute(stage, paths, stage.params(values), force=force)
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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@cache
def provenance() -> dict:
    """Return the git commit and the package versions of this process."""
    commit = None
    if shutil.which("git"):
        git = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        commit = git.stdout.strip() or None

    return {"git_commit": commit, "packages": {name: v for name in PACKAGES if (v := _version(name))}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
