"""Trait vectors on disk: read, written, listed, ranked, matched with a model, turned into a push; nowhere
else.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import model_validator

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import FIT, ExperimentPaths, TraitPaths, is_trait
from traitscope.utils.files.reading import digest, is_there
from traitscope.utils.files.tensors import read_vector_file, require_file, save_tensor
from traitscope.utils.records.activations import read_activations_about, read_fitted_on
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own
from traitscope.utils.records.verdict import read_verdict

if TYPE_CHECKING:  # a laptop without torch reads vectors too
    from torch import Tensor

    from traitscope.utils.model.hooks import Push
    from traitscope.utils.model.loading import LM

Key = tuple[str, int]  # method, layer
RANDOM = "random"  # the method whose vectors are a null for steering, and never ranked
_FILE = re.compile(r"(.+)_layer(\d+)_metadata")


class Separation(Shaped):
    """How well a vector separates two groups of projections, with 95 % intervals."""

    accuracy: float | None = None  # at the vector's centre
    auroc: float
    auroc_low: float | None = None
    auroc_high: float | None = None
    cohens_d: float
    cohens_d_low: float | None = None
    cohens_d_high: float | None = None
    n_pos: int
    n_neg: int


class VectorAbout(Shaped):
    """What is known of one vector: the columns of vectors/{method}_layer{N}_metadata.json."""

    trait: str
    method: str
    layer: int
    made_by: dict[str, Any]  # stage, and the identity of the model that was read
    component: str
    position: str | None  # the tokens that were averaged over; None where a file from elsewhere does not say
    norm: float  # ‖v‖: how far apart the sides' means lie along it, in units of the activations
    centre: float  # midpoint of the two sides' mean projections on the unit vector
    train: Separation | None
    val: Separation | None  # on responses that were held out
    sha256: str = ""  # of the file with the values
    activations_sha256: str = ""  # of the activations that it was fitted or measured on
    origin: dict[str, Any] | None = None  # of one that was made elsewhere

    @model_validator(mode="after")
    def _says_what_made_it(self) -> Self:
        assert isinstance(self.made_by.get("model") or {}, dict), "made_by.model is no identity of a model"
        return self

    @property
    def key(self) -> Key:
        return self.method, self.layer

    @property
    def rank(self) -> tuple[float, float]:
        """By what vectors are ranked: held-out AUROC, then Cohen's d. A null, and what was not measured,
        come last.
        """
        if self.val is None or self.method == RANDOM:
            return -1.0, 0.0
        return self.val.auroc, self.val.cohens_d


@dataclass(frozen=True)
class Vector:
    """A vector with all that is known of it, frozen: nothing that uses it may change it."""

    experiment: str
    about: VectorAbout
    values: np.ndarray  # [d_model], float32
    n_layers: int | None  # of the model it was fitted on, where its activations' metadata is there
    measured: Callable[[], float | None]  # what `mean_norm` asks, once
    sha256: str
    why: str  # why this method and layer

    @property
    def trait(self) -> str:
        return self.about.trait

    @property
    def method(self) -> str:
        return self.about.method

    @property
    def layer(self) -> int:
        return self.about.layer

    @cached_property
    def tensor(self) -> "Tensor":
        """The values as a tensor [d_model], float32."""
        import torch

        return torch.tensor(self.values)

    @cached_property
    def mean_norm(self) -> float | None:
        """The mean residual norm at the layer, the unit of a dose; None where nothing measured it."""
        return self.measured()

    @cached_property
    def unit(self) -> "Tensor":
        """The direction, [d_model], of length 1."""
        return self.tensor / self.tensor.norm()

    @property
    def origin(self) -> dict:
        """What an artifact says about the vector that it used."""
        own = {"experiment": self.experiment, "trait": self.trait, "method": self.method, "layer": self.layer}
        about = {name: getattr(self.about, name) for name in ("centre", "component", "position")}
        return own | about | {"sha256": self.sha256, "why": self.why, "norm": self.about.norm}

    def push(self, dose: float) -> "Push":
        """Return what adds the vector at a dose.

        Raises:
            UserError: the residual norm at its layer is not known.
        """
        from traitscope.utils.model.hooks import Push

        if self.mean_norm is None:
            lacks = "the residual norm at its layer is not known (its activations' metadata is missing)"
            raise UserError(f"{self.trait}: {lacks}; it can only be watched")
        return Push(self.layer, self.tensor, coefficient_of(dose, self.mean_norm, float(self.tensor.norm())))

    def require_fit(self, lm: "LM") -> str | None:
        """Refuse a model that the vector does not belong on.

        Returns:
            A note where the model is not the one that it was fitted on, but a sibling of it: same architecture and shape.

        Raises:
            UserError: another width, depth or architecture, or 4-bit weights on one side only (they are known
                to break directions).
        """
        who = f"the {self.trait} vector of {self.experiment}"
        here = lm.identity
        fitted = self.about.made_by.get("model") or {}
        mismatches = {
            "width": (len(self.values), lm.d_model),
            "layers": (self.n_layers or lm.n_layers, lm.n_layers),
            "architecture": (fitted.get("architecture"), here["architecture"]),
            "4-bit weights": (fitted.get("quantization") == "int4", here["quantization"] == "int4"),
        }
        for what, (theirs, ours) in mismatches.items():
            if theirs != ours:
                advice = "use vectors that were fitted on this model or a sibling"
                raise UserError(
                    f"{who} does not fit {here['name']}: {what} {theirs} against {ours}; {advice}"
                )
        if self.layer >= lm.n_layers:
            raise UserError(
                f"{who} is for layer {self.layer}; {here['name']} has layers 0 to {lm.n_layers - 1}"
            )

        known = {
            name: (fitted.get(name), here.get(name))
            for name in ("identity", "dtype", "quantization", "chat_template")
        }
        differs = [
            f"{name} {theirs} → {ours}"
            for name, (theirs, ours) in known.items()
            if theirs is not None and theirs != ours
        ]
        if not differs:
            return None
        return (
            f"note: {who} was fitted on {fitted.get('name')}, used on {here['name']} ({', '.join(differs)})"
        )


def coefficient_of(dose: float, mean_norm: float, length: float) -> float:
    """Return the factor on a vector as saved, c = dose · mean ‖h‖ / ‖v‖, that moves the residual stream
    by a share of its norm.

    Args:
        mean_norm: Of the layer, in the model that is steered, over the response tokens of its unsteered
            answers.
        length: ‖v‖.
    """
    return dose * mean_norm / length


def dose_of(coefficient: float, mean_norm: float, length: float) -> float:
    """Return the dose that a coefficient is: the inverse of `coefficient_of`."""
    return coefficient * length / mean_norm


def write_vector(paths: TraitPaths, key: Key, vector: "Tensor", about: dict) -> VectorAbout:
    """Write a vector [d_model] with what is known of it.

    Args:
        about: The columns of `VectorAbout` but for trait, method, layer and sha256.
    """
    method, layer = key
    sha256 = save_tensor(paths.vector(method, layer), vector)
    names = {"trait": paths.trait, "method": method, "layer": layer}
    return write_about(paths, key, names | about | {"sha256": sha256})


def write_about(paths: TraitPaths, key: Key, about: dict) -> VectorAbout:
    """Write what is known of a vector whose values stay as they are."""
    checked = VectorAbout.model_validate(about)
    write_json(paths.vector_metadata(*key), about)
    return checked


def list_vectors(paths: TraitPaths) -> dict[Key, VectorAbout]:
    """Return every vector of a trait by method and layer, its values unread.

    Raises:
        UserError: a file is not what it should be, or an import was interrupted.
    """
    found = {key: read_about(paths, key) for key in vector_keys(paths)}
    for method in {method for method, _ in found}:
        require_whole_import(paths, [about for about in found.values() if about.method == method])
    _require_fitted(paths, list(found.values()), are_all=True)
    return found


def _require_fitted(paths: TraitPaths, abouts: "list[VectorAbout]", *, are_all: bool = False) -> None:
    """Refuse fitted vectors that are not those which stage 4 named at its end: of a killed run, or another fit.

    Args:
        are_all: They are all that there are, so that none may lack either.
    """
    # an older vector does not say what it was fitted on, and an import has a check of its own
    fitted = {paths.vector(*a.key).name: a.sha256 for a in abouts if a.activations_sha256 and not a.origin}
    if not fitted:
        return
    known = read_fitted_on(paths).vectors if is_there(paths.fitted_on) else {}
    if (fitted != known) if are_all else not fitted.items() <= known.items():
        raise UserError(
            f"{paths.trait}: the vectors are not those that {FIT} left when it ended; run it again"
        )


def vector_keys(paths: TraitPaths) -> list[Key]:
    """Return method and layer of every vector of a trait by the names of its files, which stay unread."""
    matches = [_FILE.fullmatch(file.stem) for file in sorted(paths.vectors.glob("*_metadata.json"))]
    return [(match[1], int(match[2])) for match in matches if match]


def require_whole_import(paths: TraitPaths, abouts: "list[VectorAbout]") -> None:
    """Raise UserError where an import of a method's vectors did not come to its end."""
    origins = [about.origin or {} for about in abouts]
    layers = sorted(about.layer for about in abouts)
    if len({origin.get("sha256") for origin in origins}) > 1 or any(
        origin.get("layers", layers) != layers for origin in origins
    ):
        raise UserError(
            f"{paths.trait}: an import of {abouts[0].method} was interrupted, or a file of it is gone; import it again"
        )


