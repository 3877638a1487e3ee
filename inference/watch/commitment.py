"""Where a course commits to a side for good, and whether noise that commits to nothing would look as settled.

Every course ends on some side, and has been there since some token: noise commits too. So a commitment counts
only where it is stronger than those of noise with the same memory.
"""

import numpy as np

DRAWS = 199
CLEAR = 0.05  # a commitment counts up to this p
SHORTEST = 10  # tokens below which nothing can be told from noise
MEMORY = 0.9  # at least this much correlation of neighbouring tokens is allowed for, however few they are


def smooth(scores: np.ndarray, window: int) -> np.ndarray:
    """Return the trailing mean over `window` tokens [..., n]; the first tokens average what there is, so
    nothing of the future leaks back.
    """
    total = np.cumsum(scores, axis=-1)
    total = np.concatenate([np.zeros((*scores.shape[:-1], 1)), total], axis=-1)
    end = np.arange(1, scores.shape[-1] + 1)
    start = np.maximum(end - max(window, 1), 0)
    return (total[..., end] - total[..., start]) / (end - start)


def commitment(course: np.ndarray, tolerance: float) -> int | None:
    """Return the first token c such that no s_u, u ≥ c, has the sign opposite to the last one's; None
    when the last one has no sign.

    Args:
        tolerance: |s| up to which a score has no sign, and contradicts none.
    """
    at = int(_commitments(course[None], tolerance)[0]) if len(course) else -1
    return None if at < 0 else at


def commitment_p(scores: np.ndarray, window: int, tolerance: float, seed: int = 0) -> float | None:
    """Return the p of a commitment against noise that has no side, (1 + #{T* ≥ T}) / (1 + draws); None for
    fewer than `SHORTEST` tokens. What does not commit has p = 1.

    T is the mean after the commitment over its standard error, for noise in which neighbouring tokens
    correlate (AR(1)) as they do about the two means before and after. The noise is drawn with that
    correlation, its bias of short texts removed and one standard error added (after Kendall 1954, Biometrika
    41:403), and with `MEMORY` where that is more; the larger p counts. Every draw is read as the course is.

    Args:
        scores: Centred projections, not smoothed, [n].
    """
    n = len(scores)
    if n < SHORTEST:
        return None

    strength, memory = (float(x[0]) for x in _strengths(scores[None], window, tolerance))
    if not strength:
        return 1.0

    unbiased = (memory + 2 / n) / (1 - 4 / n)
    allowed = unbiased + np.sqrt(max(1 - unbiased**2, 0) / n)
    size, rng = float(np.sqrt(np.mean(scores**2))), np.random.default_rng(seed)
    found = 0.0
    for correlation in {float(np.clip(m, -MEMORY, 0.98)) for m in (allowed, max(allowed, MEMORY))}:
        drawn, _ = _strengths(_draw_noise(n, correlation, size, rng), window, tolerance)
        found = max(found, float((1 + (drawn >= strength).sum()) / (1 + DRAWS)))

    return found


def _commitments(courses: np.ndarray, tolerance: float) -> np.ndarray:
    """Return each row's commitment, −1 for none: [k, n] → [k]."""
    last = courses[:, -1:]
    against = courses * np.sign(last) < -tolerance
    since = against.shape[1] - np.argmax(against[:, ::-1], axis=1)
    return np.where(np.abs(last[:, 0]) <= tolerance, -1, np.where(against.any(1), since, 0))


def _strengths(scores: np.ndarray, window: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's T, 0 where it does not commit, and the correlation of neighbouring tokens about the
    means before and after: [k, n] → [k], [k].
    """
    at = _commitments(smooth(scores, window), tolerance)
    after = np.arange(scores.shape[1]) >= np.maximum(at, 0)[:, None]
    n_after = after.sum(1)
    mean_after = (scores * after).sum(1) / n_after
    mean_before = (scores * ~after).sum(1) / np.maximum((~after).sum(1), 1)

    rest = scores - np.where(after, mean_after[:, None], mean_before[:, None])
    squares = (rest**2).sum(1) + 1e-30  # a course without noise divides by it
    memory = np.clip((rest[:, 1:] * rest[:, :-1]).sum(1) / squares, -MEMORY, 0.99)
    variance = squares / scores.shape[1] * (1 + memory) / (1 - memory)  # of a sum, per token
    return np.where(at < 0, 0.0, np.abs(mean_after) * np.sqrt(n_after / variance)), memory


def _draw_noise(n: int, correlation: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """Return stationary AR(1) courses about zero, [DRAWS, n], of standard deviation `size`."""
    noise = rng.normal(0, size, (DRAWS, n))
    for t in range(1, n):
        noise[:, t] = correlation * noise[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    return noise
