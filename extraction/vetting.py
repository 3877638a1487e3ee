"""What the vetting scores mean: who passed, and whether enough did. Applied where the scores are used, so moving a threshold judges nothing again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.artifacts import read_json, write_json
from utils.errors import UserError
from utils.judge import Judge, Score, count_states, explain_gaps
from utils.paths import SIDES, TraitPaths


@dataclass(frozen=True)
class Thresholds:
    """Where a score counts as passed.

    Args:
        pos_threshold: A positive text passes at this score or above; moving it judges nothing again.
        neg_threshold: A negative text passes at this score or below.
    """

    pos_threshold: float = 60.0
    neg_threshold: float = 40.0

    def passes(self, score: Score, side: str) -> bool:
        """Tell whether a score is on its side's part of the scale; a text that could not be judged has not passed."""
        if score.value is None:
            return False
        return score.value >= self.pos_threshold if side == "pos" else score.value <= self.neg_threshold

    def pass_rate(self, scores: Sequence[tuple[str, Score]]) -> float | None:
        """Return passed / all asked for (side, score) pairs; None when nothing was asked."""
        return sum(self.passes(score, side) for side, score in scores) / len(scores) if scores else None


def store_scores(path: Path, content: dict, scores: Sequence[Score], grader: Judge, max_unjudged: float) -> dict:
    """Write a vetting file: every score, and the states counted per side. Returns what the judge used, for the stage's closing line.

    Args:
        content: What the file says beside, with `rows` of one dictionary per score, its side among them.

    Raises:
        UserError: too many texts could not be judged. What could be is written beside, with the reasons, and the judge remembers it.
    """
    rows = content["rows"]
    states = {side: count_states([s for row, s in zip(rows, scores, strict=True) if row["side"] == side]) for side in SIDES}
    used = {"usage": grader.usage.as_json()} if grader.usage else {}
    content = {"judge": grader.identity, "states": states, **used, **content}
    content["rows"] = [row | score.as_json() for row, score in zip(rows, scores, strict=True)]
    partial = TraitPaths.partial(path)
    if gaps := explain_gaps(scores, max_unjudged):
        write_json(partial, content)
        raise UserError(f"{gaps} (scores and reasons so far: {partial.name})")
    write_json(path, content)
    partial.unlink(missing_ok=True)
    return grader.usage.as_line() if grader.usage else {}


def read_scores(path_content: dict) -> list[Score]:
    """Return the scores of a vetting file's rows."""
    return [Score(row["value"], row["state"], row["mode"]) for row in path_content["rows"]]


def rate_per_side(scores: Sequence[tuple[str, Score]], thresholds: Thresholds) -> dict[str, float | None]:
    """Return {"pos pass rate": …, "neg pass rate": …}: passed / all asked."""
    return {f"{side} pass rate": thresholds.pass_rate([pair for pair in scores if pair[0] == side]) for side in SIDES}


def failed_scenarios(paths: TraitPaths, thresholds: Thresholds) -> set[int]:
    """Return the indices of the examples that did not pass stage 0."""
    content = read_json(paths.scenario_scores)
    rows = zip(content["rows"], read_scores(content), strict=True)
    return {row["index"] for row, score in rows if not thresholds.passes(score, row["side"])}


def usable_responses(paths: TraitPaths, thresholds: Thresholds, responses_sha256: dict[str, str]) -> set[str]:
    """Return the keys of the responses that passed stage 2.

    Args:
        responses_sha256: The response files that the caller's data come from.

    Raises:
        UserError: the scores are of other responses.
    """
    content = read_json(paths.response_scores)
    if content.get("responses_sha256") != responses_sha256:
        raise UserError(f"{paths.trait}: scores and activations are of different responses; run 2_vet_responses and 3_capture_activations")
    rows = zip(content["rows"], read_scores(content), strict=True)
    return {row["key"] for row, score in rows if thresholds.passes(score, row["side"])}


def require_usable(trait: str, sides: Sequence[str], min_usable: int) -> None:
    """Raise UserError when a side has fewer than `min_usable` usable responses; `sides` holds one entry per usable response."""
    for side in SIDES:
        count = sum(s == side for s in sides)
        if count < min_usable:
            raise UserError(
                f"{trait}: only {count} usable {side} responses, {min_usable} are needed; sharpen the scenarios of that side, move --pos-threshold / "
                "--neg-threshold, use a base model with longer answers (--max-new-tokens), or lower --min-usable"
            )
