"""Check traits before the pipeline does: is the dataset whole, do its sides differ in anything but the
trait, does the trait show?

For example:

    python extraction/check_trait.py --traits behavioral/politeness --quick
"""

import contextlib
import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.extraction.audit.checks import READABLE, audit_trait
from traitscope.extraction.audit.rendering import render_audit, render_trial
from traitscope.extraction.audit.trial import try_trait
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths, root_dir
from traitscope.utils.judge import JudgeOptions
from traitscope.utils.measures.separation import separation
from traitscope.utils.model.gguf import EMBEDDED
from traitscope.utils.model.loading import ModelOptions
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.dataset_files import form_of, known_traits
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class CheckOptions:
    """Validate trait datasets and audit them for confounds; the exit status is 0 when all are clean."""

    traits: tuple[str, ...] = flag((), "Several traits, separated by commas.", also=("trait",))
    all: bool = flag(False, "Every trait under datasets/traits/.")
    json: bool = flag(False, "Print one JSON document and nothing else.")
    quick: bool = flag(
        False, "Also let a model respond to a few pairs, and judge what it writes: about a minute."
    )
    responses: int = flag(6, "Responses per side of --quick.")
    model: str = flag(
        EMBEDDED, 'What --quick runs: a Hugging Face id, a local folder, a .gguf file or "embedded".'
    )


def check_trait(options: CheckOptions, judging: JudgeOptions) -> None:
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
            reports.append(check_one(paths, options, judging))

    failed = [report["trait"] for report in reports if not report["clean"]]
    if options.json:
        print(
            json.dumps(
                {"clean": not failed, "traits": reports, "skipped": skipped},
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
        )

    if failed:
        raise UserError(f"{len(failed)} of {len(reports)} traits not clean: {', '.join(failed)}")


def find_targets(options: CheckOptions) -> tuple[list[TraitPaths], list[str]]:
    """Return the traits to check, each once, and those that --all leaves out because they have no prompts."""
    named = list(options.traits)
    found = [TraitPaths("check", name) for name in (known_traits(root_dir()) if options.all else ())]
    skipped = [paths.trait for paths in found if form_of(paths.dataset) is None and paths.trait not in named]
    names = dict.fromkeys([*named, *(paths.trait for paths in found if paths.trait not in skipped)])
    if not names:
        raise UserError("name a trait: --traits category/name[,category/name…] or --all")
    return [TraitPaths("check", name) for name in names], skipped


def check_one(paths: TraitPaths, options: CheckOptions, judging: JudgeOptions) -> dict[str, Any]:
    """Audit one trait, and try it if asked; what people read goes to stdout as it comes."""
    audit = audit_trait(paths)
    report = audit.as_json()
    if not options.json:
        print(render_audit(audit), flush=True)
    if options.quick and audit.form and audit.findings[0].check != READABLE:
        report["quick"] = trial = run_trial(paths, options, judging)
        report["clean"] &= "error" not in trial
        if not options.json:
            print(render_trial(trial), flush=True)

    return report


def run_trial(paths: TraitPaths, options: CheckOptions, judging: JudgeOptions) -> dict[str, Any]:
    """Try the scenarios, and say how far apart the judge's scores of the two sides are."""
    try:
        trial = try_trait(read_trait(paths), ModelOptions(model=options.model), judging, options.responses)
    except UserError as error:
        return {"error": str(error)}

    pos, neg = trial.scores("pos"), trial.scores("neg")
    apart = separation(pos, neg, 50.0)
    means = (
        {
            "mean_pos": float(pos.mean()),
            "mean_neg": float(neg.mean()),
            "difference": float(pos.mean() - neg.mean()),
        }
        if apart
        else {}
    )
    return {
        "judge_accuracy": trial.judge_accuracy,
        "separation": apart,
        **means,
        "replies": [text.as_json() for text in trial.texts],
    }


if __name__ == "__main__":
    command(check_trait)
