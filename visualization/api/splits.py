"""Two groups of a prompt set, compared on every vector."""

from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.measures.clusters import find_clusters
from traitscope.utils.measures.groups import compare_all
from traitscope.utils.records.comparisons import GroupEffect, Groups, list_groups
from traitscope.visualization.api.curves import Scale
from traitscope.visualization.library import Library, NotThereError
from traitscope.visualization.recall import read_means, read_prompts, readable_set

Over = Literal["response", "prompt", "all"]


class ValuesPage(BaseModel):
    """One vector's mean projection per prompt."""

    trait: str
    method: str
    layer: int
    values: dict[str, float]


class FieldQuery(BaseModel):
    """Two values of a field of the prompts, and what of their tokens is compared."""

    by: str
    first: str
    second: str
    over: Over = "response"
    scale: Scale = "raw"


class ValuesQuery(BaseModel):
    """One vector, and what is averaged of its scores."""

    trait: str
    method: str
    layer: int
    over: Over = "response"
    scale: Scale = "raw"


def router(library: Library) -> APIRouter:
    """Return the routes of the groups view."""
    routes = APIRouter(prefix="/experiments/{experiment}/groups", tags=["groups"])

    @routes.get("/stored")
    def show_stored(experiment: str, prompt_set: str, by: str) -> Groups:
        """A comparison that compare_groups left."""
        paths = library.prompt_set(experiment, prompt_set)
        with readable_set(paths):
            found = [groups for groups in list_groups(paths) if groups.by == by]
            if not found:
                raise NotThereError(f"{prompt_set!r} was not split by {by!r}; run analysis/compare_groups.py")
            return found[0]

    @routes.get("/by-field")
    def compare_by_field(experiment: str, prompt_set: str, asked: Annotated[FieldQuery, Query()]) -> Groups:
        """Compare two values of a field of the prompts, as compare_groups does."""
        paths = library.prompt_set(experiment, prompt_set)
        groups = _members(paths, asked.by, (asked.first, asked.second))
        origins, values = read_means(paths, asked.over, asked.scale)
        frozen = tuple((label, tuple(row.items())) for label, row in values.items())
        fields = {p["id"]: p["metadata"] for p in read_prompts(paths)}
        clusters, shared = find_clusters(fields, asked.by)
        found = _compare(
            frozen,
            tuple(frozenset(group) for group in groups.values()),
            tuple(clusters.items()) if clusters else None,
        )
        about: dict[str, Any] = {
            "by": asked.by,
            "how": f"by the field {asked.by}"
            + (f", prompts of one {shared} taken together" if shared else ""),
            "over": asked.over,
            "scale": asked.scale,
            "groups": groups,
        }
        rest = sorted(
            {p["id"] for p in read_prompts(paths)} - {id_ for group in groups.values() for id_ in group}
        )
        effects = [GroupEffect(**origins[label], **row) for label, row in found.items() if row]

        return Groups(**about, left_out=rest, vectors=effects)

    @routes.get("/values")
    def show_values(experiment: str, prompt_set: str, asked: Annotated[ValuesQuery, Query()]) -> ValuesPage:
        """Return the points that a comparison rests on."""
        origins, values = read_means(library.prompt_set(experiment, prompt_set), asked.over, asked.scale)
        name = asked.model_dump(include={"trait", "method", "layer"})
        labels = [label for label, origin in origins.items() if all(origin[k] == v for k, v in name.items())]
        if not labels:
            raise NotThereError(
                f"{prompt_set!r} was not projected on {asked.trait} {asked.method} {asked.layer}"
            )

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
        raise UserError(
            f"splitting {paths.prompt_set} by {by} needs two different values with two prompts each"
        )

    return groups


@lru_cache(maxsize=8)
def _compare(
    values: tuple, groups: tuple[frozenset[str], ...], clusters: tuple | None
) -> dict[str, dict | None]:
    return compare_all(
        {label: dict(row) for label, row in values},
        [set(group) for group in groups],
        dict(clusters) if clusters else None,
    )
