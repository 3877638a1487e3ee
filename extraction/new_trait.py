"""Lay out the folder of a new trait, with guidance as comments."""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils.artifacts import write_bytes
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import option_flags
from utils.paths import TraitPaths, template_dir


@dataclass(frozen=True)
class NewTraitOptions:
    """Lay out a folder for a new trait: templates whose comments say what to write. An existing folder is never touched.

    Args:
        trait: The new trait, as category/name.
        form: scenarios (unfinished prompts that the model continues), instructions (opposite system prompts that meet every question) or
            answers (both answers to a question are given).
    """

    trait: str
    form: Literal["scenarios", "instructions", "answers"] = "scenarios"

    positional: ClassVar[tuple[str, ...]] = ("trait",)


def lay_out(paths: TraitPaths, form: str) -> list[Path]:
    """Copy a form's templates into the trait's folder and return the new files.

    Raises:
        UserError: the folder exists.
    """
    if paths.dataset.exists():
        raise UserError(f"{paths.dataset} exists already; nothing was changed. Choose another name, or edit what is there")
    templates = sorted(template_dir(form).iterdir())
    for template in templates:
        write_bytes(paths.dataset / template.name, template.read_bytes())
    return [paths.dataset / template.name for template in templates]


def main(trait: str, form: str = "scenarios") -> None:
    """Lay out a trait and say what comes next."""
    for file in lay_out(TraitPaths("new", trait), form):
        print(file)
    print(f"\nReplace every [FILL IN …], then: python extraction/check_trait.py --trait {trait}")


if __name__ == "__main__":
    run_cli(main, option_flags(NewTraitOptions), inspect.getdoc(NewTraitOptions) or "")
