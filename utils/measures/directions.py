"""Directions by themselves: those that mean nothing, and sums of those that do."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_directions(activations: Tensor, count: int, seed: int) -> Tensor:
    """Draw unit directions [count, d_model] from the covariance of activations [n, d_model]."""
    mixtures = draw_mixtures(torch.eye(1), len(activations), count, seed)[0]
    return mix_examples(activations, mixtures)


def mix_examples(activations: Tensor, mixtures: Tensor) -> Tensor:
    """Return the unit directions [count, d_model] of mixtures [count, n] of activations [n, d_model].

    Each is Xcᵀg with Xc the centred activations. With g standard normal, its covariance is theirs.
    """
    centred = activations.double() - activations.mean(0, dtype=torch.float64)
    return torch.nn.functional.normalize(mixtures.double() @ centred, dim=-1).float()


def draw_mixtures(likeness: Tensor, n: int, count: int, seed: int) -> Tensor:
    """Draw standard normal mixtures [k, count, n] of n examples.

    Args:
        likeness: Correlations [k, k] of the k kinds of mixtures with each other; [[1]] for one kind.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(likeness), n, dtype=torch.float64, generator=generator)
    values, axes = torch.linalg.eigh(likeness.double())
    root = (axes * values.clamp(min=0).sqrt()) @ axes.T
    return torch.einsum("ij,cjn->icn", root, noise)


def apart_from(drawn: Tensor, vector: Tensor) -> Tensor:
    """Return the part of draws [..., d_model] that is orthogonal to a vector [d_model], float32."""
    unit = torch.nn.functional.normalize(vector.double(), dim=0)
    drawn = drawn.double()
    return (drawn - (drawn @ unit)[..., None] * unit).float()


def combine(main: Tensor, others: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Return the main vector with weighted others added as directions, at the length of the main one."""
    unit = torch.nn.functional.normalize
    total = unit(main.float(), dim=0) + sum((w * unit(v.float(), dim=0) for w, v in others), torch.zeros(()))
    return unit(total, dim=0) * main.norm()
