"""Directions by themselves: those that mean nothing, and sums of those that do."""

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_directions(activations: Tensor, count: int, seed: int) -> Tensor:
    """Draw unit directions from the activations' own covariance: the null that a trait vector must beat.

    Args:
        activations: [n, d_model].

    Returns:
        [count, d_model]; each is Xcᵀg with g standard normal and Xc the centred activations, so that its covariance is theirs.
    """
    centred = activations.double() - activations.mean(0, dtype=torch.float64)
    noise = torch.randn(
        count, len(centred), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.normalize(noise @ centred, dim=-1).float()


def combine(main: Tensor, others: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Return the main vector with weighted others added as directions, at the length of the main one."""
    unit = torch.nn.functional.normalize
    total = unit(main.float(), dim=0) + sum((w * unit(v.float(), dim=0) for w, v in others), torch.zeros(()))
    return unit(total, dim=0) * main.norm()
