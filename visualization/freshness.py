"""How each stage of a trait stands, by its manifest: done, stale and why, or missing."""

from typing import Any, Literal

from pydantic import BaseModel

from traitscope.utils.files.paths import STAGES, TraitPaths
from traitscope.utils.stage.manifest import NOT_DONE, read_manifest, why_outdated
from traitscope.visualization.library import Library


class StageState(BaseModel):
    """One stage of one trait."""

    stage: str
    state: Literal["done", "stale", "missing"]
    why: str = ""
    finished: str | None = None  # ISO 8601
    seconds: float | None = None


def stage_states(library: Library, paths: TraitPaths) -> list[StageState]:
    """Return every stage's state, in order. What a stale stage has left makes the stages that read it
    stale as well.
    """
    states: list[StageState] = []
    stale: set[str] = set()

    for name in STAGES:
        state = _state(name, paths, stale)
        state = state.model_copy(update={"why": library.relative(state.why)})
        stale |= {name} if state.state == "stale" else set()
        states.append(state)

    return states


def _state(name: str, paths: TraitPaths, stale: set[str]) -> StageState:
    manifest = paths.manifest(name)
    why = why_outdated(manifest, paths.root)
    if why == NOT_DONE:
        return StageState(stage=name, state="missing", why=why)

    done = read_manifest(manifest)
    if isinstance(done, str):
        return StageState(stage=name, state="stale", why=done)

    upstream = sorted({w for file in done["inputs"] if (w := paths.writer(paths.root / file)) in stale})
    why = why or (f"reads what {', '.join(upstream)} left, which is stale" if upstream else "")
    about: dict[str, Any] = {key: done.get(key) for key in ("finished", "seconds")}
    return StageState(stage=name, state="stale" if why else "done", why=why, **about)
