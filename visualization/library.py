"""The server's one way to the artifacts: through the project's own readers, and never out of experiments/
and datasets/.
"""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import ExperimentPaths, InferencePaths, TraitPaths, root_dir

# what JSON of another shape does to its reader
MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


class NotThereError(UserError):
    """There is nothing by that name to show."""


class BusyError(UserError):
    """Too many ask for the same at once."""


@dataclass(frozen=True)
class Library:
    """The artifacts under one root, read only."""

    root: Path = field(default_factory=root_dir)

    @cached_property
    def _bases(self) -> list[Path]:
        # either may itself be a link to another disk
        return [(self.root / name).resolve() for name in ("experiments", "datasets")]

    def is_inside(self, path: Path) -> bool:
        """Tell whether a path, every link followed, lies in experiments/ or datasets/ and is not hidden
        there.
        """
        real = path.resolve()
        base = next((base for base in self._bases if real.is_relative_to(base)), None)
        return base is not None and not any(part.startswith(".") for part in real.relative_to(base).parts)

    def experiments(self) -> list[str]:
        """Return the experiments' names, in order."""
        folder = self.root / "experiments"
        found = (
            [path.name for path in folder.iterdir() if path.is_dir() and self.is_inside(path)]
            if folder.is_dir()
            else []
        )
        return sorted(found)

    def experiment(self, name: str) -> ExperimentPaths:
        """Return an experiment's paths.

        Raises:
            NotThereError: there is no such experiment.
        """
        if name not in self.experiments():
            raise NotThereError(f"there is no experiment {name!r}")
        return ExperimentPaths(name, self.root)

    def trait(self, experiment: str, trait: str) -> TraitPaths:
        """Return a trait's paths in an experiment.

        Raises:
            NotThereError: no stage has completed for such a trait there.
            UserError: a link among its files leads out of the experiments.
        """
        if trait not in self.experiment(experiment).traits:
            raise NotThereError(f"{experiment!r} has no results for a trait {trait!r}")
        paths = TraitPaths(experiment, trait, self.root)
        self.check_links(paths)
        return paths

    def check_links(self, paths: TraitPaths) -> None:
        """Raise UserError when a link among a trait's files leads out: the pipeline's loaders, which
        follow links, may then not be used.
        """
        self._check_folders(paths.dir, paths.steering, paths.dataset)

    def prompt_sets(self, experiment: str) -> list[str]:
        """Return the names of an experiment's captured prompt sets, in order.

        Raises:
            NotThereError: there is no such experiment.
        """
        indexes = (self.experiment(experiment).dir / "inference").glob("*/index.json")
        return sorted(index.parent.name for index in indexes if self.is_inside(index))

    def prompt_set(self, experiment: str, name: str) -> InferencePaths:
        """Return the paths of a captured prompt set.

        Raises:
            NotThereError: it was not captured in that experiment.
            UserError: a link among its files leads out of the experiments.
        """
        if name not in self.prompt_sets(experiment):
            raise NotThereError(f"no prompt set {name!r} was captured in {experiment!r}")
        paths = InferencePaths(experiment, name, self.root)
        self._check_folders(paths.dir)
        return paths

    def _check_folders(self, *folders: Path) -> None:
        for folder in folders:
            below = (
                os.path.join(place, name)
                for place, folders, files in os.walk(folder)
                for name in (*folders, *files)
            )
            if any(
                not self.is_inside(path)
                for path in (folder, *(Path(name) for name in below if os.path.islink(name)))
            ):
                raise UserError(
                    f"{folder} holds a link that leads out of experiments/ and datasets/; it is not shown"
                )

    def require_inside(self, path: Path) -> None:
        """Raise UserError for a file that a link leads out to."""
        if not self.is_inside(path):
            raise UserError(f"{path} is a link that leads out of experiments/ and datasets/; it is not shown")

    def relative(self, message: str) -> str:
        """Return a message with paths below the root: where the root is, is nobody's business."""
        return message.replace(f"{self.root}/", "")
