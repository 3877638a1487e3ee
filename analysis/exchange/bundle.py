"""What travels: the vectors of one trait and method, and what is checked of a file before its vectors are
believed.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from traitscope.utils.errors import UserError
from traitscope.utils.files.reading import open_file, read_bytes

SAID = 200  # characters kept of what a file says of itself


@dataclass(frozen=True)
class Shape:
    """The model that vectors are for."""

    n_layers: int
    d_model: int

    @property
    def largest_file(self) -> int:
        """Bytes that no honest file of vectors exceeds: every layer and the embeddings in float64, twice,
        and a megabyte of header.
        """
        return 16 * (self.n_layers + 1) * self.d_model + 2**20


@dataclass(frozen=True)
class Bundle:
    """Vectors on their way out."""

    vectors: Mapping[int, Tensor]  # layer → [d_model], float32
    shape: Shape
    model_type: str  # transformers' name of the architecture, such as llama
    facts: dict  # what the card says


@dataclass(frozen=True)
class Found:
    """What a file holds, before anything is checked."""

    vectors: dict[int, Tensor]
    said: dict[str, str] = field(default_factory=dict)  # what the file says of itself: model, made_by, …


def read_bounded(path: Path, shape: Shape) -> bytes:
    """Return a file's bytes, if it is not larger than vectors of such a model can be.

    Raises:
        UserError: there is no such file, or it is too large.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise UserError(f"{path} is no file") from None
    if size > shape.largest_file:
        raise UserError(
            f"{path}: {size} bytes, and vectors of {shape.n_layers} layers of width {shape.d_model} take "
            "less: it is something else"
        )

    return read_bytes(path, shape.largest_file)


def check_vectors(found: Mapping[int, Tensor], shape: Shape) -> dict[int, Tensor]:
    """Return {layer: [d_model]} in float32, ascending, of vectors that can be steered with.

    Raises:
        UserError: there is none, or one is of another shape or type, at a layer that the model does not have,
            zero or not finite.
    """
    if not found:
        raise UserError("no vector in it")

    for layer, vector in found.items():
        if not 0 <= layer < shape.n_layers:
            raise UserError(f"a vector for layer {layer}; the model has layers 0 to {shape.n_layers - 1}")
        if tuple(vector.shape) != (shape.d_model,):
            raise UserError(
                f"layer {layer} has shape {tuple(vector.shape)}; the model's vectors are ({shape.d_model},)"
            )
        if not vector.is_floating_point() or vector.layout != torch.strided or vector.device.type != "cpu":
            raise UserError(
                f"layer {layer} holds {vector.dtype} ({vector.layout}); vectors are ordinary floating-point "
                "tensors"
            )

    checked = {layer: found[layer].detach().float().clone() for layer in sorted(found)}

    for layer, vector in checked.items():
        if not torch.isfinite(vector).all():
            raise UserError(f"layer {layer} holds NaN or infinite values")
        if not vector.any():
            raise UserError(f"layer {layer} is zero")

    return checked


@dataclass(frozen=True)
class Foreign:
    """A file's vectors, checked."""

    vectors: dict[int, Tensor]  # layer → [d_model], float32
    said: dict[str, str]
    sha256: str
