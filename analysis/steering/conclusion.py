"""The verdict on the test questions: does the direction itself, and not the force of the push, change
what the model writes?
"""

from traitscope.analysis.steering.evidence import Evidence, figures_of
from traitscope.analysis.steering.search import Cell
from traitscope.utils.judge.reliability import LEAST
from traitscope.utils.measures.separation import auroc_interval
from traitscope.utils.records.verdict import BREAKS, NOT_PROVEN, WORKS

P_MAX = 0.05
LEAST_N = 8  # questions scored with and without the vector, below which nothing is proved
LEAST_EFFECT = 5.0  # points


def reach_verdict(cell: Cell, trial: Evidence, gate: float, least: float = LEAST_EFFECT) -> dict:
    """Compare the vector with nothing, with its opposite, with random and shuffled directions, and with a
    system prompt.

    Args:
        gate: Mean coherence below which the text counts as broken.
        least: Points of odd part that are worth having.

    Returns:
        The verdict, why, and every figure (`figures_of`).
    """
    numbers = figures_of(cell, trial)
    verdict, why = conclude(numbers, gate, least)
    return {"verdict": verdict, "why": why} | numbers


def conclude(numbers: dict, gate: float, least: float = LEAST_EFFECT) -> tuple[str, str]:
    """Return the one word and its reason, from the numbers alone."""
    for objection in (
        _text_breaks,
        _judge_is_blind,
        _too_few,
        _nothing_moves,
        _opposite_breaks,
        _nulls_do_as_much,
        _labels_mean_nothing,
    ):
        if found := objection(numbers, gate, least):
            return found

    effect, odd, null = numbers["effect"], numbers["odd_part"], numbers["random"]
    said = [
        f"effect {effect['mean']:+.1f} points",
        f"odd part {odd['mean']:+.1f}, {_beats(null)}",
        f"coherence {numbers['coherence']['plus']:.0f}",
    ]
    one_sided, looks = numbers["random_one_sided"], numbers["looks"]
    notes = [
        f"{one_sided['reach_it']} of {one_sided['n']} one-sided random pushes reach the effect"
        if one_sided and one_sided["reach_it"]
        else "",
        f"look {looks} at this trait" if looks > 1 else "",
        ""
        if _can_tell(numbers["reading"])
        else "too little was held out to say whether its sides mean anything",
    ]
    return WORKS, "; ".join([", ".join(said), *filter(None, notes)])


Objection = tuple[str, str] | None  # a verdict and its reason


def _beats(null: dict) -> str:
    """Say where the vector stands among the random directions."""
    stands = "none of which moves the score at all" if null["z"] is None else f"z = {null['z']:.1f}"
    return f"larger than {null['n'] - null['reach_it']} of {null['n']} random directions' ({stands})"


def _text_breaks(numbers: dict, gate: float, least: float) -> Objection:
    coherence = numbers["coherence"]
    if coherence["plus"] is None:
        return NOT_PROVEN, "the coherence of the steered answers could not be judged"
    if coherence["plus"] >= gate:
        return None

    before = "unknown" if coherence["unsteered"] is None else f"{coherence['unsteered']:.0f}"
    fall = f"coherence falls from {before} to {coherence['plus']:.0f}"
    return BREAKS, f"{fall}, below the gate of {gate:.0f}"


def _judge_is_blind(numbers: dict, gate: float, least: float) -> Objection:
    found = numbers["judge_reliability"]
    if found is None or found["value"] >= LEAST:
        return None
    told = f"it tells {found['value']:.0%} of the trait's own {found['n']} contrasting texts apart"
    return NOT_PROVEN, f"the judge is near chance: {told}"


def _too_few(numbers: dict, gate: float, least: float) -> Objection:
    if numbers["effect"] is None or numbers["odd_part"] is None:
        return NOT_PROVEN, "too few answers could be judged"
    scored = min(numbers[name]["n"] for name in ("effect", "odd_part"))
    if scored < LEAST_N:
        return NOT_PROVEN, f"{scored} scored test questions are too few; {LEAST_N} are the least"
    if numbers["random"] is None:
        return NOT_PROVEN, "there are no random directions to compare with; take some with --random-pairs"
    return None


def _nothing_moves(numbers: dict, gate: float, least: float) -> Objection:
    effect, odd = numbers["effect"], numbers["odd_part"]
    if odd["low"] <= 0:
        interval = f"{odd['low']:+.1f} to {odd['high']:+.1f}"
        return NOT_PROVEN, f"the odd part, {odd['mean']:+.1f}, is not above 0 for sure: interval {interval}"
    if odd["mean"] < least:
        return NOT_PROVEN, f"the odd part, {odd['mean']:+.1f} points, is less than {least:g}"
    if effect["mean"] <= 0:
        return (
            NOT_PROVEN,
            f"adding the vector does not move the score the wanted way: effect {effect['mean']:+.1f}",
        )
    return None


def _opposite_breaks(numbers: dict, gate: float, least: float) -> Objection:
    minus = numbers["coherence"]["minus"]
    if minus is None or minus >= gate:
        return None
    what = f"the opposite vector breaks the text (coherence {minus:.0f})"
    return NOT_PROVEN, f"{what}, so that the odd part may be damage"


def _nulls_do_as_much(numbers: dict, gate: float, least: float) -> Objection:
    odd, null, shuffled = (numbers[k] for k in ("odd_part", "random", "shuffled_labels_odd_part"))
    again = f" at look {numbers['looks']}" if numbers["looks"] > 1 else ""
    if numbers["p_least"] > P_MAX:
        few = f"{null['n']} random directions are too few to prove anything{again}"
        return NOT_PROVEN, f"{few}; take more with --random-pairs"
    if numbers["p"] > P_MAX:
        figures = f"{null['reach_it']} of {null['n']} reach it, p = {numbers['p']:.3f}{again}"
        return NOT_PROVEN, f"random directions do as much: {figures}"
    if shuffled is not None and abs(shuffled["mean"]) >= odd["mean"]:
        figures = f"{shuffled['mean']:+.1f} against {odd['mean']:+.1f}"
        return NOT_PROVEN, f"a vector fitted on shuffled labels does as much: {figures}"
    return None


def _labels_mean_nothing(numbers: dict, gate: float, least: float) -> Objection:
    """Object to a vector that steers, and yet does not tell held-out responses of the two sides apart.

    Where the trait carries much of the activations' variance, a mixture of responses with their sides drawn by
    lot holds much of it too, and steers. Its labels show that nothing was learnt from them.
    """
    if not _can_tell(numbers["reading"]):
        return None
    read = numbers["reading"]
    low, high = auroc_interval(read["auroc"], *_sizes(read))
    if low > 0.5:
        return None
    interval = f"{read['auroc']:.2f} [{low:.2f}, {high:.2f}]"
    best = f", best of {read['best_of']}" if read["best_of"] > 1 else ""
    return NOT_PROVEN, f"the vector may have nothing to do with its sides: held-out AUROC {interval}{best}"


def _can_tell(read: dict | None) -> bool:
    """Whether enough responses were held out for a vector that tells them all apart to be told from luck."""
    return read is not None and auroc_interval(1.0, *_sizes(read))[0] > 0.5


def _sizes(read: dict) -> tuple[int, int, float]:
    """Return the held-out responses per side, and the level that allows for the best of so many (Šidák 1967)."""
    return read["n_pos"], read["n_neg"], 0.95 ** (1 / read["best_of"])
