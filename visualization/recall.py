"""What a captured prompt set holds, read through inference's own loaders; what takes long is kept as long
as its files stay as they are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.records.comparisons import Comparison, read_comparison
from traitscope.utils.records.readings import mean_projections, read_projected, read_record, recorded_prompts
from traitscope.visualization.library import MALFORMED

Found = TypeVar("Found")
Means = tuple[dict[str, dict], dict[str, dict[str, float]]]


@contextmanager
def readable(paths: InferencePaths) -> Iterator[None]:
    """Raise UserError where a file of a prompt set has another shape than its loader expects."""
    try:
        yield
    except MALFORMED as error:
        raise UserError(
            f"a file in {paths.dir} is not what its script writes ({first_line(error)}); capture "
            f"{paths.prompt_set} again with --force"
        ) from None


def _while_unchanged(
    folders: Callable[[InferencePaths], tuple[Path, ...]],
) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Keep the last results of a function of a prompt set until a file in one of the folders, or one of
    these files, has changed.
    """

    def keep(function: Callable[..., Found]) -> Callable[..., Found]:
        @lru_cache(maxsize=4)
        def kept(paths: InferencePaths, _: int, *arguments: Any) -> Found:
            with readable(paths):
                return function(paths, *arguments)

        @wraps(function)
        def call(paths: InferencePaths, *arguments: Any) -> Found:
            return kept(paths, _signature(folders(paths)), *arguments)

        return call

    return keep


def _signature(places: tuple[Path, ...]) -> int:
    files = [
        file
        for place in places
        for file in (sorted(place.iterdir()) if place.is_dir() else [place])
        if file.exists()
    ]
    return hash(tuple((file.name, (about := file.stat()).st_mtime_ns, about.st_size) for file in files))


@_while_unchanged(lambda paths: (paths.index, paths.response("_").parent))
def read_prompts(paths: InferencePaths) -> list[dict[str, Any]]:
    """Return every recorded prompt as the picker shows it: id, prompt, response, its fields; without its
    tokens.

    Raises:
        UserError: a response is damaged.
    """
    records = [read_record(paths, name) for name in recorded_prompts(paths)]
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
