"""How far a judge can be relied on for a trait: how often it puts the dataset's own contrasting texts on the
side that they were written for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

from traitscope.utils.judge import Example, Judge, Rubric, Score

LEAST = 0.65  # below it a judge is near chance, and nothing is proven by its scores
CROSS_VALIDATED, ASKED = "cross-validated", "asked"


@dataclass(frozen=True)
class Reliability:
    """The share of examples on the right side of 50: 0.5 is chance, 1 is perfect."""

    value: float
    kind: (
        str  # "cross-validated": of a judge fitted on other examples; "asked": of one that was fitted on none
    )
    n: int  # examples
    low: float  # 95 % interval
    high: float

    def as_json(self) -> dict:
        figures = {name: round(getattr(self, name), 4) for name in ("value", "low", "high")}
        return figures | {"kind": self.kind, "n": self.n}


def judge_reliability(judge: Judge, rubric: Rubric) -> Reliability | None:
    """Return a judge's reliability on its rubric; None where the rubric has no examples. A language model is
    asked about each example that its cache does not hold.
    """
    if not rubric.examples:
        return None
    kind = CROSS_VALIDATED if "cross_validated_accuracy" in judge.identity else ASKED
    return reliability_of(rubric.examples, judge.score_examples(), kind)


def reliability_of(examples: Sequence[Example], scores: Sequence[Score], kind: str) -> Reliability:
    """Return the share of right sides with its 95 % interval (Wilson 1927). A text without a score, or with
    exactly 50, counts half: the judge could as well have thrown a coin.
    """
    right = sum(_credit(e.side, s.value) for e, s in zip(examples, scores, strict=True))
    n = len(examples)
    return Reliability(right / n, kind, n, *wilson_interval(right / n, n))


def _credit(side: str, value: float | None) -> float:
    if value is None or value == 50:
        return 0.5
    return float((value > 50) == (side == "pos"))


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share of n: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)."""
    z = float(norm.ppf((1 + level) / 2))
    middle = share + z**2 / (2 * n)
    half = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    scale = 1 + z**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
