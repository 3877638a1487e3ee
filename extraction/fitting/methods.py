"""Methods: pure functions from activations to directions, one per layer, all layers at once.

Every vector is the part of the mean difference that lies along the method's direction, v = v̂ (Δμ·v̂). So it
points from neg to pos, and its length has one meaning for all methods: how far apart the two means lie along
it, in units of the activations. Coefficient 1 moves by that much.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from traitscope.extraction.fitting.fastica import separate, whiten
from traitscope.utils.errors import UserError
from traitscope.utils.measures.directions import draw_directions
from traitscope.utils.stage.flags import flag

# pos [n_pos, n_layers, d_model], neg [n_neg, …] → directions [n_layers, d_model], of any sign and length
Fit = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FitOptions:
    """How directions are fitted."""

    probe_c: float = flag(100.0, "Inverse strength of the probe's L2 penalty, as in scikit-learn.")
    probe_scale: Literal["norm", "raw"] = flag(
        "norm",
        "norm (each layer divided by its mean distance from its centre first) or raw; the scale decides what probe_c means.",
    )
    ica_components: int = flag(10, "Independent components searched by ica.")
    shrinkage: float = flag(
        0.5, "Share of the isotropic part in the covariance that gradient divides by, between 0 and 1."
    )
    fit_seed: int = flag(0, "Seed of ica and random.")

    heading = "Fitting"
    is_setting = True  # a key of config.json


def fit_functions(options: FitOptions) -> dict[str, Fit]:
    """Return every method by name."""
    return {
        "mean_diff": mean_diff,
        "probe": partial(probe, c=options.probe_c, scale=options.probe_scale),
        "ica": partial(ica, n_components=options.ica_components, seed=options.fit_seed),
        "gradient": partial(gradient, shrinkage=options.shrinkage),
        "random": partial(random, seed=options.fit_seed),
    }


class DegenerateError(ValueError):
    """Activations from which no direction follows, at one layer."""

    def __init__(self, index: int, cause: str) -> None:
        super().__init__(f"layer {index}: {cause}")
        self.index = index  # among the layers that were given
        self.cause = cause


def require_known(methods: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError for a name that is no method."""
    for name in methods:
        if name not in known:
            raise UserError(f"unknown method {name!r}; choose {', '.join(known)}")


def fit_directions(fit: Fit, pos: Tensor, neg: Tensor) -> Tensor:
    """Fit one method at every layer.

    Args:
        pos, neg: [n, n_layers, d_model].

    Returns:
        [n_layers, d_model], float32, pointing from neg to pos, of length |Δμ·v̂|.

    Raises:
        DegenerateError: an input or result is degenerate at a layer.
        ValueError: a side has too few examples.
    """
    check_activations(pos, neg)
    unit = normalize(fit(pos.float(), neg.float()).double(), dim=-1)
    difference = mean_diff(pos, neg)
    vectors = unit * (unit * difference).sum(-1, keepdim=True)
    degenerate = (~torch.isfinite(vectors).all(-1) | (vectors.norm(dim=-1) == 0)).nonzero()
    if len(degenerate):
        raise DegenerateError(int(degenerate[0]), "the fitted direction is zero or not finite")

    return vectors.float()


def check_activations(pos: Tensor, neg: Tensor) -> None:
    """Raise ValueError for input from which no direction follows."""
    for side, acts in (("pos", pos), ("neg", neg)):
        if len(acts) < 2:
            raise ValueError(f"the {side} side has {len(acts)} examples; at least 2 are needed")

    # [n_layers, d_model]; NaN is both
    extremes = {side: (acts.amin(0), acts.amax(0)) for side, acts in (("pos", pos), ("neg", neg))}

    for side, (low, high) in extremes.items():
        bad = (~(torch.isfinite(low) & torch.isfinite(high))).any(-1).nonzero()
        if len(bad):
            raise DegenerateError(int(bad[0]), f"the {side} activations hold NaN or infinite values")

    lows, highs = zip(*extremes.values(), strict=True)
    constant = (torch.minimum(*lows) == torch.maximum(*highs)).all(-1).nonzero()
    if len(constant):
        raise DegenerateError(int(constant[0]), "the activations are constant")


