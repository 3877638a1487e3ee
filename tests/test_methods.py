import numpy as np
import pytest
import torch

from traitscope.extraction.fitting.methods import (
    FitOptions,
    _logistic_loss,
    _solve_logistic,
    fit_directions,
    fit_functions,
    gradient,
    ica,
    mean_diff,
    probe,
)
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.records import activations
from traitscope.utils.records.activations import ActivationsAbout, Captured

N, LAYERS, D = 60, 3, 96
METHODS = fit_functions(FitOptions())
FITTED = [method for method in METHODS if method != "random"]


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


def planted(
    strength: float = 8.0, n: int = N, d: int = D, noise: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two clouds around a large common offset, apart along one unit direction per layer."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(LAYERS, d, generator=generator), dim=-1)
    offset = 20 * torch.randn(LAYERS, d, generator=generator)
    pos, neg = (noise * torch.randn(n, LAYERS, d, generator=generator) + offset for _ in range(2))
    return pos + strength / 2 * directions, neg - strength / 2 * directions, directions


@pytest.mark.parametrize("method", FITTED)
def test_a_planted_direction_is_found_and_points_from_neg_to_pos(method):
    pos, neg, directions = planted(strength=40.0, n=400, d=16)
    vectors = fit_directions(METHODS[method], pos, neg)
    assert vectors.dtype == torch.float32
    assert cosine(vectors, directions).min() > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_swapping_the_sides_flips_the_vector(method):
    pos, neg, _ = planted()
    if method == "ica":  # its components depend on the order of the rows; the chosen direction hardly does
        pos, neg, _ = planted(strength=40.0)
    there, back = fit_directions(METHODS[method], pos, neg), fit_directions(METHODS[method], neg, pos)
    assert (method == "random") or cosine(there, -back).min() > 0.99
    unit = torch.nn.functional.normalize(there, dim=-1)
    assert (((pos - neg).mean(0) * unit).sum(-1) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_length_is_the_distance_of_the_means_along_the_vector(method):
    pos, neg, _ = planted()
    vectors = fit_directions(METHODS[method], pos, neg)
    along = (mean_diff(pos, neg) * torch.nn.functional.normalize(vectors, dim=-1)).sum(-1)
    assert torch.allclose(vectors.norm(dim=-1).double(), along, rtol=1e-4)


def test_mean_diff_is_the_difference_of_means():
    pos, neg, _ = planted()
    assert torch.allclose(
        fit_directions(METHODS["mean_diff"], pos, neg), pos.mean(0) - neg.mean(0), atol=1e-4
    )


@pytest.mark.parametrize("method", ["mean_diff", "probe", "gradient"])
def test_a_method_rotates_with_its_data(method):
    pos, neg, _ = planted()
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0]
    straight, rotated = (
        fit_directions(METHODS[method], pos, neg),
        fit_directions(METHODS[method], pos @ rotation, neg @ rotation),
    )
    assert cosine(straight @ rotation, rotated).min() > 0.999


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_probe_is_scikit_learns_solution(c):
    from sklearn.linear_model import LogisticRegression

    pos, neg, _ = planted(strength=2.0)
    ours = probe(pos, neg, c=c, scale="raw")
    for layer in range(LAYERS):
        x = torch.cat([pos[:, layer], neg[:, layer]]).double().numpy()
        x = x - x.mean(0)  # lbfgs needs it; the intercept makes the problem invariant to it
        theirs = LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(x, [1] * N + [0] * N).coef_[0]
        assert cosine(ours[layer], torch.from_numpy(theirs)) > 0.99999


def test_the_probe_reaches_the_optimum():
    pos, neg, _ = planted(strength=2.0)
    x = torch.cat([pos, neg]).double().transpose(0, 1)
    gram, targets = (
        x @ x.transpose(1, 2),
        torch.cat([torch.ones(N), torch.zeros(N)]).double().expand(LAYERS, -1),
    )
    a = _solve_logistic(gram, targets, 1.0)
    # at the optimum w = Xᵀa with a = c·(t − p) for some intercept: the residual of that equation bounds the
    # excess loss
    logits = torch.bmm(gram, a[..., None])[..., 0]
    intercepts = torch.logit((targets - a).clamp(1e-12, 1 - 1e-12)) - logits
    free = (targets - a - 0.5).abs() < 0.4999
    for layer in range(LAYERS):
        b = intercepts[layer][free[layer]]
        assert (b - b.mean()).abs().max() < 1e-6
        loss = _logistic_loss(gram[[layer]], a[[layer]], b.mean().reshape(1, 1), targets[[layer]], 1.0)
        for scale in (0.999, 1.001):
            assert loss < _logistic_loss(
                gram[[layer]], scale * a[[layer]], b.mean().reshape(1, 1), targets[[layer]], 1.0
            )


def test_the_probes_scale_is_stated_and_matters():
    pos, neg, _ = planted(strength=2.0)
    both = torch.cat([pos, neg])
    norms = (both - both.mean(0)).norm(dim=-1).mean(0)[:, None]
    assert (
        cosine(
            probe(pos, neg, c=1.0, scale="norm"), probe(pos / norms, neg / norms, c=1.0, scale="raw")
        ).min()
        > 0.999999
    )
    assert cosine(probe(pos, neg, c=1.0, scale="norm"), probe(pos, neg, c=1.0, scale="raw")).max() < 0.99


@pytest.mark.parametrize("method", ["mean_diff", "probe", "gradient", "random"])
def test_what_both_sides_share_changes_nothing(method):
    """Steps of 1/128 are what float32 holds at 10⁵, so that the shift loses nothing of the input."""
    pos, neg, _ = planted(strength=2.0)
    pos, neg = ((128 * side).round() / 128 for side in (pos, neg))
    near = fit_directions(METHODS[method], pos, neg)
    far = fit_directions(METHODS[method], pos + 65_536, neg + 65_536)
    assert cosine(near, far).min() > 0.999999
    assert torch.allclose(near.norm(dim=-1), far.norm(dim=-1), rtol=1e-5)


@pytest.mark.parametrize("method", ["mean_diff", "gradient"])
def test_a_small_difference_beside_a_large_offset_is_found(method):
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
    offset = torch.full((D,), 1e5)
    noise = (0.01 * torch.randn(2, 4000, 1, D, generator=generator)).double()
    pos, neg = (
        (offset.double() + sign * 0.15 * direction + side).float()
        for sign, side in zip((1, -1), noise, strict=True)
    )
    assert cosine(fit_directions(METHODS[method], pos, neg)[0], direction) > 0.99


def test_the_probe_does_not_become_the_mean_difference_by_an_offset():
    """Where one axis is noisy, the probe turns away from it, and Δμ does not."""
    pos, neg, _ = planted(strength=2.0)
    noise = 6 * torch.randn(2, N, LAYERS, generator=torch.Generator().manual_seed(5))
    pos[..., 0] += noise[0]
    neg[..., 0] += noise[1]
    near = cosine(probe(pos, neg, c=100.0, scale="norm"), mean_diff(pos, neg))
    far = cosine(probe(pos + 1000, neg + 1000, c=100.0, scale="norm"), mean_diff(pos, neg))
    assert near.max() < 0.9
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)


