"""Scores as they are drawn: on a scale, smoothed, with what moves in them, beside another model's."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Query
from pydantic import BaseModel

from inference.dynamics import DynamicsOptions, describe, smooth, velocity
from inference.known_points import turn_of
from inference.records import Record, Scores

Scale = Literal["raw", "centered", "cosine"]
FIRST = 4  # traits that are shown when none is named
Values = list[float | None]  # one a token; null where there is no reading


class Figures(BaseModel):
    """What monitor_dynamics says of a response: of its centered scores, smoothed; tokens count from the response's first."""

    mean: float
    last: float
    peak: float
    persistence: float
    fastest: float
    mean_velocity: float
    roughness: float
    commitment: int | None
    peak_at: int
    fastest_at: int
    n_tokens: int


class KnownPoint(BaseModel):
    """Where the prompt set says that the trait should turn, and the change of its mean there."""

    where: str
    expect: str
    token: int
    change: float


class VectorName(BaseModel):
    """A vector that the prompt was projected on, and why this one."""

    trait: str
    method: str
    layer: int
    why: str = ""


class Course(VectorName):
    """One vector's scores on every token."""

    norm: float  # ‖v‖: the distance between the means of the trait's two sides
    centre: float
    scores: Values
    smoothed: Values  # the trailing mean, prompt and response apart
    velocity: Values  # smoothed, minus the smoothed score of the token before
    response: Figures | None
    known_point: KnownPoint | None


class Difference(BaseModel):
    """The other model minus this one: the mean over prompts with its 95 % interval."""

    mean: float
    low: float
    high: float


class Stretch(BaseModel):
    """Tokens on which two models differ much."""

    id: str
    start: int
    mean: float
    text: str


class Compared(VectorName):
    """One vector's comparison, over all prompts and on the tokens of one."""

    difference: Difference
    d: float
    p: float
    q: float
    n: int
    top: list[Stretch]
    differences: Values  # on every token of the prompt, smoothed
    theirs: Values  # the other model's smoothed scores; null on the cosine scale


class Reading(BaseModel):
    """How scores are shown."""

    prompt: str
    scale: Scale = "centered"
    window: Annotated[int, Query(ge=1, le=200)] = DynamicsOptions.window
    traits: str = ""  # separated by commas; by default the first few
    vector: str = ""  # "method layer"; by default each trait's first, which is its best unless others were asked for

    def choose(self, names: list[dict[str, Any]]) -> list[bool]:
        """Return which of the vectors are shown."""
        wanted = self.traits.split(",") if self.traits else list(dict.fromkeys(name["trait"] for name in names))[:FIRST]
        first = {name["trait"]: i for i, name in reversed(list(enumerate(names)))}
        label = [f"{name['method']} {name['layer']}" for name in names]
        return [n["trait"] in wanted and (label[i] == self.vector if self.vector else first[n["trait"]] == i) for i, n in enumerate(names)]


def make_course(record: Record, scores: Scores, how: Reading) -> Course:
    """Return one vector's course; the figures are those of monitor_dynamics over the response."""
    on_scale, all_tokens = scores.on(how.scale), record.span("all")
    smoothed, speed = _smoothed(record, on_scale, how.window)
    figures = describe(scores.on("centered")[record.span("response")], scores.origin["norm"], DynamicsOptions(window=how.window))
    turn = turn_of(record, scores)
    return Course(
        **{name: scores.origin[name] for name in ("trait", "method", "layer", "why", "norm", "centre")},
        scores=_listed(len(record.ids), all_tokens.start, on_scale[all_tokens]),
        smoothed=smoothed,
        velocity=speed,
        response=Figures(**figures) if figures else None,
        known_point=KnownPoint(**turn) if turn else None,
    )


def _smoothed(record: Record, values: np.ndarray, window: int) -> tuple[Values, Values]:
    """Return the smoothed scores and their velocity, as the figures have them: prompt and response each for itself."""
    courses: Values = [None] * len(values)
    speeds: Values = [None] * len(values)
    for span in map(record.span, ("prompt", "response")):
        course = smooth(values[span], window)
        courses[span] = _numbers(course)
        speeds[span] = [None, *_numbers(velocity(course))] if len(course) else []
    return courses, speeds


def make_comparison(row: dict[str, Any], record: Record, scores: list[Scores], how: Reading) -> Compared:
    """Return one vector's comparison, with the differences on one prompt's tokens."""
    n, start = len(record.ids), row["first_token"].get(record.id, 0)
    difference = np.array(row["by_token"].get(record.id, []), float)
    ours = next((s for s in scores if all(s.origin[k] == row[k] for k in ("trait", "method", "layer"))), None)
    theirs = np.array([])
    if ours is not None and how.scale != "cosine" and len(difference):
        theirs = smooth(ours.on(how.scale)[start : start + len(difference)] + difference, how.window)
    figures = {name: row[name] for name in ("trait", "method", "layer", "difference", "d", "p", "q", "n", "top")}
    return Compared(**figures, differences=_listed(n, start, smooth(difference, how.window)), theirs=_listed(n, start, theirs))


def _listed(n: int, start: int, values: np.ndarray) -> Values:
    """Return values that begin at a token as one a token."""
    listed: Values = [None] * n
    listed[start : start + len(values)] = _numbers(values)
    return listed


def _numbers(values: np.ndarray) -> Values:
    return [float(f"{v:.5g}") for v in values]
