"""Many vectors learnt at once: each with its own learning rate, its own start, order of texts and end."""

import base64
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from traitscope.extraction.training.objectives import Item, Objective
from traitscope.extraction.training.options import TrainOptions
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.steered_costs import Passes, Unit

LOOKS = 10  # validations of a whole training
CLIP = 1.0  # longest gradient of a vector
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
FIRST = 16  # items from which a vector takes its first direction


@dataclass(frozen=True)
class Start:
    """One vector to be learnt."""

    layer: int
    learning_rate: float
    seed: int
    mean_norm: float  # of the residual stream at the layer: the unit of a dose


@dataclass(frozen=True)
class Look:
    """How a vector stood at a validation."""

    start: Start
    step: int
    trained: float | None  # mean training loss since the last validation
    loss: float
    norm: float
    learning_rate: float  # of the step before it


@dataclass(frozen=True)
class Progress:
    """Where a training keeps how far it is, and who is told how it goes."""

    journal: Journal
    label: str = ""
    watch: Callable[[list[Look]], None] = lambda looks: None


@dataclass
class Course:
    """How the learning of one vector went."""

    losses: list[tuple[int, float | None, float]] = field(default_factory=list)  # step, training, validation
    tokens_seen: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    worse: int = 0  # validations since the best
    ended: str = ""  # why it ended before the last step

    def look(self, step: int, trained: float | None, loss: float, patience: int) -> bool:
        """Note a validation; return whether it is the best so far."""
        self.losses.append((step, trained, loss))
        if not math.isfinite(loss):
            self.ended = f"the loss was not finite at step {step}"
            return False
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.worse = step, loss, 0
            return True
        self.worse += 1
        if patience and self.worse >= patience:
            self.ended = f"no lower loss in {patience} validations"
        return False


@dataclass(frozen=True, eq=False)
class Learned:
    """A vector as it was learnt."""

    start: Start
    values: Tensor  # [d_model], float32, on the CPU
    course: Course
    plain_loss: float  # of the unsteered model on the validation texts
    settings: dict[str, Any]  # how it was learnt


def factor_at(step: int, steps: int, options: TrainOptions) -> float:
    """Return the share of the learning rate at a step: it rises over the warm-up, and then falls as the schedule
    says.
    """
    warmup = min(options.warmup, steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        options.schedule
    ]