def mean_diff(pos: Tensor, neg: Tensor) -> Tensor:
    """Return Δμ = mean(pos) − mean(neg), in float64: what both sides share may be 10⁶ times as large."""
    return pos.mean(0, dtype=torch.float64) - neg.mean(0, dtype=torch.float64)


def probe(pos: Tensor, neg: Tensor, *, c: float, scale: str) -> Tensor:
    """Return the normal of L2-regularised logistic regression, solved to the optimum.

    Minimises ½‖w‖² + c·Σ log(1 + exp(−y(w·x + b))), scikit-learn's objective. It is invariant to rotation, so
    w = Xᵀa, and Newton's method runs in the n-dimensional row space, in float64, for all layers at once (in
    float32 it stops at a wrong answer). The intercept carries no penalty, so the rows may be centred; the
    scale "norm" is then their mean distance from the centre, whatever they share.
    """
    x = torch.cat([pos, neg]).double().transpose(0, 1)  # [n_layers, n, d_model]
    x -= x.mean(1, keepdim=True)
    if scale == "norm":
        x /= x.norm(dim=-1).mean(-1)[:, None, None]
    targets = torch.cat([torch.ones(len(pos)), torch.zeros(len(neg))]).double().expand(len(x), -1)
    weights = _solve_logistic(x @ x.transpose(1, 2), targets, c)
    return torch.bmm(weights[:, None], x)[:, 0]


def _solve_logistic(gram: Tensor, targets: Tensor, c: float, max_steps: int = 100) -> Tensor:
    """Return a [n_layers, n] with w = Xᵀa, by Newton's method with step halving on the Gram matrices
    [n_layers, n, n].
    """
    n_layers, n = targets.shape
    a, b = torch.zeros_like(targets), torch.zeros(n_layers, 1, dtype=torch.float64)
    eye, rounding = torch.eye(n, dtype=torch.float64), 1e-13
    best = _logistic_loss(gram, a, b, targets, c)

    for _ in range(max_steps):
        # symmetric, and a row times a matrix is several times as fast as a matrix times a column
        logits = torch.bmm(a[:, None], gram)[:, 0] + b
        p = torch.sigmoid(logits)
        curvature = c * p * (1 - p)
        # stationarity (I + WK)a + Wb = Wf + c(t − p), with Σa = 0 because the intercept carries no penalty
        system = torch.zeros(n_layers, n + 1, n + 1, dtype=torch.float64)
        system[:, :n, :n] = eye + curvature[..., None] * gram
        system[:, :n, n] = curvature
        system[:, n, :n] = 1
        right = torch.cat(
            [curvature * logits + c * (targets - p), torch.zeros(n_layers, 1, dtype=torch.float64)], dim=1
        )
        solution = torch.linalg.solve(system, right[..., None])[..., 0]
        step_a, step_b = solution[:, :n] - a, solution[:, n:] - b
        size = torch.ones(n_layers, 1, dtype=torch.float64)
        loss = _logistic_loss(gram, a + step_a, b + step_b, targets, c)
        while (is_worse := loss > (1 + rounding) * best).any() and size.min() > 1e-6:
            size = torch.where(is_worse[:, None], size / 2, size)
            loss = _logistic_loss(gram, a + size * step_a, b + size * step_b, targets, c)
        size = torch.where((loss > best)[:, None], 0.0, size)
        a, b = a + size * step_a, b + size * step_b
        gain, best = best - torch.minimum(loss, best), torch.minimum(loss, best)
        if (gain <= rounding * best).all():
            break

    return a


def _logistic_loss(gram: Tensor, a: Tensor, b: Tensor, targets: Tensor, c: float) -> Tensor:
    fitted = torch.bmm(a[:, None], gram)[:, 0]
    signs = 2 * targets - 1
    return 0.5 * (a * fitted).sum(-1) + c * softplus(-signs * (fitted + b)).sum(-1)


