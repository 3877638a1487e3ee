"""What was compared on a captured prompt set: two groups of its prompts, or two models on the same tokens."""

from pathlib import Path
from typing import Any

from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.records.shaped import Shaped, read_shaped
from traitscope.utils.records.verdict import Interval


class VectorName(Shaped):
    """A vector that was projected on, and why this one."""

    trait: str
    method: str
    layer: int
    why: str = ""


class GroupEffect(VectorName):
    """One vector's comparison of two groups, first over second, with 95 % intervals."""

    means: tuple[float, float]
    d: float
    d_interval: tuple[float, float]
    auroc: float
    auroc_interval: tuple[float, float]
    p: float
    q: float  # p adjusted over all vectors
    n: tuple[int, int]


class Groups(Shaped):
    """A prompt set split in two: the columns of groups/{field}.json."""

    by: str
    how: str  # in words, where the groups come from
    over: str  # tokens that are averaged: response, prompt or all
    scale: str
    groups: dict[str, list[str]]  # the first group, the second
    left_out: list[str]
    vectors: list[GroupEffect]


class Stretch(Shaped):
    """Tokens on which two models differ much."""

    id: str
    start: int
    mean: float
    text: str


class Difference(VectorName):
    """What two models differ by in one vector's scores: the other minus this one."""

    difference: Interval
    d: float
    p: float
    q: float
    n: int
    top: list[Stretch]


class ModelDifference(Difference):
    """The same, with what it is on every token."""

    by_token: dict[str, list[float]]  # prompt → difference on every token from first_token on
    first_token: dict[str, int]


class Comparison(Shaped):
    """Two models on the same tokens: the columns of compare/{other}.json."""

    experiment: str
    other: str
    over: str
    n_prompts: int
    vectors: list[ModelDifference]


def write_groups(paths: InferencePaths, content: dict[str, Any]) -> Path:
    """Write a comparison of two groups, and return its file."""
    Groups.model_validate(content)
    write_json(paths.groups(content["by"]), content)
    return paths.groups(content["by"])


def list_groups(paths: InferencePaths) -> list[Groups]:
    """Return every comparison of two groups of a prompt set.

    Raises:
        UserError: a file is not what compare_groups writes.
    """
    return [read_shaped(file, Groups) for file in sorted(paths.groups("_").parent.glob("*.json"))]


def write_comparison(paths: InferencePaths, content: dict[str, Any]) -> Path:
    """Write a comparison of two models, and return its file."""
    Comparison.model_validate(content)
    write_json(paths.comparison(content["other"]), content, indent=None)
    return paths.comparison(content["other"])


def read_comparison(paths: InferencePaths, other: str) -> Comparison:
    """Read a comparison of two models.

    Raises:
        UserError: the file is missing, or not what compare_models writes.
    """
    return read_shaped(paths.comparison(other), Comparison)


def list_compared(paths: InferencePaths) -> list[str]:
    """Return the experiments whose model was compared with this one's."""
    return sorted(file.stem for file in paths.comparison("_").parent.glob("*.json"))
