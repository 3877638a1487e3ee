"""The loop of training: from the last checkpoint, or the first step, to the end, for one trait or for several."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from traitscope.extraction.training.course import Learned, Progress, Start
from traitscope.extraction.training.learning import Learning, factor_at, items_a_step, run_units
from traitscope.extraction.training.objectives import Objective
from traitscope.extraction.training.options import TrainOptions
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.model.steered_costs import Passes
from traitscope.utils.model.upper import UpperPart

LOOKS = 10  # validations of a whole training
COSMETIC = ("gradient_checkpointing", "traits_a_pass")  # options that change nothing of a vector
SAID = (
    "texts_a_step",
    "schedule",
    "warmup",
    "free_norm",
    "train_doses",
    "train_opposite",
    "opposite",
    "positions",
)


@dataclass(frozen=True, eq=False)
class Task:
    """One trait to be learnt: what is lowered, from where, and where its progress stands."""

    objective: Objective
    starts: Sequence[Start]
    progress: Progress


@dataclass(eq=False)
class Run:
    """A task under way."""

    task: Task
    learning: Learning
    name: str  # a digest of all that decides it, by which its checkpoints are known
    steps: int
    done: int  # steps taken

    @property
    def goes_on(self) -> bool:
        return self.done < self.steps and bool(self.learning.going)

    @property
    def is_due(self) -> bool:
        """Whether the step just taken is one after which is validated."""
        return self.done % max(1, self.steps // LOOKS) == 0 or self.done == self.steps

    def restore(self) -> None:
        """Go on from the last checkpoint of this very training, where there is one."""
        for step in range(self.steps, 0, -1):
            if kept := self.task.progress.journal.answers.get(key_of(self.name, step)):
                self.learning.restore(kept)
                self.done = step
                return


def open_passes(part: UpperPart, tasks: Sequence[Task], options: TrainOptions) -> Passes:
    """Return the passes that the tasks share, with nothing read yet."""
    layers = [start.layer for task in tasks for start in task.starts]
    return Passes(part, layers, options.positions, options.gradient_checkpointing)


def learn(passes: Passes, task: Task, options: TrainOptions) -> list[Learned]:
    """Learn a task's vectors, as many as there are starts, in one pass a batch; go on where an earlier run was killed.

    Raises:
        UserError: no vector has a validation loss that is finite, or none has left zero.
    """
    (run,) = learn_all(passes, [task], options, task.progress.label)
    learning = run.learning
    _require_learnt(learning)

    learning.rest()
    found = run_units(passes, [learning], {0: learning.validation_units([0])})
    plain = learning.mean_losses(found[0])[0]
    told = {key: asdict(options)[key] for key in SAID} | {"steps": run.steps}
    return [
        Learned(start, learning.values(i), learning.courses[i], plain, told)
        for i, start in enumerate(task.starts)
    ]


def learn_all(passes: Passes, tasks: Sequence[Task], options: TrainOptions, label: str) -> list[Run]:
    """Take every task to its end, the rows of all in the same passes; each keeps checkpoints in its own journal, and
    goes on from them whether alone or with others.
    """
    runs = _open_runs(passes, tasks, options)
    new = [k for k, run in enumerate(runs) if run.done == 0]
    learnings = [run.learning for run in runs]
    wanted = {k: units for k in new if (units := learnings[k].first_units())}
    for k, found in run_units(passes, learnings, wanted, leads_back=True).items():
        learnings[k].begin(found)
    _validate(passes, runs, new, 0.0)

    total, done = (sum(numbers) for numbers in zip(*((r.steps, r.done) for r in runs), strict=True))
    with tqdm(total=total, initial=done, desc=label, unit="step", disable=None, leave=False) as bar:
        while going := [k for k, run in enumerate(runs) if run.goes_on]:
            _step(passes, runs, going, options)
            bar.update(len(going))
            bar.set_postfix(loss=f"{min(c.best_loss for r in runs for c in r.learning.courses):.3f}")
    return runs


def _open_runs(passes: Passes, tasks: Sequence[Task], options: TrainOptions) -> list[Run]:
    runs, first = [], 0
    for task in tasks:
        objective = task.objective
        objective.begin(passes)
        learning = Learning(passes, objective, task.starts, options, first)
        first += len(task.starts)

        size = items_a_step(objective, options)
        steps = math.ceil(options.epochs * len(objective.train) / size) if options.epochs else options.steps
        run = Run(task, learning, _name(task, options, passes.lm.identity), steps, 0)
        run.restore()
        runs.append(run)
    return runs


def _name(task: Task, options: TrainOptions, identity: dict[str, Any]) -> str:
    objective = task.objective
    settings = {k: v for k, v in asdict(options).items() if k not in COSMETIC}
    items = [[[asdict(text) for text in item] for item in part] for part in (objective.train, objective.val)]
    starts = [asdict(start) for start in task.starts]
    return key_of(type(objective).__name__, starts, settings, items, identity)


def _step(passes: Passes, runs: Sequence[Run], going: Sequence[int], options: TrainOptions) -> None:
    """Take a step with every run that goes on, and validate those that are due."""
    learnings = [run.learning for run in runs]
    wanted = {k: learnings[k].step_units(runs[k].done) for k in going}
    factors = {k: factor_at(runs[k].done, runs[k].steps, options) for k in going}

    for k, found in run_units(passes, learnings, wanted, leads_back=True).items():
        learnings[k].step(found, factors[k])
        runs[k].done += 1

    due = [k for k in going if runs[k].is_due]
    for k in due:
        _validate(passes, runs, [k], factors[k])
        runs[k].task.progress.journal.add(key_of(runs[k].name, runs[k].done), learnings[k].as_json())


def _validate(passes: Passes, runs: Sequence[Run], due: Sequence[int], factor: float) -> None:
    """Look at the runs that are due, after a step at a share of the learning rate."""
    learnings = [run.learning for run in runs]
    wanted = {k: learnings[k].validation_units(learnings[k].going) for k in due}
    for k, found in run_units(passes, learnings, wanted).items():
        runs[k].task.progress.watch(learnings[k].validate(runs[k].done, found, factor))


def _require_learnt(learning: Learning) -> None:
    if learning.best.any() and any(math.isfinite(course.best_loss) for course in learning.courses):
        return
    why = next(
        (c.ended for c in learning.courses if "finite" in c.ended), "no step lowered the validation loss"
    )
    raise UserError(f"nothing was learnt: {why}; try other --learning-rates, or more --steps")