def gradient(pos: Tensor, neg: Tensor, *, shrinkage: float) -> Tensor:
    """Return the direction that maximises the effect size: where its gradient vanishes, solved exactly.

    d(v) = Δμ·v / √(vᵀ S v) with S the pooled within-side covariance shrunk towards isotropy, (1 − s)·S +
    s·(tr S / d)·I; without shrinkage d(v) has no maximum when d_model ≥ n. Its optimum is S⁻¹Δμ (Friedman
    1989, regularised discriminant analysis), by Woodbury's identity in the n-dimensional row space.
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage {shrinkage} must be above 0 and at most 1")

    difference = normalize(mean_diff(pos, neg), dim=-1)  # [n_layers, d_model]
    # [n_layers, n, d_model]
    within = torch.cat([side - side.mean(0, dtype=torch.float64) for side in (pos, neg)]).transpose(0, 1)
    # now tr S / d_model = 1
    within /= torch.linalg.vector_norm(within, dim=(1, 2), keepdim=True) / within.shape[2] ** 0.5
    system = shrinkage * torch.eye(within.shape[1], dtype=torch.float64) + (1 - shrinkage) * (
        within @ within.transpose(1, 2)
    )
    inner = torch.linalg.solve(system, within @ difference[..., None])
    return difference - (1 - shrinkage) * (inner.transpose(1, 2) @ within)[:, 0]


def ica(pos: Tensor, neg: Tensor, *, n_components: int, seed: int) -> Tensor:
    """Return, per layer, the mixing direction of the independent component that separates the sides best.

    Components come in arbitrary order and sign, so the choice is by Cohen's d of the sources on the fitting
    data. A component's column of the mixing matrix, the pseudoinverse of the unmixing one, is the covariance
    of its source with the activations, Xᵀs / n: whitened sources are uncorrelated.

    The components are those of scikit-learn's FastICA wherever that has one answer. Where components are
    near-Gaussian its iteration wanders until it is stopped, and rounding decides what is found.
    """
    if n_components < 1:
        raise ValueError(f"{n_components} components are too few; at least 1 is needed")

    sources = separate(
        [whiten(_centred(pos, neg, layer), n_components) for layer in range(pos.shape[1])], seed
    )
    chosen = [s[np.abs(_effect_sizes(s[:, : len(pos)], s[:, len(pos) :])).argmax()] for s in sources]
    return torch.stack(
        [torch.tensor(source) @ _centred(pos, neg, layer) for layer, source in enumerate(chosen)]
    )


def _centred(pos: Tensor, neg: Tensor, layer: int) -> Tensor:
    x = torch.cat([pos[:, layer], neg[:, layer]]).double()
    return x - x.mean(0)


def _effect_sizes(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return Cohen's d of each row: [k, n_pos], [k, n_neg] → [k]."""
    return (up.mean(-1) - down.mean(-1)) / np.sqrt((up.var(-1) + down.var(-1)) / 2 + 1e-12)


def random(pos: Tensor, neg: Tensor, *, seed: int) -> Tensor:
    """Return a direction drawn from the activations' covariance, which holds the trait: a null for steering,
    and none for reading.
    """
    x = torch.cat([pos, neg])
    return torch.stack([draw_directions(x[:, layer], 1, seed)[0] for layer in range(x.shape[1])])


def rival_of(method: str) -> str:
    """Return the method whose fit on shuffled labels a vector must beat: its own; for one made elsewhere,
    mean_diff.
    """
    return method if method in fit_functions(FitOptions()) else "mean_diff"


def fit_shuffled(fit: Fit, pos: Tensor, neg: Tensor, seed: int) -> Tensor:
    """Fit a method at one layer to the same responses with their sides shuffled: [n, 1, d_model] of each
    side → [d_model].
    """
    both = torch.cat([pos, neg])
    mixed = both[torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))]
    return fit_directions(fit, mixed[: len(pos)], mixed[len(pos) :])[0]
