"""Vectors that were made elsewhere, beside those that stage 4 fitted: written, measured anew, kept when it clears up."""

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import remove
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import read_json
from traitscope.utils.records.vectors import (
    VectorAbout,
    list_vectors,
    read_vector,
    require_whole_import,
    vector_keys,
    write_vector,
)

if TYPE_CHECKING:
    from torch import Tensor


def imported_layers(paths: TraitPaths) -> dict[str, list[int]]:
    """Return {method: its layers, ascending} of the vectors that were made elsewhere."""
    keys = sorted(key for key, about in list_vectors(paths).items() if about.origin is not None)
    return {
        method: [layer for m, layer in keys if m == method] for method in dict.fromkeys(m for m, _ in keys)
    }


def read_imported(paths: TraitPaths, fitted: Collection[str]) -> list[tuple[VectorAbout, "Tensor", dict]]:
    """Return every vector that was made elsewhere, with all that its metadata says.

    Args:
        fitted: The methods that are fitted here: whatever lies under these names is about to be replaced, and need
            not be readable.

    Raises:
        UserError: one is damaged, or of another width: the experiment's model has changed.
    """
    keys = [key for key in vector_keys(paths) if key[0] not in fitted]
    try:
        vectors = [read_vector(paths, key, on_these=False) for key in keys]
        for method in {method for method, _ in keys}:
            require_whole_import(paths, [v.about for v in vectors if v.method == method])
        return [(v.about, v.tensor, read_json(paths.vector_metadata(*v.about.key))) for v in vectors]
    except UserError as error:
        advice = "delete it, or import it again"
        raise UserError(f"an imported vector cannot be measured anew: {error}; {advice}") from None


def origins_of(paths: TraitPaths, methods: Iterable[str]) -> dict[str, dict]:
    """Return {method: origin} of those methods that were made elsewhere."""
    abouts = list_vectors(paths).values()
    return {
        about.method: about.origin for about in abouts if about.origin is not None and about.method in methods
    }


def clear_fitted(paths: TraitPaths, fitted: Collection[str]) -> None:
    """Delete what stage 4 left in a trait's vectors folder; what was made elsewhere stays.

    Args:
        fitted: The methods that are fitted here.
    """
    kept = [key for key in vector_keys(paths) if key[0] not in fitted]
    files = {file(*key) for key in kept for file in (paths.vector, paths.vector_metadata)}
    for file in set(paths.vectors.glob("*")) - files:
        remove(file)


def write_imported(paths: TraitPaths, method: str, vectors: "dict[int, tuple[Tensor, dict]]") -> None:
    """Write a method's vectors, {layer: (vector, about)}, in place of those of an earlier import.

    The new ones are written before the old ones of other layers go. All say which layers the import has, so that
    what a kill leaves is refused until the import is run again.

    Args:
        vectors: The columns of `VectorAbout` beside each, its origin among them.
    """
    layers = sorted(vectors)
    for layer, (vector, about) in vectors.items():
        origin = about["origin"] | {"layers": layers}
        write_vector(paths, (method, layer), vector, about | {"origin": origin})

    for file in paths.vectors.glob(f"{method}_layer*"):
        match = re.fullmatch(rf"{re.escape(method)}_layer(\d+)(_metadata\.json|\.pt)", file.name)
        if match and int(match[1]) not in layers:
            file.unlink()
