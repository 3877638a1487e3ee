"""What judging cost: calls, cache hits, tokens, money."""

import re
from dataclasses import dataclass, field

# US dollars per million tokens (in, out), list prices as collected then; batch and cache discounts are not
# counted
PRICES_DATE = "2026-11"
PRICES = {
    "gpt-4.1": (2.00, 8.00),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4o": (2.50, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-5": (1.25, 10.00),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5-nano": (0.05, 0.40),
    "claude-haiku-4-5": (1.00, 5.00),
    "claude-sonnet-4-5": (3.00, 15.00),
    "claude-sonnet-4-6": (3.00, 15.00),
    "claude-opus-4-5": (5.00, 25.00),
    "gemini-2.5-flash-lite": (0.10, 0.40),
    "gemini-2.5-flash": (0.30, 2.50),
    "gemini-2.5-pro": (1.25, 10.00),
}

Price = tuple[float, float]


def price_of(model: str, stated: tuple[float, ...] = ()) -> Price | None:
    """Return a model's (in, out) price per million tokens, dated snapshots included
    ("gpt-4.1-mini-2025-04-14"); None when unknown.

    Args:
        stated: What --judge-price says; it wins.
    """
    if stated:
        return stated[0], stated[-1]
    return PRICES.get(re.sub(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{3})$", "", model))


@dataclass
class Ledger:
    """What one judge of one stage used."""

    calls: int = 0  # sent, answered or not
    cached: int = 0  # answered from the disk cache
    repeated: int = 0  # identical to another question of the same stage
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = 0.0  # None: the model's price is not known
    failures: dict[str, int] = field(default_factory=dict)  # calls that had to be repeated, by reason

    def as_json(self) -> dict:
        """Return what results and manifests store."""
        counts = {
            "calls": self.calls,
            "cached": self.cached,
            "repeated": self.repeated,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
        }
        return counts | {
            "cost_usd": None if self.cost is None else round(self.cost, 6),
            "prices_of": PRICES_DATE,
            "failed_calls": self.failures,
        }

    def as_line(self) -> dict:
        """Return what a stage's closing line says."""
        money = "price unknown" if self.cost is None else f"${self.cost:.4f}"
        return {
            "judge calls": self.calls,
            "cached": self.cached,
            "judge tokens": self.tokens_in + self.tokens_out,
            "cost": money,
        }
