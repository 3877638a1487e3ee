"""ica is scikit-learn's FastICA wherever that has one answer, and a layer's answer is its own."""

import warnings

import numpy as np
import pytest
import torch
from conftest import SHIPPED
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from traitscope.extraction.fitting.fastica import MAX_STEPS, TOLERANCE, separate, whiten
from traitscope.extraction.fitting.methods import (
    DegenerateError,
    FitOptions,
    fit_directions,
    fit_functions,
    ica,
)
from traitscope.utils.model.capture import Reading, pool_activations
from traitscope.utils.model.encode import encode

LAYERS = 4
Sides = tuple[torch.Tensor, torch.Tensor]  # [n, n_layers, d] each


def mixtures(n: int, d: int, n_sources: int, seed: int = 0) -> Sides:
    """Uniform sources in other directions of every layer, one of them apart for the two sides, under a
    little noise and around a large offset.
    """
    rng = np.random.default_rng(seed)
    sources = rng.uniform(-1, 1, size=(LAYERS, n, n_sources)) * np.linspace(3, 1, n_sources)
    sources[..., 0] += np.r_[np.ones(n // 2), -np.ones(n - n // 2)]
    x = (
        sources @ rng.normal(size=(LAYERS, n_sources, d))
        + 0.05 * rng.normal(size=(LAYERS, n, d))
        + 20 * rng.normal(size=(LAYERS, 1, d))
    )
    acts = torch.from_numpy(x.swapaxes(0, 1)).float()
    return acts[: n // 2], acts[n // 2 :]


def noise(n: int = 80, d: int = 60, n_layers: int = 7) -> Sides:
    """Nothing to find: at most layers the iteration never settles, and rounding decides its end."""
    acts = torch.randn(n, n_layers, d, generator=torch.Generator().manual_seed(0))
    return acts[: n // 2], acts[n // 2 :]


def examples(sides: Sides, layer: int) -> np.ndarray:
    return torch.cat([side[:, layer] for side in sides]).double().numpy()


def scikit_learn(x: np.ndarray, n_components: int = 10, max_steps: int = MAX_STEPS) -> FastICA:
    model = FastICA(
        min(n_components, len(x) - 1, x.shape[1]),
        whiten="unit-variance",
        random_state=0,
        max_iter=max_steps,
        tol=TOLERANCE,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def their_direction(x: np.ndarray, n_pos: int, n_components: int = 10) -> np.ndarray:
    model = scikit_learn(x, n_components)
    up, down = np.split(model.transform(x), [n_pos])
    return model.mixing_[:, np.abs((up.mean(0) - down.mean(0)) / np.sqrt(up.var(0) + down.var(0))).argmax()]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))


def is_settled(x: np.ndarray, n_pos: int) -> bool:
    """Tell whether scikit-learn finds the same direction when its input moves by far less than float32
    rounds it.
    """
    moved = [x * (1 + 1e-12 * np.random.default_rng(seed).normal(size=x.shape)) for seed in range(2)]
    return all(cosine(their_direction(x, n_pos), their_direction(other, n_pos)) > 0.999999 for other in moved)


@pytest.fixture(scope="module")
def real(embedded) -> Sides:
    """Activations of the embedded model on 30 scenarios of each side of a shipped trait."""
    texts = [
        (SHIPPED / "epistemic/optimism" / name).read_text().split("\n")[:30]
        for name in ("positive.txt", "negative.txt")
    ]
    ids = [[encode(embedded, text) for text in side] for side in texts]
    pos, neg = (
        pool_activations(embedded, [Reading(i, list(range(1, len(i)))) for i in side]).activations
        for side in ids
    )
    return pos, neg


@pytest.mark.parametrize(
    ("n", "d", "n_sources", "n_components"),
    [
        (400, 16, 5, 5),
        (300, 12, 12, 30),
        (401, 577, 10, 10),
        (120, 300, 6, 6),
        (16, 100, 3, 40),
        (9, 30, 3, 10),
        (50, 8, 1, 1),
    ],
)
def test_it_is_scikit_learns_direction_where_there_are_sources_to_find(n, d, n_sources, n_components):
    sides = mixtures(n, d, n_sources)
    ours = ica(*sides, n_components=n_components, seed=0).numpy()
    for layer in range(LAYERS):
        assert cosine(ours[layer], their_direction(examples(sides, layer), n // 2, n_components)) >= 0.9999


def test_it_is_scikit_learns_direction_on_real_activations_where_rounding_does_not_decide(real):
    ours = ica(*real, n_components=10, seed=0).numpy()
    settled = [layer for layer in range(len(ours)) if is_settled(examples(real, layer), len(real[0]))]
    assert len(settled) >= 5
    assert (
        min(cosine(ours[layer], their_direction(examples(real, layer), len(real[0]))) for layer in settled)
        >= 0.9999
    )


@pytest.mark.parametrize("max_steps", [1, 10])
def test_its_first_steps_are_scikit_learns_at_every_layer_of_real_activations(real, max_steps):
    for layer in range(real[0].shape[1]):
        x = examples(real, layer)
        theirs = scikit_learn(x, max_steps=max_steps).transform(x).T
        (ours,) = separate([whiten(torch.from_numpy(x - x.mean(0)), 10)], 0, max_steps)
        assert (ours * theirs).mean(
            -1
        ).min() >= 0.9999  # of unit variance, in the same order and with the same sign


def test_sources_are_uncorrelated_and_of_unit_variance():
    x = examples(mixtures(90, 40, 5), 0)
    white = whiten(torch.from_numpy(x - x.mean(0)), 7)
    for rows in (white, separate([white], 0)[0]):
        np.testing.assert_allclose(rows @ rows.T / 90, np.eye(7), atol=1e-10)
        np.testing.assert_allclose(rows.mean(-1), 0, atol=1e-10)


@pytest.mark.parametrize("n", [80, 37])
def test_a_layers_bits_do_not_depend_on_the_layers_beside_it(n):
    sides = [
        torch.cat([a, b[: len(a)]], dim=1) for a, b in zip(noise(n), mixtures(n, 60, 7), strict=True)
    ]  # some settle early, some never
    whole = ica(*sides, n_components=7, seed=0)
    for layers in ([2], [9, 0, 3], list(range(10, -1, -1))):
        assert torch.equal(ica(*(side[:, layers] for side in sides), n_components=7, seed=0), whole[layers])


def test_the_seed_decides_where_it_starts():
    sides = noise()
    first, again, other = (ica(*sides, n_components=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_that_repeat_leave_fewer_components_and_other_layers_as_they_were():
    healthy = mixtures(40, 60, 5)
    sides = tuple(side.clone() for side in healthy)
    for side in sides:
        side[:, 1] = side[torch.arange(20) % 3, 1]  # six different rows: rank 5
    found = ica(*sides, n_components=10, seed=0)
    assert torch.isfinite(found).all()
    assert cosine(found[1].numpy(), their_direction(examples(sides, 1), 20, n_components=5)) >= 0.9999
    assert torch.equal(found[[0, 2, 3]], ica(*healthy, n_components=10, seed=0)[[0, 2, 3]])


@pytest.mark.parametrize("n_kinds", [2, 3])
def test_very_few_different_rows_give_a_finite_vector(n_kinds):
    sides = [side[torch.arange(len(side)) % (n_kinds - 1)] + i for i, side in enumerate(mixtures(30, 10, 3))]
    vectors = fit_directions(fit_functions(FitOptions())["ica"], *sides)
    assert torch.isfinite(vectors).all()
    assert (vectors.norm(dim=-1) > 0).all()


def test_features_that_never_change_and_one_that_alone_does():
    pos, neg = mixtures(60, 12, 4)
    pos[..., 0] = neg[..., 0] = 3.0  # the feature that gives the components their signs
    pos[:, 2, 1:11] = neg[:, 2, 1:11] = 0.0
    vectors = fit_directions(fit_functions(FitOptions())["ica"], pos, neg)
    assert torch.isfinite(vectors).all()
    assert vectors[2, :11].abs().max() < 1e-6 * vectors[2, 11].abs()


def test_no_component_is_too_few():
    with pytest.raises(ValueError, match="0 components are too few"):
        ica(*mixtures(40, 12, 4), n_components=0, seed=0)


def test_a_constant_layer_is_named():
    pos, neg = mixtures(40, 12, 4)
    pos[:, 2], neg[:, 2] = 1.5, 1.5
    with pytest.raises(DegenerateError, match="layer 2: the activations are constant"):
        fit_directions(fit_functions(FitOptions())["ica"], pos, neg)
