"""How a trait's vectors were trained: what was tried, how each loss fell, and what was kept."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.trained import Training, command_to_train, list_trainings
from traitscope.utils.stage.manifest import why_outdated
from traitscope.visualization.library import Library, readable_trait


class TrainedMethod(Training):
    """One method's training, and whether it is still of what it was learnt from."""

    why_stale: str = ""  # why its files are not what its run left, or read


class TrainingPage(BaseModel):
    """Every training of a trait."""

    methods: list[TrainedMethod]
    command: str  # what trains vectors for this trait


def router(library: Library) -> APIRouter:
    """Return the routes of the training view."""
    routes = APIRouter(prefix="/experiments/{experiment}", tags=["training"])

    @routes.get("/training")
    def show_training(experiment: str, trait: str) -> TrainingPage:
        """Return how every trained method of a trait came about; nothing for a trait without one."""
        paths = library.trait(experiment, trait)
        with readable_trait(paths):
            methods = [_shown(library, paths, training) for training in list_trainings(paths).values()]
        return TrainingPage(methods=methods, command=command_to_train(paths))

    return routes


def _shown(library: Library, paths: TraitPaths, training: Training) -> TrainedMethod:
    why = why_outdated(paths.manifest(f"train_{training.objective}"), paths.root) or ""
    content: dict[str, Any] = training.model_dump()
    return TrainedMethod(**content, why_stale=library.relative(why))
