"""Captured activations on disk, and which of them vectors were fitted and measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import CAPTURE, FIT, SIDES, TraitPaths
from traitscope.utils.files.tensors import load_tensor, save_tensor
from traitscope.utils.records.shaped import Shaped, read_shaped, require_distinct, require_own

if TYPE_CHECKING:  # a laptop without torch reads what is known of activations too
    from torch import Tensor

SPLITS = ("train", "val")  # what is fitted and measured on
CHUNK_BYTES = 256 << 20  # of float32 activations that are fitted at a time


class CapturedRow(Shaped):
    """Which response a row of the activations is of."""

    key: str
    side: Literal["pos", "neg"]
    pair: int = -1
    group: int = -1
    split: Literal["train", "val", "aside"]  # aside: neither fitted nor measured on

    @model_validator(mode="after")
    def _is_of_its_side(self) -> Self:
        assert self.key.startswith(f"{self.side}:"), f"{self.key} is not of the {self.side} side"
        return self


class ActivationsAbout(Shaped):
    """What is known of a trait's activations: the columns of activations/metadata.json."""

    trait: str = ""
    made_by: dict[str, Any] = {}
    responses_sha256: dict[str, str | None] = {}
    component: str = "residual"
    position: str = ""
    shape: tuple[int, int, int]  # responses, layers, d_model
    dtype: str = "float32"
    sha256: str = ""
    mean_norms: list[float]  # per layer, mean ‖h‖ of the pooled tokens
    rows: list[CapturedRow] = []

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        assert isinstance(self.made_by.get("model") or {}, dict), "made_by.model is no identity of a model"
        assert len(self.mean_norms) == self.shape[1], "mean_norms has not one number a layer"
        assert len(self.rows) in (0, self.shape[0]), "there are not as many rows as responses"
        return self


@dataclass(frozen=True)
class Captured:
    """The activations of a trait: row i of the tensor is rows[i] of the metadata."""

    activations: "Tensor"  # [n, n_layers, d_model]
    about: ActivationsAbout

    @property
    def rows(self) -> list[CapturedRow]:
        """What each row is of."""
        return self.about.rows

    def select(self, side: str, split: str, keys: set[str], layers: Sequence[int]) -> "Tensor":
        """Return [n, len(layers), d_model], float32, of one side and split ("train" or "val"); `keys`
        says which rows are usable.
        """
        import torch

        chosen = [i for i, r in enumerate(self.rows) if r.side == side and r.split == split and r.key in keys]
        return self.activations[torch.tensor(chosen, dtype=torch.long)[:, None], torch.tensor(layers)].float()

    def chunks(self, layers: Sequence[int]) -> list[list[int]]:
        """Return the layers in groups of which one fits into memory at a time, however large the tensor
        is.
        """
        size = max(1, CHUNK_BYTES // (4 * len(self.rows) * self.activations.shape[2]))
        return [list(layers[i : i + size]) for i in range(0, len(layers), size)]


def as_stored(activations: "Tensor", model_dtype: str) -> "Tensor":
    """Return what is written: float32, or float16 where the model ran in 16 bits and every value fits
    (some models' residuals overflow).
    """
    if model_dtype == "float32":
        return activations
    half = activations.half()
    return half if half.isfinite().all() else activations


def write_captured(paths: TraitPaths, activations: "Tensor", about: dict) -> None:
    """Write activations [n, n_layers, d_model], then what is known of them.

    Args:
        about: The columns of `ActivationsAbout` but for shape, dtype and sha256; the model's dtype decides in
            what they are stored.
    """
    stored = as_stored(activations, about["made_by"]["model"]["dtype"])
    tensor = {
        "shape": list(stored.shape),
        "dtype": str(stored.dtype).removeprefix("torch."),
        "sha256": save_tensor(paths.activations, stored),
    }
    first = ("made_by", "responses_sha256", "component", "position")
    head = {"trait": paths.trait} | {name: about[name] for name in first}
    write_json(paths.activations_metadata, head | tensor | about)


def read_activations_about(paths: TraitPaths) -> ActivationsAbout:
    """Read what is known of a trait's activations, without them.

    Raises:
        UserError: the file is missing, not what stage 3 writes, or of another trait.
    """
    about = read_shaped(paths.activations_metadata, ActivationsAbout)
    require_own(paths.activations_metadata, trait=(about.trait, paths.trait))
    require_distinct(paths.activations_metadata, [row.key for row in about.rows], "response")
    return about


def read_captured(paths: TraitPaths) -> Captured:
    """Read what stage 3 wrote.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    about = read_activations_about(paths)
    absent = {"rows", "sha256", "responses_sha256"} - about.model_fields_set
    if absent:
        raise UserError(f"{paths.activations_metadata} lacks {min(absent)!r}; run {CAPTURE} with --force")
    tensor = load_tensor(paths.activations, about.shape, about.sha256, (about.dtype,))
    return Captured(tensor, about)


class FittedOn(Shaped):
    """Which responses, of which activations, stage 4 fitted and measured its vectors on: the columns of
    vectors/fitted_on.json.
    """

    trait: str = ""
    activations_sha256: str
    train: list[str]  # keys of responses
    val: list[str]
    vectors: dict[str, str] = {}  # file name → sha256, of every vector that was fitted
    candidates: float | None = None  # independent vectors that those amount to, the random ones left out

    def keys(self, split: str) -> set[str]:
        """Return the responses of "train" or "val"."""
        return set(self.train if split == "train" else self.val)


def write_fitted_on(paths: TraitPaths, fitted_on: FittedOn) -> None:
    """Write which responses, of which activations, stage 4 fitted and measured its vectors on."""
    write_json(paths.fitted_on, fitted_on.model_dump())


def read_fitted_on(paths: TraitPaths) -> FittedOn:
    """Return which responses, of which activations, stage 4 fitted and measured its vectors on.

    Raises:
        UserError: the file is missing, not what stage 4 writes, or of another trait.
    """
    found = read_shaped(paths.fitted_on, FittedOn)
    require_own(paths.fitted_on, trait=(found.trait, paths.trait))
    require_distinct(paths.fitted_on, [*found.train, *found.val], "response")
    return found


def is_of(captured: Captured, fitted_on: FittedOn) -> bool:
    """Tell whether vectors were fitted on just these activations, held out as they say."""
    held_out = {row.key: row.split for row in captured.rows}
    return fitted_on.activations_sha256 == captured.about.sha256 and all(
        held_out.get(key) == split for split in SPLITS for key in fitted_on.keys(split)
    )


def fitted_sides(
    captured: Captured, fitted_on: FittedOn, layers: Sequence[int]
) -> "dict[tuple[str, str], Tensor]":
    """Return {(side, split): [n, len(layers), d_model]} of the responses that stage 4 fitted and measured
    its vectors on.

    Args:
        fitted_on: What fitted_on.json holds.

    Raises:
        UserError: it is of other activations, or does not say which responses were held out.
    """
    if not is_of(captured, fitted_on):
        why = "fitted_on.json is of other activations, or of another split into fitted and held out"
        raise UserError(f"{why}; run {FIT} with --force")
    return {
        (side, split): captured.select(side, split, fitted_on.keys(split), layers)
        for side in SIDES
        for split in SPLITS
    }
