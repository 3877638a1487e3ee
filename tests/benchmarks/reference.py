"""scikit-learn's answer to the problems that traitscope's methods solve, one layer at a time."""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from scipy.linalg import solve
from sklearn.covariance import empirical_covariance, shrunk_covariance
from sklearn.decomposition import FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import softplus

from benchmarks.planted import Case
from traitscope.extraction.fitting.methods import FitOptions

OPTIONS = FitOptions()
# d_model above which LinearDiscriminantAnalysis would take minutes a layer: its covariance is solved by
# Cholesky instead
WIDEST = 4096
# relative: well above the rounding of float64, well below that of the float32 in which activations come
NUDGE = 1e-12
Directions = dict[int, dict[str, np.ndarray]]  # layer → method → direction [d_model]


def fit_layer(case: Case, layer: int, methods: Iterable[str], tight: bool = True) -> dict[str, np.ndarray]:
    """Return {method: direction [d_model]} of one layer; the sign of ica is arbitrary.

    Args:
        tight: Solve logistic regression to 1e-12; False leaves scikit-learn its own tolerance.
    """
    x, y, _ = _examples(case, layer)
    solve = {
        "mean_diff": lambda: x[y == 1].mean(0) - x[y == 0].mean(0),
        "probe": lambda: _logistic(case, layer, tight),
        "ica": lambda: _ica(x, y),
        "gradient": lambda: _discriminant(x, y),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {method: solve[method]() for method in methods}


def _examples(case: Case, layer: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return x [n, d_model] in float64, y in {0, 1}, and the mean norm by which the probe divides."""
    x = torch.cat([case.pos[:, layer], case.neg[:, layer]]).double()
    x = x - x.mean(0)  # as the probe does, before its scale is taken
    return x.numpy(), np.repeat([1, 0], [len(case.pos), len(case.neg)]), float(x.norm(dim=-1).mean())


def _logistic(case: Case, layer: int, tight: bool) -> np.ndarray:
    x, y, norm = _examples(case, layer)
    exact = {"tol": 1e-12, "max_iter": 100_000} if tight else {}
    return LogisticRegression(C=OPTIONS.probe_c, **exact).fit(x / norm, y).coef_[0]


def _discriminant(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.shape[1] <= WIDEST:
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=OPTIONS.shrinkage).fit(x, y).coef_[0]
    within = sum(
        np.mean(y == side) * shrunk_covariance(empirical_covariance(x[y == side]), OPTIONS.shrinkage)
        for side in (0, 1)
    )
    return solve(within, x[y == 1].mean(0) - x[y == 0].mean(0), assume_a="pos", overwrite_a=True)


def _ica(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    model = FastICA(
        min(OPTIONS.ica_components, len(x) - 1),
        whiten="unit-variance",
        random_state=OPTIONS.fit_seed,
        max_iter=500,
        tol=1e-3,
    )
    sources = model.fit_transform(x)
    up, down = sources[y == 1], sources[y == 0]
    effect = (up.mean(0) - down.mean(0)) / np.sqrt((up.var(0) + down.var(0)) / 2)
    return model.mixing_[:, np.abs(effect).argmax()]


def keep_settled(case: Case, theirs: Directions) -> Directions:
    """Return the directions without those of ica that are others for an input nudged by far less than its
    own rounding: no two computations agree.
    """
    return {
        layer: {m: v for m, v in found.items() if m != "ica" or _is_settled(case, layer, v)}
        for layer, found in theirs.items()
    }


def _is_settled(case: Case, layer: int, direction: np.ndarray) -> bool:
    x, y, _ = _examples(case, layer)
    moved = (x * (1 + NUDGE * np.random.default_rng(seed).standard_normal(x.shape)) for seed in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return all(_cosine(direction, _ica(other, y)) > 0.999999 for other in moved)


def cosines(ours: dict[str, Tensor], theirs: Directions) -> dict[str, float | None]:
    """Return each method's lowest |cosine| over the layers that scikit-learn fitted, None without any;
    ours is {method: [n_layers, d_model]}.
    """
    found = {}
    for method, vectors in ours.items():
        pairs = [
            (vectors[layer].double().numpy(), directions[method])
            for layer, directions in theirs.items()
            if method in directions
        ]
        found[method] = min((_cosine(a, b) for a, b in pairs), default=None)
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))


def probe_excess(case: Case, ours: Tensor, tight: Directions, loose: Directions) -> tuple[float, float]:
    """Return the largest relative excess of the probe's objective over the best known solution: of ours
    [n_layers, d_model], and of the loose ones.
    """
    worst = [0.0, 0.0]
    for layer in loose:
        losses = [
            _loss(case, layer, w) for w in (ours[layer].numpy(), loose[layer]["probe"], tight[layer]["probe"])
        ]
        worst = [max(known, loss / min(losses) - 1) for known, loss in zip(worst, losses, strict=False)]
    return worst[0], worst[1]


def _loss(case: Case, layer: int, weights: np.ndarray) -> float:
    """Return ½‖w‖² + C Σ log(1 + exp(−y(w·x + b))) at the best b, found by bisection of its slope."""
    x, y, norm = _examples(case, layer)
    fitted, signs = torch.from_numpy(x / norm @ weights), torch.from_numpy(2.0 * y - 1)
    low, high = -float(fitted.abs().max()) - 50, float(fitted.abs().max()) + 50
    for _ in range(200):
        b = (low + high) / 2
        slope = float((-signs * torch.sigmoid(-signs * (fitted + b))).sum())
        low, high = (low, b) if slope > 0 else (b, high)
    return float(0.5 * weights @ weights + OPTIONS.probe_c * softplus(-signs * (fitted + b)).sum())