def test_projections_beside_a_large_offset_are_measured_in_full_precision():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(D, generator=generator)
    base = (128 * torch.randn(40, D, generator=generator)).round() / 128
    sides = {(side, split): base + (side == "pos") for side in ("pos", "neg") for split in ("train", "val")}
    near = describe_vector(vector, sides)
    far = describe_vector(vector, {key: acts + 65_536 for key, acts in sides.items()})
    assert far["val"] == near["val"]


def test_gradient_maximises_the_shrunk_effect_size():
    pos, neg, _ = planted(strength=3.0, noise=2.0)
    found = gradient(pos, neg, shrinkage=0.5)
    for layer in range(LAYERS):
        p, n = pos[:, layer].double(), neg[:, layer].double()
        scatter = (p - p.mean(0)).T @ (p - p.mean(0)) + (n - n.mean(0)).T @ (n - n.mean(0))
        scatter = scatter / scatter.trace() * D
        exact = torch.linalg.solve(
            0.5 * scatter + 0.5 * torch.eye(D, dtype=torch.float64), p.mean(0) - n.mean(0)
        )
        assert cosine(found[layer], exact) > 0.999999
    torch.testing.assert_close(
        cosine(gradient(pos, neg, shrinkage=1.0), pos.mean(0) - neg.mean(0)),
        torch.ones(LAYERS, dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="above 0"):
        gradient(pos, neg, shrinkage=0.0)


def test_ica_picks_the_separating_component_whatever_its_order_and_sign():
    rng, n = np.random.default_rng(0), 400
    sources = rng.laplace(size=(2 * n, 5)) * [9, 7, 5, 3, 1]
    sources[:, 4] = np.r_[np.ones(n), -np.ones(n)] * 3 + 0.3 * rng.laplace(
        size=2 * n
    )  # the trait is the weakest of five
    mixing = np.linalg.qr(rng.normal(size=(D, 5)))[0]
    x = torch.from_numpy(sources @ mixing.T)[:, None]
    found = ica(x[:n], x[n:], n_components=5, seed=0)
    assert cosine(found[0], torch.from_numpy(mixing[:, 4])).abs() > 0.99


def test_random_is_near_orthogonal_to_what_was_planted():
    pos, neg, directions = planted(strength=1.0, d=400)
    assert cosine(fit_directions(METHODS["random"], pos, neg), directions).max() < 0.5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pos, neg: (pos[:1], neg), "the pos side has 1 examples"),
        (lambda pos, neg: (pos, neg[:0]), "the neg side has 0 examples"),
        (
            lambda pos, neg: (
                pos,
                neg.index_put(
                    (torch.tensor([3]), torch.tensor([1]), torch.tensor([5])), torch.tensor(float("nan"))
                ),
            ),
            "layer 1: the neg",
        ),
        (
            lambda pos, neg: (
                pos.index_put(
                    (torch.tensor([3]), torch.tensor([2]), torch.tensor([5])), -torch.tensor(float("inf"))
                ),
                neg,
            ),
            "layer 2: the pos",
        ),
        (
            lambda pos, neg: (torch.ones_like(pos), torch.ones_like(neg)),
            "layer 0: the activations are constant",
        ),
        (lambda pos, neg: (pos, pos.clone()), "layer 0: the fitted direction is zero"),
    ],
)
def test_degenerate_input_names_layer_and_cause(spoil, message):
    pos, neg, _ = planted()
    with pytest.raises(ValueError, match=message):
        fit_directions(METHODS["mean_diff"], *spoil(pos, neg))


