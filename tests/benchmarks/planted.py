"""Activations with a planted direction in every layer: in memory, or as the experiment that stage 4 reads."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import TraitPaths

TRAIT = "planted/direction"


@dataclass(frozen=True)
class Case:
    """Both sides' activations, [n / 2, n_layers, d_model] each."""

    pos: Tensor
    neg: Tensor


def plant(shape: tuple[int, int, int], seed: int = 0) -> Case:
    """Return activations: noise of falling variance that grows with depth, a direction that tells the
    sides apart, and what ica looks for.

    That is ten uniform components in random directions. In noise alone there is no answer to compare: ica's
    iteration wanders until it is stopped.
    """
    n, n_layers, d_model = shape
    generator = torch.Generator().manual_seed(seed)
    acts = torch.empty(shape)
    for layer in range(n_layers):  # layer by layer: the largest case is 2.6 GB
        scale = (1 + 9 * layer / max(n_layers - 1, 1)) * torch.logspace(0, -1, d_model)
        components = (
            12**0.5
            * (torch.rand(n, 10, generator=generator) - 0.5)
            @ torch.randn(10, d_model, generator=generator)
        )
        acts[:, layer] = (torch.randn(n, d_model, generator=generator) + components) * scale
        acts[: n // 2, layer] += 2 * torch.randn(d_model, generator=generator) * scale / d_model**0.5
    return Case(acts[: n // 2], acts[n // 2 :])


def write_experiment(root: Path, case: Case) -> TraitPaths:
    """Write what stage 3 leaves, all of it for training but the last tenth of each side, and return the
    trait's paths.
    """
    paths = TraitPaths("bench", TRAIT, root)
    paths.activations.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.cat([case.pos, case.neg]), paths.activations)
    rows = [
        _row(side, i, len(acts))
        for side, acts in (("pos", case.pos), ("neg", case.neg))
        for i in range(len(acts))
    ]
    with open(paths.activations, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    shape = [len(rows), *case.pos.shape[1:]]
    made = {
        "made_by": {"stage": "planted", "model": {}},
        "responses_sha256": {},
        "component": "residual",
        "position": "response[:]",
        "dtype": "float32",
    }
    write_json(
        paths.activations_metadata,
        made | {"shape": shape, "sha256": sha256, "rows": rows, "mean_norms": [1.0] * shape[1]},
    )
    return paths


def _row(side: str, i: int, n: int) -> dict:
    return {
        "key": f"{side}:{i}:0",
        "side": side,
        "pair": i,
        "group": i,
        "split": "train" if i < 0.9 * n else "val",
    }
