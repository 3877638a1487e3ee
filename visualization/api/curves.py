"""Projections as they are drawn: on a scale, smoothed, with what moves in them, beside another model's."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query
from pydantic import BaseModel

from traitscope.inference.watch.dynamics import DynamicsOptions, describe, smooth, velocity
from traitscope.inference.watch.known_points import turn_of
from traitscope.utils.records.comparisons import Difference, ModelDifference, VectorName
from traitscope.utils.records.courses import Dynamics, Figures, KnownPoint
from traitscope.utils.records.readings import Projections
from traitscope.utils.records.recorded import Record

Scale = Literal["raw", "centered", "cosine"]
FIRST = 4  # traits that are shown when none is named
Values = list[float | None]  # one a token; null where there is no reading


class Course(VectorName):
    """One vector's scores on every token."""

    norm: float  # ‖v‖: the distance between the means of the trait's two sides
    centre: float
    scores: Values
    smoothed: Values  # the trailing mean, prompt and response apart
    velocity: Values  # smoothed, minus the smoothed score of the token before
    response: Figures | None
    known_point: KnownPoint | None


class Compared(Difference):
    """One vector's comparison, over all prompts and on the tokens of one."""

    differences: Values  # on every token of the prompt, smoothed
    theirs: Values  # the other model's smoothed scores; null on the cosine scale


class CourseQuery(BaseModel):
    """How scores are shown."""

    prompt: str
    scale: Scale = "centered"
    window: Annotated[int, Query(ge=1, le=200)] = DynamicsOptions.window
    traits: str = ""  # separated by commas; by default the first few
    vector: str = (
        ""  # "method layer"; by default each trait's first, which is its best unless others were asked for
    )

    def choose(self, names: list[dict[str, Any]]) -> list[bool]:
        """Return which of the vectors are shown."""
        wanted = (
            self.traits.split(",")
            if self.traits
            else list(dict.fromkeys(name["trait"] for name in names))[:FIRST]
        )
        first = {name["trait"]: i for i, name in reversed(list(enumerate(names)))}
        label = [f"{name['method']} {name['layer']}" for name in names]

        return [
            n["trait"] in wanted and (label[i] == self.vector if self.vector else first[n["trait"]] == i)
            for i, n in enumerate(names)
        ]


def make_course(record: Record, scores: Projections, how: CourseQuery, stored: Dynamics | None) -> Course:
    """Return one vector's course.

    Args:
        stored: What monitor_dynamics says of the trait: where it described just this, its figures are shown;
            else they are computed as it does.
    """
    on_scale, all_tokens = scores.on(how.scale), record.span("all")
    smoothed, speed = _smoothed(record, on_scale, how.window)
    turn = turn_of(record, scores)

    return Course(
        **{name: scores.origin[name] for name in ("trait", "method", "layer", "why", "norm", "centre")},
        scores=_listed(len(record.ids), all_tokens.start, on_scale[all_tokens]),
        smoothed=smoothed,
        velocity=speed,
        response=_figures(record, scores, how, stored),
        known_point=KnownPoint(**turn) if turn else None,
    )


def _figures(
    record: Record, scores: Projections, how: CourseQuery, stored: Dynamics | None
) -> Figures | None:
    options = DynamicsOptions(window=how.window)
    described = (how.window, options.tolerance, "response")
    is_same = stored is not None and (stored.window, stored.tolerance, stored.over) == described
    if stored and is_same and (found := stored.find(record.id, scores.origin["sha256"])):
        return Figures(**found.model_dump())
    figures = describe(scores.on("centered")[record.span("response")], scores.origin["norm"], options)

    return Figures(**figures) if figures else None


def _smoothed(record: Record, values: np.ndarray, window: int) -> tuple[Values, Values]:
    """Return the smoothed scores and their velocity, as the figures have them: prompt and response each
    for itself.
    """
    courses: Values = [None] * len(values)
    speeds: Values = [None] * len(values)

    for span in map(record.span, ("prompt", "response")):
        course = smooth(values[span], window)
        courses[span] = _numbers(course)
        speeds[span] = [None, *_numbers(velocity(course))] if len(course) else []

    return courses, speeds


def make_comparison(
    row: ModelDifference, record: Record, scores: list[Projections], how: CourseQuery
) -> Compared:
    """Return one vector's comparison, with the differences on one prompt's tokens."""
    n, start = len(record.ids), row.first_token.get(record.id, 0)
    difference = np.array(row.by_token.get(record.id, []), float)
    ours = next(
        (s for s in scores if all(s.origin[k] == getattr(row, k) for k in ("trait", "method", "layer"))), None
    )

    theirs = np.array([])
    if ours is not None and how.scale != "cosine" and len(difference):
        theirs = smooth(ours.on(how.scale)[start : start + len(difference)] + difference, how.window)
    differences = _listed(n, start, smooth(difference, how.window))
    return Compared(**shown(row), differences=differences, theirs=_listed(n, start, theirs))


def shown(row: ModelDifference) -> dict[str, Any]:
    """Return what a page shows of a comparison; the differences of every token of every prompt are too
    much for it.
    """
    return row.model_dump(exclude={"by_token", "first_token", "why"})


def _listed(n: int, start: int, values: np.ndarray) -> Values:
    """Return values that begin at a token as one a token."""
    listed: Values = [None] * n
    listed[start : start + len(values)] = _numbers(values)
    return listed


def _numbers(values: np.ndarray) -> Values:
    return [float(f"{v:.5g}") for v in values]