class Learning:
    """Vectors on the way: parameters in float32 whatever the model's dtype, one optimiser step for all."""

    def __init__(
        self, passes: Passes, objective: Objective, starts: Sequence[Start], options: TrainOptions
    ) -> None:
        self.passes, self.objective, self.starts, self.options = passes, objective, starts, options
        self.root = math.sqrt(passes.lm.d_model)
        blank = torch.zeros(passes.lm.d_model, device=passes.lm.device)
        self.parameters = [nn.Parameter(blank.clone()) for _ in starts]
        self.adam = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in self.parameters])
        self.courses = [Course() for _ in starts]
        self.best = torch.stack([p.detach().clone() for p in self.parameters])
        self.sums = torch.zeros(len(starts), 2)  # training loss and its weight since the last validation

    def aim(self) -> None:
        """Begin with directions: each where the loss falls fastest from the unsteered model, on the first of its own
        texts. A free vector begins at zero.
        """
        if self.options.free_norm:
            return
        items = {i: self._draw(i, 0, FIRST) for i in self.going}
        asked = [(i, item, self.options.train_doses[0]) for i, drawn in items.items() for item in drawn]
        weights = {i: sum(map(self.objective.weight, drawn)) for i, drawn in items.items()}
        gradient = torch.zeros(len(self.starts), self.passes.lm.d_model, device=self.passes.lm.device)
        self._run(asked, weights, gradient)

        with torch.no_grad():
            for parameter, own, course in zip(self.parameters, gradient, self.courses, strict=True):
                if not own.norm() > 0:
                    course.ended = "the loss has no finite gradient that is not zero"
                    continue
                parameter.copy_(-own * (self.root / own.norm()))
        self.best = torch.stack([p.detach().clone() for p in self.parameters])

    @property
    def going(self) -> list[int]:
        """The vectors that still learn."""
        return [i for i, course in enumerate(self.courses) if not course.ended]

    def force(self, vector: int, dose: float) -> float:
        """Return the factor on a parameter: a parameter of length √d at a dose, or as long as it has grown."""
        return (1.0 if self.options.free_norm else dose) * self.starts[vector].mean_norm / self.root

    def values(self, vector: int) -> Tensor:
        """Return the best vector: as long as it was learnt, or at the mean of the doses."""
        return (self.best[vector] * self.force(vector, self._mean_dose)).cpu()

    @property
    def _mean_dose(self) -> float:
        return sum(self.options.train_doses) / len(self.options.train_doses)

    def step(self, step: int, factor: float) -> None:
        """Take one step with every vector that still learns."""
        items = {i: self._draw(i, step, self.options.texts_a_step) for i in self.going}
        doses = {i: self._doses(i, step, len(drawn)) for i, drawn in items.items()}
        asked = [(i, item, doses[i][k]) for i, drawn in items.items() for k, item in enumerate(drawn)]
        weights = {i: sum(map(self.objective.weight, drawn)) for i, drawn in items.items()}

        gradient = torch.zeros(len(self.starts), self.passes.lm.d_model, device=self.passes.lm.device)
        for unit, loss in self._run(asked, weights, gradient):
            self.sums[unit.vector] += torch.tensor([loss, self.objective.weight(unit.item)])
            self.courses[unit.vector].tokens_seen += unit.n_tokens
        self._descend(gradient, factor)

    def _run(
        self, asked: Sequence[tuple[int, Item, float]], weights: dict[int, int], gradient: Tensor | None
    ) -> list[tuple[Unit, float]]:
        """Return the loss of every (vector, item, dose); add up the gradient where one is wanted."""
        units = [self.objective.unit(item, i, self.force(i, dose)) for i, item, dose in asked]
        vectors = torch.stack([p.detach() for p in self.parameters]).requires_grad_(gradient is not None)

        def run(batch: Sequence[Unit]) -> list[tuple[Unit, float]]:
            with torch.set_grad_enabled(gradient is not None):
                costs = self.passes.losses(vectors, batch)
                losses = [self.objective.loss(u.item, c) for u, c in zip(batch, costs, strict=True)]
                if gradient is not None:  # the sum: a mean over all rows would tie the vectors together
                    total = torch.stack(
                        [loss / weights[u.vector] for u, loss in zip(batch, losses, strict=True)]
                    )
                    gradient.add_(torch.autograd.grad(total.sum(), vectors)[0])
            return list(zip(batch, torch.stack(losses).tolist(), strict=True))

        return [pair for batch in self.passes.batches(units) for pair in halve_on_oom(run, batch)]

    def _descend(self, gradient: Tensor, factor: float) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.grad = None  # of a vector that has ended: the optimiser leaves it alone
            if i in self.going and not gradient[i].isfinite().all():
                self.courses[i].ended = "the gradient was not finite"
            elif i in self.going:
                own = gradient[i]
                if not self.options.free_norm:  # only what turns it
                    own = own - parameter.detach() * (own @ parameter.detach()) / self.root**2
                parameter.grad = own * min(1.0, CLIP / max(float(own.norm()), 1e-12))
                self.adam.param_groups[i]["lr"] = self.starts[i].learning_rate * factor

        self.adam.step()
        if not self.options.free_norm:
            with torch.no_grad():
                for i in self.going:
                    self.parameters[i].mul_(self.root / self.parameters[i].norm())

    def validate(self, step: int, factor: float) -> list[Look]:
        """Note the validation loss of every vector that still learns, keep the best of each, and return how they stand.

        Args:
            factor: The share of the learning rate at the last step.
        """
        losses, looks = self.losses_on(self.objective.val, self.going), []
        for i in list(self.going):
            total, weight = self.sums[i].tolist()
            trained = total / weight if weight else None
            if self.courses[i].look(step, trained, losses[i], self.options.patience):
                self.best[i] = self.parameters[i].detach()
            norm = float(self.parameters[i].detach().norm()) * self.force(i, self._mean_dose)
            rate = self.starts[i].learning_rate * factor
            looks.append(Look(self.starts[i], step, trained, losses[i], norm, rate))
        self.sums.zero_()
        return looks

    def plain_loss(self) -> float:
        """Return the unsteered model's mean loss on the validation items."""
        with torch.no_grad():
            self.parameters[0].zero_()  # all is learnt: only the best are asked for now
        return self.losses_on(self.objective.val, [0])[0]

    def losses_on(self, items: Sequence[Item], vectors: Sequence[int]) -> dict[int, float]:
        """Return each vector's mean loss on items, which take the doses in turn."""
        doses = self.options.train_doses
        asked = [(i, item, doses[k % len(doses)]) for i in vectors for k, item in enumerate(items)]
        sums = dict.fromkeys(vectors, 0.0)
        for unit, loss in self._run(asked, {}, None):
            sums[unit.vector] += loss
        return {i: total / sum(map(self.objective.weight, items)) for i, total in sums.items()}

    def _draw(self, vector: int, step: int, size: int) -> list[Item]:
        """Return a step's items: every one once before any comes again, in an order of the vector's own seed."""
        items, seed = self.objective.train, self.starts[vector].seed
        size = min(size, len(items))
        places = [divmod(k, len(items)) for k in range(step * size, (step + 1) * size)]
        return [items[_order(seed, epoch, len(items))[place]] for epoch, place in places]

    def _doses(self, vector: int, step: int, count: int) -> list[float]:
        draw = random.Random(key_of("doses", self.starts[vector].seed, step))
        return draw.choices(self.options.train_doses, k=count)

    def as_json(self) -> dict[str, Any]:
        """Return all that the next step depends on; a few kilobytes a vector."""
        states = [self.adam.state[p] for p in self.parameters]
        blank = torch.zeros_like(self.parameters[0])
        return {
            "parameters": _pack(torch.stack([p.detach() for p in self.parameters])),
            "best": _pack(self.best),
            "first": _pack(torch.stack([s.get("exp_avg", blank) for s in states])),
            "second": _pack(torch.stack([s.get("exp_avg_sq", blank) for s in states])),
            "steps": [float(s.get("step", 0)) for s in states],
            "courses": [_as_json(course) for course in self.courses],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `as_json` returned."""
        shape, device = (len(self.starts), self.passes.lm.d_model), self.passes.lm.device
        tensors = {
            name: _unpack(kept[name], shape).to(device) for name in ("parameters", "best", "first", "second")
        }
        self.best = tensors["best"]
        self.courses = [_as_course(course) for course in kept["courses"]]
        for i, parameter in enumerate(self.parameters):
            with torch.no_grad():
                parameter.copy_(tensors["parameters"][i])
            self.adam.state[parameter] = {
                "step": torch.tensor(kept["steps"][i]),
                "exp_avg": tensors["first"][i].clone(),
                "exp_avg_sq": tensors["second"][i].clone(),
            }


def _as_json(course: Course) -> dict[str, Any]:
    """Return a course with null in place of what is not finite, which JSON does not know."""
    losses = [[step, finite(trained), finite(loss)] for step, trained, loss in course.losses]
    return asdict(course) | {"losses": losses, "best_loss": finite(course.best_loss)}


def _as_course(kept: dict[str, Any]) -> Course:
    losses = [(step, trained, math.nan if loss is None else loss) for step, trained, loss in kept["losses"]]
    best = math.inf if kept["best_loss"] is None else kept["best_loss"]
    return Course(**(kept | {"losses": losses, "best_loss": best}))


def finite(value: float | None) -> float | None:
    """Return a number, or None in place of one that is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _pack(tensor: Tensor) -> str:
    return base64.b64encode(tensor.float().cpu().numpy().tobytes()).decode()


def _unpack(text: str, shape: tuple[int, int]) -> Tensor:
    return torch.tensor(np.frombuffer(base64.b64decode(text), dtype=np.float32).reshape(shape))


@lru_cache(maxsize=256)
def _order(seed: int, epoch: int, size: int) -> list[int]:
    """Return the order in which a vector meets its texts."""
    order = list(range(size))
    random.Random(key_of("order", seed, epoch)).shuffle(order)
    return order


def learn(
    passes: Passes, objective: Objective, starts: Sequence[Start], options: TrainOptions, progress: Progress
) -> list[Learned]:
    """Learn vectors, as many as there are starts, in one pass a batch; go on where an earlier run was killed.

    Raises:
        UserError: no vector has a validation loss that is finite, or none has left zero.
    """
    objective.begin(passes)
    learning = Learning(passes, objective, starts, options)
    size = min(options.texts_a_step, len(objective.train))
    steps = math.ceil(options.epochs * len(objective.train) / size) if options.epochs else options.steps
    every = max(1, steps // LOOKS)

    settings = {k: v for k, v in asdict(options).items() if k != "gradient_checkpointing"}
    items = [[[asdict(text) for text in item] for item in part] for part in (objective.train, objective.val)]
    name = key_of(type(objective).__name__, [asdict(s) for s in starts], settings, items, passes.lm.identity)
    done = _resume(learning, progress.journal, name, steps)
    if done == 0:
        learning.aim()
        progress.watch(learning.validate(0, 0.0))

    with tqdm(total=steps, initial=done, desc=progress.label, unit="step", disable=None, leave=False) as bar:
        for step in range(done, steps):
            if not learning.going:
                break
            factor = factor_at(step, steps, options)
            learning.step(step, factor)
            bar.update()
            if (step + 1) % every == 0 or step + 1 == steps:
                progress.watch(learning.validate(step + 1, factor))
                bar.set_postfix(loss=f"{min(c.best_loss for c in learning.courses):.3f}")
                progress.journal.add(key_of(name, step + 1), learning.as_json())

    _require_learnt(learning)
    plain = learning.plain_loss()
    told = {key: settings[key] for key in SAID} | {"steps": steps}
    return [Learned(s, learning.values(i), learning.courses[i], plain, told) for i, s in enumerate(starts)]


def _resume(learning: Learning, journal: Journal, name: str, steps: int) -> int:
    """Restore the last checkpoint of this very training, and return how many steps it had taken."""
    for step in range(steps, 0, -1):
        if kept := journal.answers.get(key_of(name, step)):
            learning.restore(kept)
            return step
    return 0


def _require_learnt(learning: Learning) -> None:
    if learning.best.any() and any(math.isfinite(course.best_loss) for course in learning.courses):
        return
    why = next(
        (c.ended for c in learning.courses if "finite" in c.ended), "no step lowered the validation loss"
    )
    raise UserError(f"nothing was learnt: {why}; try other --learning-rates, or more --steps")
