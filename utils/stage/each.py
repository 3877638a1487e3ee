"""Several traits, one after the other: one that fails does not stop the others."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths

Found = TypeVar("Found")


class Each:
    """Does something for every trait, and remembers what went wrong where."""

    def __init__(self, traits: Sequence[TraitPaths]) -> None:
        self.traits = traits
        self.problems: dict[str, str] = {}

    def do(self, work: Callable[[TraitPaths], Found]) -> list[Found]:
        """Return what came of every trait that went well."""
        found = []
        for paths in self.traits:
            try:
                found.append(work(paths))
            except UserError as error:
                self.problems[paths.trait] = str(error)
        return found

    def finish(self) -> None:
        """Raise UserError, with a line per trait, when any went wrong."""
        if self.problems:
            lines = [f"  {trait}: {message}" for trait, message in self.problems.items()]
            raise UserError("\n".join([f"{len(lines)} of {len(self.traits)} traits failed", *lines]))
