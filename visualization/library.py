"""The server's one way to the artifacts: through the project's own readers, and never out of experiments/
and datasets/.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import ExperimentPaths, InferencePaths, TraitPaths, is_inside, root_dir

# what JSON of another shape, and a disk that does not give a file, do to its reader
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, OSError)


class NotThereError(UserError):
    """There is nothing by that name to show."""


class BusyError(UserError):
    """Too many ask for the same at once."""


@contextmanager
def readable(where: object, advice: str) -> Iterator[None]:
    """Raise UserError where a file has another shape than its reader expects.

    Args:
        where: The folder that the file lies in.
        advice: What makes it anew.
    """
    try:
        yield
    except MALFORMED as error:
        raise UserError(
            f"a file in {where} is not what its script writes ({first_line(error)}); {advice}"
        ) from None


def readable_trait(paths: TraitPaths) -> AbstractContextManager[None]:
    """Raise UserError where a file of a trait has another shape than its reader expects."""
    return readable(paths.dir, "run its stage again with --force")


@dataclass(frozen=True)
class Library:
    """The artifacts under one root, read only."""

    root: Path = field(default_factory=root_dir)

    def is_inside(self, path: Path) -> bool:
        """Tell whether a path, every link followed, lies in experiments/ or datasets/ and is not hidden
        there.
        """
        return is_inside(self.root, path)

    def experiments(self) -> list[str]:
        """Return the experiments' names, in order, those among them that cannot be read."""
        return sorted(name for name, folder in self._folders().items() if self.is_inside(folder))

    def experiment(self, name: str) -> ExperimentPaths:
        """Return an experiment's paths. Every route comes by here before it reads a config.json.

        Raises:
            NotThereError: there is no such experiment.
            UserError: it has a name that no command takes, or a link of its own leads out.
        """
        folder = self._folders().get(name)
        if folder is None or not self.is_inside(folder):
            raise NotThereError(f"there is no experiment {name!r}")
        if folder.name != name:
            raise UserError(f"the name of the experiment {name!r} is not UTF-8; rename its folder")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(f"{folder} may not be read")

        paths = ExperimentPaths(name, self.root)
        for below in (paths.dir / "extraction", paths.dir / "inference"):
            self.require_inside(below)
        self.require_file(paths.config)
        return paths

    def traits(self, paths: ExperimentPaths) -> list[str]:
        """Return the traits that have a completed stage, in order, those among them that cannot be read.

        Raises:
            UserError: a folder has a name that is no text.
        """
        with readable(paths.dir, "rename what is not UTF-8"):
            return paths.traits

    def trait(self, experiment: str, trait: str) -> TraitPaths:
        """Return a trait's paths in an experiment.

        Raises:
            NotThereError: no stage has completed for such a trait there.
            UserError: its name is none, a link among its files leads out, or one of them is no file.
        """
        paths = self.experiment(experiment)
        if trait not in self.traits(paths):
            raise NotThereError(f"{experiment!r} has no results for a trait {trait!r}")
        return self.trait_of(paths, trait)

    def trait_of(self, paths: ExperimentPaths, trait: str) -> TraitPaths:
        """Return the paths of one of an experiment's traits.

        Raises:
            UserError: its name is none, a link among its files leads out, or one of them is no file.
        """
        found = TraitPaths(paths.experiment, trait, self.root)
        for folder in (found.dir, found.steering, found.rollouts, found.dataset):
            self._check_folder(folder)
        return found

    def prompt_sets(self, experiment: str) -> list[str]:
        """Return the names of an experiment's captured prompt sets, in order, those among them that cannot
        be read.

        Raises:
            NotThereError: there is no such experiment.
        """
        indexes = (self.experiment(experiment).dir / "inference").glob("*/index.json")
        return sorted(as_text(index.parent.name) for index in indexes if self.is_inside(index))

    def prompt_set(self, experiment: str, name: str) -> InferencePaths:
        """Return the paths of a captured prompt set.

        Raises:
            NotThereError: it was not captured in that experiment.
            UserError: its name is none, a link among its files leads out, or one of them is no file.
        """
        if name not in self.prompt_sets(experiment):
            raise NotThereError(f"no prompt set {name!r} was captured in {experiment!r}")
        paths = InferencePaths(experiment, name, self.root)
        self._check_folder(paths.dir)
        return paths

    def _folders(self) -> dict[str, Path]:
        folder = self.root / "experiments"
        try:
            found = [folder / name for name in os.listdir(folder) if os.path.isdir(folder / name)]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror}") from None
        return {as_text(path.name): path for path in found}

    def _check_folder(self, folder: Path) -> None:
        """Raise UserError where anything below a folder is a link that leads out, or neither a file nor a
        folder: the pipeline's readers follow links.
        """
        self.require_inside(folder)
        to_do, seen = ([folder] if os.path.exists(folder) else []), set[Path]()
        while to_do:
            place = to_do.pop()
            if (real := place.resolve()) not in seen:  # links may lead in circles
                seen.add(real)
                to_do += self._folders_below(place)

    def _folders_below(self, folder: Path) -> list[Path]:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror}") from None

        for entry in entries:
            if entry.is_symlink():
                self.require_inside(Path(entry.path))
            if os.path.exists(entry.path) and not (os.path.isfile(entry.path) or os.path.isdir(entry.path)):
                raise UserError(f"{entry.path} is neither a file nor a folder; it is not shown")
        return [Path(entry.path) for entry in entries if os.path.isdir(entry.path)]

    def require_inside(self, path: Path) -> None:
        """Raise UserError for a file that a link leads out to."""
        if not self.is_inside(path):
            raise UserError(f"{path} is a link that leads out of experiments/ and datasets/; it is not shown")

    def require_file(self, path: Path) -> None:
        """Raise UserError for what lies outside, and for what is there and no file."""
        self.require_inside(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is no file; it is not shown")

    def relative(self, message: str) -> str:
        """Return a message in one line, with paths below the root: nobody needs to know where that is."""
        return as_text(" ".join(message.replace(f"{self.root}/", "").split()))


def as_text(name: str) -> str:
    """Return a text that JSON can carry: half a character, of a name that is no UTF-8, is spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()