def test_half_precision_input_is_fitted_in_full_precision():
    pos, neg, directions = planted(strength=40.0)
    assert cosine(fit_directions(METHODS["mean_diff"], pos.half(), neg.half()), directions).min() > 0.99


def test_fitting_twice_gives_the_same_bytes():
    pos, neg, _ = planted()
    for fit in METHODS.values():
        assert torch.equal(fit_directions(fit, pos, neg), fit_directions(fit, pos, neg))


@pytest.mark.parametrize("method", METHODS)
def test_fitting_layers_in_groups_gives_the_same_vectors(method, monkeypatch):
    pos, neg, _ = planted()
    rows = [
        {"key": f"{side}:{i}:0", "side": side, "split": "train"} for side in ("pos", "neg") for i in range(N)
    ]
    about = ActivationsAbout(shape=(2 * N, 3, D), mean_norms=[1.0] * 3, rows=rows, sha256="x")
    captured = Captured(torch.cat([pos, neg]).half(), about)
    monkeypatch.setattr(activations, "CHUNK_BYTES", 4 * 2 * N * D * 2)  # two layers
    assert captured.chunks([0, 1, 2]) == [[0, 1], [2]]
    train = [row["key"] for row in rows]
    fitted_on = activations.FittedOn(activations_sha256="x", train=train, val=[])
    parts = [activations.fitted_sides(captured, fitted_on, chunk) for chunk in captured.chunks([0, 1, 2])]
    grouped = torch.cat(
        [fit_directions(METHODS[method], acts["pos", "train"], acts["neg", "train"]) for acts in parts]
    )
    whole = activations.fitted_sides(captured, fitted_on, [0, 1, 2])
    assert torch.equal(whole["pos", "train"], pos.half().float())
    torch.testing.assert_close(
        grouped,
        fit_directions(METHODS[method], whole["pos", "train"], whole["neg", "train"]),
        atol=1e-4,
        rtol=1e-4,
    )
