"""Check traits before the pipeline does: is the dataset whole, and do its sides differ in anything but the trait?"""

import contextlib
import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from extraction.audit import audit_trait
from extraction.audit_report import render_audit
from extraction.trait_files import form_of, known_traits
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import bind, flags_of
from utils.judge import JudgeOptions
from utils.paths import TraitPaths, root_dir


@dataclass(frozen=True)
class CheckOptions:
    """Validate trait datasets and audit them for confounds; the exit status is 0 when all are clean.

    Args:
        trait: A trait, as category/name.
        traits: Several traits, separated by commas.
        all: Every trait under datasets/traits/.
        json: Print one JSON document and nothing else.
    """

    trait: str = ""
    traits: tuple[str, ...] = ()
    all: bool = False
    json: bool = False


def check_traits(*, options: CheckOptions, judge: JudgeOptions) -> None:
    """Audit the traits asked for and print what was found.

    Raises:
        UserError: no trait was named, or one is not clean.
    """
    targets, skipped = find_targets(options)
    report: dict[str, Any] = {"clean": True, "traits": [], "skipped": skipped}
    for name in skipped:
        print(f"skipped {name}: it has a definition and no prompts", file=sys.stderr)
    for paths in targets:
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            audit = audit_trait(paths)
        report["traits"].append(audit.as_json())
        if not options.json:
            print(render_audit(audit), flush=True)
    conclude(report, options)


def find_targets(options: CheckOptions) -> tuple[list[TraitPaths], list[str]]:
    """Return the traits to check, each once, and those that --all leaves out because they have no prompts."""
    named = [*([options.trait] if options.trait else []), *options.traits]
    found = [TraitPaths("check", name) for name in (known_traits(root_dir()) if options.all else ())]
    skipped = [paths.trait for paths in found if form_of(paths.dataset) is None and paths.trait not in named]
    names = dict.fromkeys([*named, *(paths.trait for paths in found if paths.trait not in skipped)])
    if not names:
        raise UserError("name a trait: --trait category/name, --traits one,other or --all")
    return [TraitPaths("check", name) for name in names], skipped


def conclude(report: dict[str, Any], options: CheckOptions) -> None:
    """Print the JSON document, or the last line; what is not clean ends the run with exit status 1."""
    failed = [trait["trait"] for trait in report["traits"] if not trait["clean"]]
    if options.json:
        print(json.dumps(report | {"clean": not failed}, indent=1, ensure_ascii=False, allow_nan=False))
    if failed:
        raise UserError(f"{len(failed)} of {len(report['traits'])} traits not clean: {', '.join(failed)}")


FLAGS = flags_of(check_traits)


def main(**given: Any) -> None:
    """Check traits with the flags given."""
    check_traits(**bind(check_traits, {name: flag.default for name, flag in FLAGS.items()} | given))


if __name__ == "__main__":
    run_cli(main, FLAGS, inspect.getdoc(CheckOptions) or "")