def read_about(paths: TraitPaths, key: Key) -> VectorAbout:
    """Read what is known of one vector.

    Raises:
        UserError: the file is missing, not what a fit or an import writes, or of another vector.
    """
    file = paths.vector_metadata(*key)
    about = read_shaped(file, VectorAbout)
    require_own(file, trait=(about.trait, paths.trait), method=(about.method, key[0]))
    if about.layer != key[1]:
        raise UserError(f"{file} is of layer {about.layer}; run its stage again with --force")
    return about


def list_traits(paths: ExperimentPaths) -> list[str]:
    """Return every trait of an experiment that has vectors."""
    base = paths.dir / "extraction"
    names = {file.parents[1].relative_to(base).as_posix() for file in base.rglob("vectors/*_metadata.json")}
    return sorted(filter(is_trait, names))


def read_vector(
    paths: TraitPaths,
    key: Key,
    why: str = "asked for",
    steered: TraitPaths | None = None,
    *,
    on_these: bool = True,
) -> Vector:
    """Read one vector and what is known of it.

    Args:
        steered: Where the model that it will be used on was steered, whose residual norms then are the unit
            of a dose; by default here.
        on_these: Refuse a vector that was fitted or measured on other activations than those beside it.

    Raises:
        UserError: a file is missing or damaged, the vector is zero, or does not say what it is.
    """
    file = paths.vector(*key)
    require_file(file)
    about, sha256 = read_about(paths, key), str(digest(file))
    values = _read_values(file, about, sha256)

    captured = read_activations_about(paths) if is_there(paths.activations_metadata) else None
    if captured and len(values) != captured.shape[2]:
        raise UserError(
            f"{file} is of width {len(values)}; the activations beside it are of width {captured.shape[2]}"
        )

    _require_fitted(paths, [about])
    if captured and on_these and about.activations_sha256 not in ("", captured.sha256):
        raise UserError(f"{file} was fitted on other activations than those that are there; run {FIT}")

    def measured() -> float | None:
        norms = mean_norms(paths, steered or paths)
        return norms[key[1]] if norms and key[1] < len(norms) else None

    n_layers = captured.shape[1] if captured else None
    return Vector(paths.experiment, about, values, n_layers, measured, sha256, why)


def _read_values(file: Path, about: VectorAbout, sha256: str) -> np.ndarray:
    """Return a vector's values; the file is opened only when it is the one that its metadata describes."""
    other = f"{file} is not the vector that its metadata describes; run its stage again with --force"
    if about.sha256 not in ("", sha256):
        raise UserError(other)

    values = read_vector_file(file)
    if not values.any():
        raise UserError(f"{file} holds a zero vector, which has no direction")
    if not np.isclose(np.linalg.norm(values), about.norm, rtol=1e-3, atol=1e-6):
        raise UserError(other)  # of an older fit, whose metadata name no digest
    return values


def mean_norms(paths: TraitPaths, steered: TraitPaths) -> list[float] | None:
    """Return the unit of a dose: the mean residual norm per layer over response tokens, as it was measured.

    Stage 5 measured it on the steered model's unsteered answers. Before that, the captured responses stand in
    for them: the same measure on other texts, a few percent apart.
    """
    if (found := read_verdict(steered)) and found.vectors_from == paths.experiment:
        return found.residual_norms
    if is_there(paths.activations_metadata):
        return read_activations_about(paths).mean_norms
    return None
