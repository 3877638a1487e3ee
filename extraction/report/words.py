"""Figures as people read them."""

from traitscope.utils.records.verdict import Interval

NOTHING = "–"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f} %"


def interval(found: Interval | None) -> str:
    """Return a mean with its interval."""
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]" if found else NOTHING


def fall_of(before: float | None, after: float | None) -> str:
    """Return coherence before and after, a dash for what is not known."""
    return " → ".join("–" if value is None else f"{value:.0f}" for value in (before, after))
