"""What a captured prompt set holds, read through inference's own loaders; what takes long is kept as long
as its files stay as they are.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.records.comparisons import Comparison, read_comparison
from traitscope.utils.records.readings import mean_projections, read_projected
from traitscope.utils.records.recorded import read_records
from traitscope.visualization.library import readable

Found = TypeVar("Found")
Means = tuple[dict[str, dict], dict[str, dict[str, float]]]


def readable_set(paths: InferencePaths) -> AbstractContextManager[None]:
    """Raise UserError where a file of a prompt set has another shape than its loader expects."""
    return readable(paths.dir, f"capture {paths.prompt_set} again with --force")


def _while_unchanged(
    folders: Callable[[InferencePaths], tuple[Path, ...]],
) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Keep the last results of a function of a prompt set until a file in one of the folders, or one of
    these files, has changed.
    """

    def keep(function: Callable[..., Found]) -> Callable[..., Found]:
        @lru_cache(maxsize=4)
        def kept(paths: InferencePaths, _: int, *arguments: Any) -> Found:
            with readable_set(paths):
                return function(paths, *arguments)

        @wraps(function)
        def call(paths: InferencePaths, *arguments: Any) -> Found:
            return kept(paths, _signature(folders(paths)), *arguments)

        return call

    return keep


def _signature(places: tuple[Path, ...]) -> int:
    files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
    return hash(tuple((file.name, *_state(file)) for file in files))


def _state(file: Path) -> tuple[int, int]:
    try:
        about = file.stat()
    except OSError:  # written anew just now, or a link to nothing
        return 0, 0
    return about.st_mtime_ns, about.st_size


@_while_unchanged(lambda paths: (paths.index, paths.response("_").parent))
def read_prompts(paths: InferencePaths) -> list[dict[str, Any]]:
    """Return every recorded prompt as the picker shows it: id, prompt, response, its fields; without its
    tokens.

    Raises:
        UserError: a response is damaged.
    """
    records = read_records(paths)
    names = ("id", "prompt", "response", "is_finished", "metadata")
    return [
        {name: getattr(record, name) for name in names} | {"n_tokens": len(record.ids)} for record in records
    ]


@_while_unchanged(lambda paths: (paths.index, paths.response("_").parent, paths.projections("_").parent))
def read_means(paths: InferencePaths, over: str, scale: str) -> Means:
    """Return every vector's origin, and its mean projection per prompt.

    Raises:
        UserError: a file is damaged, or prompts were projected on different fits of a vector.
    """
    return mean_projections(read_projected(paths), over, scale)


@_while_unchanged(lambda paths: (paths.comparison("_").parent,))
def recall_comparison(paths: InferencePaths, other: str) -> Comparison:
    """Return what compare_models found between this experiment's model and another's.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_comparison(paths, other)
