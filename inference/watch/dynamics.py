"""How a trait moves through a text: velocity, acceleration, commitment, peak, persistence, and what
happens at a known point. Pure maths.

All figures are of s, the centred projection of each token, smoothed. Its unit is the activation's; a vector's
length is the distance between the means of the trait's two sides along it, so s / ‖v‖ is +0.5 at the pos
side's mean and −0.5 at the neg side's.
"""

from dataclasses import dataclass

import numpy as np

from traitscope.inference.watch.commitment import CLEAR, commitment, commitment_p, smooth
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class DynamicsOptions:
    """How a course is read."""

    window: int = flag(5, "Tokens of the trailing mean that smooths a course; 1 leaves it as it is.")
    tolerance: float = flag(
        0.1, "Share of the distance between the trait's two sides within which a score has no sign."
    )

    heading = "Courses"


def velocity(course: np.ndarray) -> np.ndarray:
    """Return v_t = s_t − s_(t−1) per token, [n − 1]."""
    return np.diff(course)


def acceleration(course: np.ndarray) -> np.ndarray:
    """Return a_t = v_t − v_(t−1) per token, [n − 2]."""
    return np.diff(course, 2)


def persistence(course: np.ndarray) -> float:
    """Return the share of the tokens from the peak on that keep at least half of its height, on its side."""
    peak = int(np.abs(course).argmax())
    after = course[peak:] * np.sign(course[peak])
    return float((after >= abs(course[peak]) / 2).mean())


def describe(scores: np.ndarray, length: float, options: DynamicsOptions) -> dict | None:
    """Return the figures of one course; None for an empty one. A commitment that noise might make is none.

    Args:
        scores: Centred projections, [n].
        length: ‖v‖, the distance between the trait's two sides.
    """
    if not len(scores):
        return None

    course = smooth(scores, options.window)
    steps = velocity(course) if len(course) > 1 else np.zeros(1)
    peak = int(np.abs(course).argmax())
    figures = {
        "mean": float(scores.mean()),
        "last": float(course[-1]),
        "peak": float(course[peak]),
        "persistence": persistence(course),
        "fastest": float(steps[np.abs(steps).argmax()]),
        "mean_velocity": float(steps.mean()),
        "roughness": float(np.abs(acceleration(course)).mean()) if len(course) > 2 else 0.0,
    }
    tolerance = options.tolerance * length
    p = commitment_p(scores, options.window, tolerance)
    places = {
        "commitment": commitment(course, tolerance) if p is not None and p <= CLEAR else None,
        "commitment_p": p,
        "peak_at": peak,
        "fastest_at": int(np.abs(steps).argmax()) + 1,
    }
    return {name: round(value, 6) for name, value in figures.items()} | places | {"n_tokens": len(scores)}


def trace(scores: np.ndarray, window: int) -> dict[str, list[float]]:
    """Return a course token by token: smoothed [n], velocity [n − 1] and acceleration [n − 2]."""
    course = smooth(scores, window)
    found = {"smoothed": course, "velocity": velocity(course), "acceleration": acceleration(course)}
    return {name: [float(f"{v:.5g}") for v in values] for name, values in found.items()}


def change_at(scores: np.ndarray, point: int) -> float | None:
    """Return the mean score from a token on minus the mean before it; None where a side is empty."""
    if not 0 < point < len(scores):
        return None
    return float(scores[point:].mean() - scores[:point].mean())
