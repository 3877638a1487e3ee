"""What the vetting scores mean: who passed, and whether enough did. Applied where the scores are used, so moving a threshold judges nothing again."""

from collections.abc import Sequence

from utils.artifacts import read_json
from utils.errors import UserError
from utils.judge import Score, pass_rate, passes
from utils.paths import SIDES, TraitPaths


def read_scores(path_content: dict) -> list[Score]:
    """Return the scores of a vetting file's rows."""
    return [Score(row["value"], row["state"], row["mode"]) for row in path_content["rows"]]


def rate_per_side(scores: Sequence[tuple[str, Score]], pos_threshold: float, neg_threshold: float) -> dict[str, float | None]:
    """Return {"pos pass rate": …, "neg pass rate": …}: passed / all asked."""
    return {f"{side} pass rate": pass_rate([s for got, s in scores if got == side], side, pos_threshold, neg_threshold) for side in SIDES}


def failed_scenarios(paths: TraitPaths, pos_threshold: float, neg_threshold: float) -> set[int]:
    """Return the indices of the examples that did not pass stage 0."""
    content = read_json(paths.scenario_scores)
    rows = zip(content["rows"], read_scores(content), strict=True)
    return {row["index"] for row, score in rows if not passes(score, row["side"], pos_threshold, neg_threshold)}


def usable_responses(paths: TraitPaths, pos_threshold: float, neg_threshold: float) -> set[str]:
    """Return the keys of the responses that passed stage 2."""
    content = read_json(paths.response_scores)
    rows = zip(content["rows"], read_scores(content), strict=True)
    return {row["key"] for row, score in rows if passes(score, row["side"], pos_threshold, neg_threshold)}


def require_usable(trait: str, sides: Sequence[str], min_usable: int) -> None:
    """Raise UserError when a side has fewer than `min_usable` usable responses; `sides` holds one entry per usable response."""
    for side in SIDES:
        count = sum(s == side for s in sides)
        if count < min_usable:
            raise UserError(
                f"{trait}: only {count} usable {side} responses, {min_usable} are needed; sharpen the scenarios of that side, move --pos-threshold / "
                "--neg-threshold, use a base model with longer answers (--max-new-tokens), or lower --min-usable"
            )
