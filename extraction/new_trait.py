"""Lay out the folder of a new trait, with guidance as comments.

For example:

    python extraction/new_trait.py behavioral/politeness
"""

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_bytes
from traitscope.utils.files.paths import TraitPaths, template_dir
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class NewTraitOptions:
    """Lay out a folder for a new trait: templates whose comments say what to write. An existing folder is
    never touched.
    """

    trait: str = flag(help="The new trait, as category/name.")
    form: Literal["scenarios", "instructions", "answers"] = flag(
        "scenarios",
        (
            "scenarios (unfinished prompts that the model continues), instructions (opposite system prompts "
            "that meet every question) or answers (both answers to a question are given)."
        ),
    )

    bare = "trait"  # may be given without its name


def new_trait(options: NewTraitOptions) -> None:
    """Lay out a trait and say what comes next."""
    for file in lay_out(TraitPaths("new", options.trait), options.form):
        print(file)
    print(f"\nReplace every [FILL IN …], then: python extraction/check_trait.py --traits {options.trait}")


def lay_out(paths: TraitPaths, form: str) -> list[Path]:
    """Copy a form's templates into the trait's folder and return the new files.

    Raises:
        UserError: the folder exists.
    """
    if paths.dataset.exists():
        raise UserError(
            f"{paths.dataset} exists already; nothing was changed. Choose another name, or edit what is there"
        )

    templates = sorted(template_dir(form).iterdir())
    for template in templates:
        write_bytes(paths.dataset / template.name, template.read_bytes())
    return [paths.dataset / template.name for template in templates]


if __name__ == "__main__":
    command(new_trait)
