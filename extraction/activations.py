"""Captured activations on disk, and the held-out split."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from extraction.responses import Response
from utils.artifacts import load_tensor, read_json
from utils.errors import UserError
from utils.paths import SIDES, TraitPaths

SPLITS = ("train", "val")
CHUNK_BYTES = 256 << 20  # of float32 activations that are fitted at a time


@dataclass(frozen=True)
class Captured:
    """The activations of a trait: row i of the tensor is rows[i] of the metadata."""

    activations: Tensor  # [n, n_layers, d_model]
    rows: list[dict]  # key, side, pair, group, split
    metadata: dict

    def select(self, side: str, split: str, keys: set[str], layers: Sequence[int]) -> Tensor:
        """Return [n, len(layers), d_model], float32, of one side and split ("train" or "val"); `keys` says which rows are usable."""
        chosen = [i for i, r in enumerate(self.rows) if r["side"] == side and r["split"] == split and r["key"] in keys]
        return self.activations[torch.tensor(chosen, dtype=torch.long)[:, None], torch.tensor(layers)].float()

    def chunks(self, layers: Sequence[int]) -> list[list[int]]:
        """Return the layers in groups of which one fits into memory at a time, however large the tensor is."""
        size = max(1, CHUNK_BYTES // (4 * len(self.rows) * self.activations.shape[2]))
        return [list(layers[i : i + size]) for i in range(0, len(layers), size)]


def read_captured(paths: TraitPaths) -> Captured:
    """Read what stage 3 wrote.

    Raises:
        UserError: a file is missing, damaged, or does not fit the other.
    """
    metadata = read_json(paths.activations_metadata)
    try:
        rows, shape, sha256, _ = metadata["rows"], tuple(metadata["shape"]), metadata["sha256"], metadata["responses_sha256"]
    except (TypeError, KeyError) as error:
        raise UserError(f"{paths.activations_metadata} lacks {error}; run 3_capture_activations with --force") from None
    return Captured(load_tensor(paths.activations, shape, sha256), rows, metadata)


def fitted_sides(captured: Captured, fitted_on: dict, layers: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """Return {(side, split): [n, len(layers), d_model]} of the responses that stage 4 fitted and measured its vectors on.

    Args:
        fitted_on: What fitted_on.json holds.

    Raises:
        UserError: it is of other activations, or does not say which responses were held out.
    """
    if fitted_on.get("activations_sha256") != captured.metadata["sha256"] or not set(SPLITS) <= fitted_on.keys():
        raise UserError("fitted_on.json is of other activations, or does not say which responses were held out; run 4_fit_vectors with --force")
    return {(side, split): captured.select(side, split, set(fitted_on[split]), layers) for side in SIDES for split in SPLITS}


def split_held_out(responses: Sequence[Response], share: float, seed: int) -> list[str]:
    """Return "train" or "val" per response: whole groups are held out, drawn at random (files are written in blocks of topics)."""
    groups = sorted({r.group for r in responses})
    held_out = set(random.Random(seed).sample(groups, round(share * len(groups))))
    return ["val" if r.group in held_out else "train" for r in responses]
