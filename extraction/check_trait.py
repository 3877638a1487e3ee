"""Check traits before the pipeline does: is the dataset whole, do its sides differ in anything but the trait, does the trait show?"""

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

from analysis.separation import separation
from extraction.audit import audit_trait
from extraction.audit_report import render_audit, render_trial
from extraction.trait_files import form_of, known_traits
from extraction.traits import read_trait
from extraction.trial import try_trait
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import bind, flags_of
from utils.gguf import EMBEDDED
from utils.judge import JudgeOptions
from utils.model import ModelOptions
from utils.paths import TraitPaths, root_dir


@dataclass(frozen=True)
class CheckOptions:
    """Validate trait datasets and audit them for confounds; the exit status is 0 when all are clean.

    Args:
        trait: A trait, as category/name.
        traits: Several traits, separated by commas.
        all: Every trait under datasets/traits/.
        json: Print one JSON document and nothing else.
        quick: Also let a model respond to a few pairs, and judge what it writes: about a minute.
        responses: Responses per side of --quick.
        model: What --quick runs: a Hugging Face id, a local folder, a .gguf file or "embedded".
    """

    trait: str = ""
    traits: tuple[str, ...] = ()
    all: bool = False
    json: bool = False
    quick: bool = False
    responses: int = 6
    model: str = EMBEDDED


def check_traits(*, options: CheckOptions, judge: JudgeOptions) -> None:
    """Audit the traits asked for and print what was found.

    Raises:
        UserError: no trait was named, or one is not clean or could not be tried.
    """
    targets, skipped = find_targets(options)
    for name in skipped:
        print(f"skipped {name}: it has a definition and no prompts", file=sys.stderr)
    reports = []
    for paths in targets:
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            reports.append(check_trait(paths, options, judge))
    failed = [report["trait"] for report in reports if not report["clean"]]
    if options.json:
        print(json.dumps({"clean": not failed, "traits": reports, "skipped": skipped}, indent=1, ensure_ascii=False, allow_nan=False))
    if failed:
        raise UserError(f"{len(failed)} of {len(reports)} traits not clean: {', '.join(failed)}")


def find_targets(options: CheckOptions) -> tuple[list[TraitPaths], list[str]]:
    """Return the traits to check, each once, and those that --all leaves out because they have no prompts."""
    named = [*([options.trait] if options.trait else []), *options.traits]
    found = [TraitPaths("check", name) for name in (known_traits(root_dir()) if options.all else ())]
    skipped = [paths.trait for paths in found if form_of(paths.dataset) is None and paths.trait not in named]
    names = dict.fromkeys([*named, *(paths.trait for paths in found if paths.trait not in skipped)])
    if not names:
        raise UserError("name a trait: --trait category/name, --traits one,other or --all")
    return [TraitPaths("check", name) for name in names], skipped


def check_trait(paths: TraitPaths, options: CheckOptions, judge: JudgeOptions) -> dict[str, Any]:
    """Audit one trait, and try it if asked; what people read goes to stdout as it comes."""
    audit = audit_trait(paths)
    report = audit.as_json()
    if not options.json:
        print(render_audit(audit), flush=True)
    if options.quick and audit.form and audit.findings[0].check != "readable":
        report["quick"] = trial = run_trial(paths, options, judge)
        report["clean"] &= "error" not in trial
        if not options.json:
            print(render_trial(trial), flush=True)
    return report


def run_trial(paths: TraitPaths, options: CheckOptions, judge: JudgeOptions) -> dict[str, Any]:
    """Try the scenarios, and say how far apart the judge's scores of the two sides are."""
    try:
        trial = try_trait(read_trait(paths), ModelOptions(model=options.model), judge, options.responses)
    except UserError as error:
        return {"error": str(error)}
    pos, neg = trial.scores("pos"), trial.scores("neg")
    apart = separation(pos, neg, 50.0)
    means = {"mean_pos": float(pos.mean()), "mean_neg": float(neg.mean()), "difference": float(pos.mean() - neg.mean())} if apart else {}
    return {"judge_accuracy": trial.judge_accuracy, "separation": apart, **means, "replies": [reply.as_json() for reply in trial.replies]}


FLAGS = flags_of(check_traits)


def main(**given: Any) -> None:
    """Check traits with the flags given."""
    check_traits(**bind(check_traits, {name: flag.default for name, flag in FLAGS.items()} | given))


if __name__ == "__main__":
    run_cli(main, FLAGS, inspect.getdoc(CheckOptions) or "")
