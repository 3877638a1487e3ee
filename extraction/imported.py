"""Vectors made elsewhere, beside those that stage 4 fitted: their metadata has an `origin`. They outlive a refit."""

from collections.abc import Iterable

from torch import Tensor

from utils.artifacts import load_tensor, read_json
from utils.errors import UserError
from utils.paths import TraitPaths

Key = tuple[str, int]  # method, layer


def imported_metadata(paths: TraitPaths) -> dict[Key, dict]:
    """Return {(method, layer): metadata} of the imported vectors."""
    found = [read_json(file) for file in sorted(paths.vectors.glob("*_metadata.json"))]
    return {(m["method"], m["layer"]): m for m in found if "origin" in m}


def imported_layers(paths: TraitPaths) -> dict[str, list[int]]:
    """Return {method: its layers, ascending} of the imported vectors."""
    keys = sorted(imported_metadata(paths))
    return {method: [layer for m, layer in keys if m == method] for method in dict.fromkeys(m for m, _ in keys)}


def origins(paths: TraitPaths, methods: Iterable[str]) -> dict:
    """Return {"imported": {method: origin}} of those methods that were not fitted here; nothing where all were."""
    found = {method: known["origin"] for (method, _), known in imported_metadata(paths).items() if method in methods}
    return {"imported": found} if found else {}


def read_imported(paths: TraitPaths, d_model: int) -> dict[Key, tuple[Tensor, dict]]:
    """Return {(method, layer): ([d_model], metadata)} of the imported vectors.

    Raises:
        UserError: one is of another width: the experiment's model has changed.
    """
    try:
        return {key: (load_tensor(paths.vector(*key), (d_model,)), known) for key, known in imported_metadata(paths).items()}
    except UserError as error:
        raise UserError(f"an imported vector does not fit the activations: {error}; delete it, or import it again") from None


def clear_fitted(paths: TraitPaths, keep: Iterable[Key]) -> None:
    """Delete what stage 4 left in a trait's vectors folder, but for the vectors to keep."""
    kept = {file(*key) for key in keep for file in (paths.vector, paths.vector_metadata)}
    for file in set(paths.vectors.glob("*")) - kept:
        file.unlink()
