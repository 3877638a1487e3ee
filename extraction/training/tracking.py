"""How a training goes, told to the trackers that accelerate knows: TensorBoard, Weights & Biases and others.

They watch, and decide nothing: one that fails is left behind with a note, and the training goes on.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from traitscope.extraction.training.course import Learned, Look, Start, finite
from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import TraitPaths

TRACK_HELP = "Trackers that are told how training goes, such as tensorboard,wandb; they change nothing of what is trained."
NAMED = {
    "wandb": "name",
    "trackio": "name",
    "swanlab": "experiment_name",
}  # tracker → its word for a run's name


def require_trackers(names: Sequence[str]) -> None:
    """Raise UserError where a tracker is unknown, or not installed."""
    usable = _usable()
    for name in names:
        if name not in usable:
            known = (
                f"those that are: {', '.join(usable)}"
                if usable
                else "none is: pip install tensorboard, for one"
            )
            raise UserError(f"--track {name}: no such tracker is installed; {known}")


def _usable() -> list[str]:
    """Return the trackers that accelerate finds installed, and those that somebody registered with it."""
    found = {str(kind) for kind in tracking.get_available_trackers()}
    return sorted(found | (tracking.LOGGER_TYPE_TO_CLASS.keys() - set(LoggerType.list())))


class Trackers:
    """The trackers of one training that have not failed yet."""

    def __init__(self, running: dict[str, GeneralTracker]) -> None:
        self.running = running

    def tell(self, call: Callable[[GeneralTracker], Any]) -> None:
        """Tell every tracker something; leave behind whichever fails."""
        for name, tracker in list(self.running.items()):
            try:
                call(tracker)
            except (
                Exception
            ) as error:  # of somebody else's program, or of the network: no reason to lose a training
                self.running.pop(name, None)
                _note(name, error)

    def look(self, looks: Sequence[Look]) -> None:
        """Tell how every vector stood at a validation."""
        if not looks:
            return
        values: dict[str, float | None] = {}
        for look in looks:
            name = name_of(look.start)
            values |= {
                f"{name}/training_loss": look.trained,
                f"{name}/validation_loss": look.loss,
                f"{name}/norm": look.norm,
                f"{name}/dose": look.norm / look.start.mean_norm,
                f"{name}/learning_rate": look.learning_rate,
            }
        known = {key: value for key, value in values.items() if finite(value) is not None}
        self.tell(lambda tracker: tracker.log(known, step=looks[0].step))

    def keep(self, kept: Sequence[Learned]) -> None:
        """Tell which vectors were kept, after everything else: some trackers know no way back."""
        told: dict[str, float] = {}
        for v in kept:
            norm = float(v.values.norm())
            values = {"validation_loss": v.course.best_loss, "unsteered_loss": v.plain_loss}
            values |= {"norm": norm, "dose": norm / v.start.mean_norm, "best_step": v.course.best_step}
            told |= {f"kept/{name_of(v.start)}/{key}": value for key, value in values.items()}
        last = max(v.course.losses[-1][0] for v in kept)
        self.tell(lambda tracker: tracker.log(told, step=last))


def name_of(start: Start) -> str:
    """Return how a vector is called among those that are tried."""
    return f"layer{start.layer}_rate{start.learning_rate:g}_seed{start.seed}"


@contextmanager
def told_of(
    names: Sequence[str], paths: TraitPaths, stage: str, settings: Mapping[str, Any]
) -> Iterator[Trackers]:
    """Start trackers for one training, and end them with it.

    TensorBoard and its like write under the experiment's `tracking/`; the others take the experiment as the project.

    Args:
        settings: What they keep of how it is trained.
    """
    trackers = Trackers({})
    for name in dict.fromkeys(names):
        try:
            trackers.running[name] = _start(name, paths, f"{paths.trait}/{stage}")
        except Exception as error:  # it may want a login, or the network
            _note(name, error)

    plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
    trackers.tell(lambda tracker: tracker.store_init_configuration(plain))
    try:
        yield trackers
    finally:
        trackers.tell(lambda tracker: tracker.finish())


def _start(name: str, paths: TraitPaths, run: str) -> GeneralTracker:
    kind = tracking.LOGGER_TYPE_TO_CLASS[name]
    if kind.requires_logging_directory:
        tracker = kind(run, paths.tracking)
    else:
        tracker = kind(paths.experiment, **({NAMED[name]: run} if name in NAMED else {}))
    tracker.start()
    return tracker


def _note(name: str, error: Exception) -> None:
    print(
        f"note: --track {name}: {first_line(error)}; training goes on without it", file=sys.stderr, flush=True
    )
