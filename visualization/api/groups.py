"""Two groups of a prompt set, compared on every vector."""

from functools import lru_cache
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from analysis.groups import compare_all
from utils.artifacts import read_json
from utils.errors import UserError
from utils.paths import InferencePaths
from visualization.api.courses import Scale, VectorName
from visualization.artifacts import NotThereError, Store
from visualization.readings import read_means, read_prompts, readable

Over = Literal["response", "prompt", "all"]


class Effect(VectorName):
    """One vector's comparison, first group over second, with 95 % intervals."""

    means: tuple[float, float]
    d: float
    d_interval: tuple[float, float]
    auroc: float
    auroc_interval: tuple[float, float]
    p: float
    q: float  # p adjusted over all vectors
    n: tuple[int, int]


class GroupsPage(BaseModel):
    """A prompt set split in two."""

    by: str
    how: str
    over: Over
    scale: Scale
    groups: dict[str, list[str]]  # the first group, the second
    left_out: list[str]
    vectors: list[Effect]


class ValuesPage(BaseModel):
    """One vector's mean projection per prompt."""

    trait: str
    method: str
    layer: int
    values: dict[str, float]


def router(store: Store) -> APIRouter:
    """Return the routes of the groups view."""
    routes = APIRouter(prefix="/experiments/{experiment}/groups", tags=["groups"])

    @routes.get("/stored")
    def show_stored(experiment: str, prompt_set: str, by: str) -> GroupsPage:
        """A comparison that compare_groups left."""
        paths = store.prompt_set(experiment, prompt_set)
        with readable(paths):
            found = [content for file in paths.groups("_").parent.glob("*.json") if (content := read_json(file))["by"] == by]
            if not found:
                raise NotThereError(f"{prompt_set!r} was not split by {by!r}; run analysis/compare_groups.py")
            return GroupsPage(**found[0])

    @routes.get("/by-field")
    def compare_by_field(experiment: str, prompt_set: str, by: str, first: str, second: str, over: Over = "response", scale: Scale = "raw") -> GroupsPage:
        """Compare two values of a field of the prompts, as compare_groups does."""
        paths = store.prompt_set(experiment, prompt_set)
        groups = _members(paths, by, (first, second))
        origins, values = read_means(paths, over, scale)
        frozen = tuple((label, tuple(row.items())) for label, row in values.items())
        found = _compare(frozen, tuple(frozenset(group) for group in groups.values()))
        about: dict[str, Any] = {"by": by, "how": f"by the field {by}", "over": over, "scale": scale, "groups": groups}
        rest = sorted({p["id"] for p in read_prompts(paths)} - {id_ for group in groups.values() for id_ in group})
        return GroupsPage(**about, left_out=rest, vectors=[Effect(**origins[label], **row) for label, row in found.items() if row])

    @routes.get("/values")
    def show_values(experiment: str, prompt_set: str, trait: str, method: str, layer: int, over: Over = "response", scale: Scale = "raw") -> ValuesPage:
        """The points that a comparison rests on."""
        origins, values = read_means(store.prompt_set(experiment, prompt_set), over, scale)
        name: dict[str, Any] = {"trait": trait, "method": method, "layer": layer}
        labels = [label for label, origin in origins.items() if all(origin[k] == v for k, v in name.items())]
        if not labels:
            raise NotThereError(f"{prompt_set!r} was not projected on {trait} {method} {layer}")
        return ValuesPage(**name, values=values[labels[0]])

    return routes


def _members(paths: InferencePaths, by: str, names: tuple[str, str]) -> dict[str, list[str]]:
    """Return the prompts of both groups.

    Raises:
        UserError: the groups are the same, or one has fewer than two prompts.
    """
    outcome = {p["id"]: str(p["metadata"].get(by, "")) for p in read_prompts(paths)}
    groups = {name: sorted(id_ for id_, value in outcome.items() if value == name) for name in names}
    if len(groups) < 2 or any(len(group) < 2 for group in groups.values()):
        raise UserError(f"splitting {paths.prompt_set} by {by} needs two different values with two prompts each")
    return groups


@lru_cache(maxsize=8)
def _compare(values: tuple, groups: tuple[frozenset[str], ...]) -> dict[str, dict | None]:
    return compare_all({label: dict(row) for label, row in values}, [set(group) for group in groups])
