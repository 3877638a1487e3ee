"""Pictures of how vectors were trained: the loss of every one that was tried, step by step.

For example:

    python analysis/draw_training.py --experiment demo --traits behavioral/formality
"""

import math
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

import matplotlib

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_figure
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.trained import Training, Tried, command_to_train, list_trainings
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag

ACROSS = 3  # panels beside one another
COLOURS = ("#3a5bc7", "#d97706", "#0d8a72", "#b0417c", "#7a7e87", "#8a5a2b")  # by learning rate


@dataclass(frozen=True)
class FigureOptions:
    """Draw training and validation loss by step."""

    experiment: str = flag(help="Experiment in which vectors were trained for these traits.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))


def draw_training(options: FigureOptions) -> None:
    """Draw every trait's figure.

    Raises:
        UserError: a trait has no vector that was trained.
    """
    each = Each([TraitPaths(options.experiment, trait) for trait in options.traits])
    each.do(draw_trait)
    each.finish()


def draw_trait(paths: TraitPaths) -> None:
    """Draw one trait's figure."""
    trainings = [training for training in list_trainings(paths).values() if training.tried]
    if not trainings:
        raise UserError(f"no vector of {paths.trait} was trained by steps; run {command_to_train(paths)}")
    write_figure(paths.steering_figure("training"), draw_curves(paths.trait, trainings))
    print(paths.steering_figure("training").relative_to(paths.root))


def draw_curves(trait: str, trainings: Sequence[Training]) -> Any:
    """Draw the losses by step, a panel for every method and layer. Solid: validation; dashed: training. The vector
    that was kept is drawn strongly, and ringed where it was best.
    """
    places = [(training, layer) for training in trainings for layer in training.layers]
    across = min(len(places), ACROSS)
    down = math.ceil(len(places) / across)
    figure, grid = plt.subplots(
        down, across, figsize=(1.8 + 3.9 * across, 0.6 + 3.1 * down), layout="constrained", squeeze=False
    )
    for axes, (training, layer) in zip(grid.flat, places, strict=False):
        _draw_panel(axes, training, layer)
    for axes in grid.flat[len(places) :]:
        axes.set_visible(False)

    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    figure.suptitle(f"{trait}: validation (solid) and training (dashed) loss", fontsize=11)
    return figure


def _draw_panel(axes: Any, training: Training, layer: int) -> None:
    tried = [vector for vector in training.tried if vector.layer == layer]
    rates = sorted({vector.learning_rate for vector in training.tried})
    for vector in sorted(tried, key=lambda vector: vector.is_kept):  # the kept one on top
        _draw_vector(axes, vector, COLOURS[rates.index(vector.learning_rate) % len(COLOURS)])
    if training.plain_loss is not None:
        axes.axhline(training.plain_loss, color="black", linewidth=0.9, linestyle=":", label="unsteered")
    axes.set(xlabel="step", title=f"{training.method}, layer {layer}")
    axes.legend(fontsize=7, frameon=False)


def _draw_vector(axes: Any, vector: Tried, colour: str) -> None:
    """Draw one vector's two curves; a loss that was not finite is a gap."""
    steps = [step for step, _, _ in vector.losses]
    trained, validated = (
        [math.nan if loss is None else loss for loss in losses]
        for losses in ([t for _, t, _ in vector.losses], [v for _, _, v in vector.losses])
    )
    name = f"rate {vector.learning_rate:g}, seed {vector.seed}{', kept' if vector.is_kept else ''}"
    width, strong, faint = (2.2, 1.0, 0.8) if vector.is_kept else (1.2, 0.45, 0.2)
    axes.plot(steps, validated, linewidth=width, label=name, color=colour, alpha=strong)
    axes.plot(steps, trained, linewidth=1.0, linestyle="--", color=colour, alpha=faint)
    if vector.is_kept and vector.best_loss is not None:
        ring = {"markersize": 10, "markerfacecolor": "none", "markeredgecolor": "black"}
        axes.plot(vector.best_step, vector.best_loss, "o", **ring)


if __name__ == "__main__":
    command(draw_training)
