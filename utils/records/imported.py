"""Vectors that were made elsewhere or trained, beside those that stage 4 fitted: written, measured anew, kept when it
clears up.
"""

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import remove
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.records.trained import METHODS as TRAINED
from traitscope.utils.records.vectors import (
    Key,
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
        UserError: an imported one is damaged, or of another width: the experiment's model has changed. A trained one is
            then left out, and so is one that was trained on other responses or another split.
    """
    keys = [key for key in vector_keys(paths) if key[0] not in fitted]
    found: list = []
    for method in dict.fromkeys(method for method, _ in keys):
        try:
            vectors = _read_method(paths, [key for key in keys if key[0] == method])
            if method not in TRAINED or all(_is_of_these(paths, about) for about, _, _ in vectors):
                found += (
                    vectors  # one that was trained on other responses, or another split, is trained again
                )
        except UserError as error:
            if method in TRAINED:  # this one as well
                continue
            advice = "delete it, or import it again"
            raise UserError(f"an imported vector cannot be measured anew: {error}; {advice}") from None
    return found


def _is_of_these(paths: TraitPaths, about: VectorAbout) -> bool:
    """Tell whether a vector was trained beside the activations that are there, with their split."""
    return (about.origin or {}).get("activations") == digest(paths.activations_metadata)


def _read_method(paths: TraitPaths, keys: list[Key]) -> "list[tuple[VectorAbout, Tensor, dict]]":
    vectors = [read_vector(paths, key, on_these=False) for key in keys]
    require_whole_import(paths, [vector.about for vector in vectors])
    return [(v.about, v.tensor, read_json(paths.vector_metadata(*v.about.key))) for v in vectors]


def origins_of(paths: TraitPaths, methods: Iterable[str]) -> dict[str, dict]:
    """Return {method: origin} of those methods that were made elsewhere."""
    abouts = list_vectors(paths).values()
    return {
        about.method: about.origin for about in abouts if about.origin is not None and about.method in methods
    }


def clear_fitted(paths: TraitPaths, kept: Collection[Key]) -> None:
    """Delete what is in a trait's vectors folder but for the vectors that are kept: those made elsewhere."""
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
