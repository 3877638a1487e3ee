"""What the vetting scores mean: who passed, and whether enough did. Applied where the scores are used, so
moving a threshold judges nothing again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import CAPTURE, SIDES, VET_RESPONSES, TraitPaths
from traitscope.utils.judge import Example, Judge, Score, count_states, explain_gaps
from traitscope.utils.records.responses import Response, response_digests
from traitscope.utils.records.shaped import Shaped, read_shaped, require_distinct, require_own
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class Thresholds:
    """Where a score counts as passed."""

    pos_threshold: float = flag(
        60.0, "A positive text passes at this score or above; moving it judges nothing again."
    )
    neg_threshold: float = flag(40.0, "A negative text passes at this score or below.")

    heading = "Thresholds"
    is_setting = True  # a key of config.json

    def passes(self, score: Score, side: str) -> bool:
        """Tell whether a score is on its side's part of the scale; a text that could not be judged has
        not passed.
        """
        return score.value is not None and self.is_on(side, score.value)

    def is_on(self, side: str, value: float) -> bool:
        """Tell whether a value is on a side's part of the scale."""
        return value >= self.pos_threshold if side == "pos" else value <= self.neg_threshold

    def pass_rate(self, scores: Sequence[tuple[str, Score]]) -> float | None:
        """Return passed / all asked for (side, score) pairs; None when nothing was asked."""
        return sum(self.passes(score, side) for side, score in scores) / len(scores) if scores else None


class GivenScore(Shaped):
    """A score as it was given."""

    value: float | None
    state: str
    mode: str = ""
    prompt: str = ""
    detail: str = ""

    @model_validator(mode="after")
    def _is_a_score(self) -> Self:
        assert self.score, "no score"
        return self

    @cached_property
    def score(self) -> Score:
        return Score(self.value, self.state, self.mode, self.prompt, self.detail)


class ScoredRow(GivenScore):
    """One text that was judged. A scenario has an index, a group, a line and its text; a response has a key."""

    side: str
    index: int = -1
    group: int = -1
    line: int = -1
    text: str = ""
    key: str = ""

    @property
    def place(self) -> int:
        """Where a scenario stands in its file, from 0; older versions called it the group."""
        return self.line if self.line >= 0 else self.group


class Scores(Shaped):
    """A vetting file of stage 0 or 2."""

    trait: str = ""
    of: str = ""  # scenarios or responses
    judge: dict[str, Any]
    states: dict[str, Any] = {}
    responses_sha256: dict[str, str | None] | None = None  # the response files that stage 2 read
    rows: list[ScoredRow]

    @property
    def sided(self) -> list[tuple[str, Score]]:
        """Return (side, score) of every row."""
        return [(row.side, row.score) for row in self.rows]


def read_scores(paths: TraitPaths, of: Literal["scenarios", "responses"]) -> Scores:
    """Read what stage 0 or 2 found.

    Raises:
        UserError: the file is missing, not what that stage writes, or of another trait.
    """
    file = paths.scenario_scores if of == "scenarios" else paths.response_scores
    found = read_shaped(file, Scores)
    require_own(file, trait=(found.trait, paths.trait), scores=(found.of, of))
    keys = [(row.side, row.index, row.key) for row in found.rows]
    require_distinct(file, keys, "text")
    return found


def write_scenario_scores(
    paths: TraitPaths,
    examples: Sequence[Example],
    scores: Sequence[Score],
    judge: Judge,
    max_unjudged: float,
    vetted_at: dict,
) -> dict:
    """Write what stage 0 found; see `_write`."""
    rows = [
        {"side": e.side, "index": i, "group": e.family, "line": e.line, "text": e.text}
        for i, e in enumerate(examples)
    ]
    content = {"trait": paths.trait, "of": "scenarios", "vetted_at": vetted_at, "rows": rows}
    return _write(paths.scenario_scores, content, scores, judge, max_unjudged)


def write_response_scores(
    paths: TraitPaths,
    responses: Sequence[Response],
    scores: Sequence[Score],
    judge: Judge,
    max_unjudged: float,
) -> dict:
    """Write what stage 2 found; see `_write`."""
    rows = [{"key": r.key, "side": r.side} for r in responses]
    content = {
        "trait": paths.trait,
        "of": "responses",
        "responses_sha256": response_digests(paths),
        "rows": rows,
    }
    return _write(paths.response_scores, content, scores, judge, max_unjudged)


def _write(path: Path, content: dict, scores: Sequence[Score], judge: Judge, max_unjudged: float) -> dict:
    """Write a vetting file: every score, and the states counted per side. Returns what the judge used,
    for the stage's closing line.

    Args:
        content: What the file says beside, with `rows` of one dictionary per score, its side among them.

    Raises:
        UserError: too many texts could not be judged. What could be is written beside, with the reasons, and
            the judge remembers it.
    """
    rows = content["rows"]
    states = {
        side: count_states([s for row, s in zip(rows, scores, strict=True) if row["side"] == side])
        for side in SIDES
    }
    used = {"usage": judge.usage.as_json()} if judge.usage else {}
    content = {"judge": judge.identity, "states": states, **used, **content}
    content["rows"] = [row | score.as_json() for row, score in zip(rows, scores, strict=True)]

    partial = TraitPaths.partial(path)
    if gaps := explain_gaps(scores, max_unjudged):
        write_json(partial, content)
        raise UserError(f"{gaps} (scores and reasons so far: {partial.name})")
    write_json(path, content)
    partial.unlink(missing_ok=True)
    return judge.usage.as_line() if judge.usage else {}


def rate_per_side(scores: Sequence[tuple[str, Score]], thresholds: Thresholds) -> dict[str, float | None]:
    """Return {"pos pass rate": …, "neg pass rate": …}: passed / all asked."""
    return {
        f"{side} pass rate": thresholds.pass_rate([pair for pair in scores if pair[0] == side])
        for side in SIDES
    }


def failed_scenarios(paths: TraitPaths, thresholds: Thresholds) -> set[int]:
    """Return the indices of the examples that did not pass stage 0."""
    return {
        row.index
        for row in read_scores(paths, "scenarios").rows
        if not thresholds.passes(row.score, row.side)
    }


def usable_responses(
    paths: TraitPaths, thresholds: Thresholds, responses_sha256: dict[str, str | None]
) -> set[str]:
    """Return the keys of the responses that passed stage 2.

    Args:
        responses_sha256: The response files that the caller's data come from.

    Raises:
        UserError: the scores are of other responses.
    """
    found = read_scores(paths, "responses")
    if found.responses_sha256 != responses_sha256:
        advice = f"run {VET_RESPONSES} and {CAPTURE}"
        raise UserError(f"{paths.trait}: scores and activations are of different responses; {advice}")
    return {row.key for row in found.rows if thresholds.passes(row.score, row.side)}


def require_usable(trait: str, sides: Sequence[str], min_usable: int) -> None:
    """Raise UserError when a side has fewer than `min_usable` usable responses; `sides` holds one entry
    per usable response.
    """
    for side in SIDES:
        count = sum(s == side for s in sides)
        if count < min_usable:
            raise UserError(
                f"{trait}: only {count} usable {side} responses, {min_usable} are needed; sharpen the scenarios of that side, "
                "move --pos-threshold / --neg-threshold, use a base model with longer answers (--max-new-tokens), or lower --min-usable"
            )
