"""Many vectors learnt at once: each with its own learning rate, its own start, order of texts and end."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from traitscope.extraction.training.course import (
    Course,
    Look,
    Start,
    course_as_json,
    pack,
    read_course,
    unpack,
)
from traitscope.extraction.training.objectives import Item, Objective
from traitscope.extraction.training.options import TrainOptions
from traitscope.utils.files.journal import key_of
from traitscope.utils.model.batching import halve_on_oom
from traitscope.utils.model.steered_costs import Passes, Unit

CLIP = 1.0  # longest gradient of a vector
FIRST = 16  # items from which a vector takes its first direction


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
    """Vectors of one trait on the way: parameters in float32 whatever the model's dtype, one optimiser step for all.

    It says which units it wants to be run, and takes what they came to: `run_units` runs those of several traits in
    the same passes.
    """

    def __init__(
        self,
        passes: Passes,
        objective: Objective,
        starts: Sequence[Start],
        options: TrainOptions,
        first: int = 0,
    ) -> None:
        """Begin at zero.

        Args:
            first: The place of the first vector among all that share the passes.
        """
        self.passes, self.objective, self.starts, self.options = passes, objective, starts, options
        self.first = first
        self.root = math.sqrt(passes.lm.d_model)
        blank = torch.zeros(passes.lm.d_model, device=passes.lm.device)
        self.parameters = [nn.Parameter(blank.clone()) for _ in starts]
        self.adam = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in self.parameters])
        self.courses = [Course() for _ in starts]
        self.best = torch.stack([p.detach().clone() for p in self.parameters])
        self.sums = torch.zeros(len(starts), 2)  # training loss and its weight since the last validation

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

    def first_units(self) -> list[Unit]:
        """Return what shows a direction where to begin; a free vector begins at zero."""
        if self.options.free_norm:
            return []
        dose = self.options.train_doses[0]
        return [self._unit(i, item, dose) for i in self.going for item in self._draw(i, 0, FIRST)]

    def begin(self, found: "Found") -> None:
        """Begin with directions: each where the loss falls fastest from the unsteered model, on the first of its own
        texts.
        """
        if self.options.free_norm:
            return
        with torch.no_grad():
            for parameter, own, course in zip(self.parameters, found.gradient, self.courses, strict=True):
                if not own.norm() > 0:
                    course.ended = "the loss has no finite gradient that is not zero"
                    continue
                parameter.copy_(-own * (self.root / own.norm()))
        self.best = torch.stack([p.detach().clone() for p in self.parameters])

    def step_units(self, step: int) -> list[Unit]:
        """Return what a step of every vector that still learns is computed on."""
        size = items_a_step(self.objective, self.options)
        units = []
        for i in self.going:
            items = self._draw(i, step, size)
            draw = random.Random(key_of("doses", self.starts[i].seed, step))
            doses = draw.choices(self.options.train_doses, k=len(items))
            units += [self._unit(i, item, dose) for item, dose in zip(items, doses, strict=True)]
        return units

    def step(self, found: "Found", factor: float) -> None:
        """Take a step with every vector that still learns, at a share of its learning rate."""
        for unit, loss in found.losses:
            own = unit.vector - self.first
            self.sums[own] += torch.tensor([loss, self.objective.weight(unit.item)])
            self.courses[own].tokens_seen += unit.n_tokens

        for i, parameter in enumerate(self.parameters):
            parameter.grad = None  # of a vector that has ended: the optimiser leaves it alone
            gradient = found.gradient[i]
            if i in self.going and not gradient.isfinite().all():
                self.courses[i].ended = "the gradient was not finite"
            elif i in self.going:
                if not self.options.free_norm:  # only what turns it
                    gradient = gradient - parameter.detach() * (gradient @ parameter.detach()) / self.root**2
                parameter.grad = gradient * min(1.0, CLIP / max(float(gradient.norm()), 1e-12))
                self.adam.param_groups[i]["lr"] = self.starts[i].learning_rate * factor

        self.adam.step()
        if not self.options.free_norm:
            with torch.no_grad():
                for i in self.going:
                    self.parameters[i].mul_(self.root / self.parameters[i].norm())

    def validation_units(self, vectors: Sequence[int]) -> list[Unit]:
        """Return the validation items under each vector; they take the doses in turn."""
        doses = self.options.train_doses
        return [
            self._unit(i, item, doses[k % len(doses)])
            for i in vectors
            for k, item in enumerate(self.objective.val)
        ]

    def validate(self, step: int, found: "Found", factor: float) -> list[Look]:
        """Note the validation loss of every vector that still learns, keep the best of each, and return how they stand.

        Args:
            factor: The share of the learning rate at the last step.
        """
        losses, looks = self.mean_losses(found), []
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

    def mean_losses(self, found: "Found") -> dict[int, float]:
        """Return each vector's mean loss on what was run."""
        sums: dict[int, list[float]] = {}
        for unit, loss in found.losses:
            own = sums.setdefault(unit.vector - self.first, [0.0, 0.0])
            own[0] += loss
            own[1] += self.objective.weight(unit.item)
        return {i: total / weight for i, (total, weight) in sums.items()}

    def rest(self) -> None:
        """Take the first vector away, so that what is run next is the unsteered model; the best are kept."""
        with torch.no_grad():
            self.parameters[0].zero_()

    def _unit(self, vector: int, item: Item, dose: float) -> Unit:
        return self.objective.unit(item, self.first + vector, self.force(vector, dose))

    def _draw(self, vector: int, step: int, size: int) -> list[Item]:
        """Return a step's items: every one once before any comes again, in an order of the vector's own seed."""
        items, seed = self.objective.train, self.starts[vector].seed
        size = min(size, len(items))
        places = [divmod(k, len(items)) for k in range(step * size, (step + 1) * size)]
        return [items[_order(seed, epoch, len(items))[place]] for epoch, place in places]

    def as_json(self) -> dict[str, Any]:
        """Return all that the next step depends on; a few kilobytes a vector."""
        states = [self.adam.state[p] for p in self.parameters]
        blank = torch.zeros_like(self.parameters[0])
        return {
            "parameters": pack(torch.stack([p.detach() for p in self.parameters])),
            "best": pack(self.best),
            "first": pack(torch.stack([s.get("exp_avg", blank) for s in states])),
            "second": pack(torch.stack([s.get("exp_avg_sq", blank) for s in states])),
            "steps": [float(s.get("step", 0)) for s in states],
            "courses": [course_as_json(course) for course in self.courses],
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `as_json` returned."""
        shape, device = (len(self.starts), self.passes.lm.d_model), self.passes.lm.device
        tensors = {
            name: unpack(kept[name], shape).to(device) for name in ("parameters", "best", "first", "second")
        }
        self.best = tensors["best"]
        self.courses = [read_course(course) for course in kept["courses"]]
        for i, parameter in enumerate(self.parameters):
            with torch.no_grad():
                parameter.copy_(tensors["parameters"][i])
            self.adam.state[parameter] = {
                "step": torch.tensor(kept["steps"][i]),
                "exp_avg": tensors["first"][i].clone(),
                "exp_avg_sq": tensors["second"][i].clone(),
            }


@dataclass(frozen=True)
class Found:
    """What a training's units came to."""

    losses: list[tuple[Unit, float]] = field(default_factory=list)
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))  # of its vectors, [n, d_model]


def run_units(
    passes: Passes,
    learnings: Sequence[Learning],
    wanted: Mapping[int, Sequence[Unit]],
    *,
    leads_back: bool = False,
) -> dict[int, Found]:
    """Run what trainings ask for, those of all in the same passes.

    Args:
        learnings: All that share the passes, in the order of their vectors.
        wanted: {index of a training: its units}.
        leads_back: Add up the gradient of each vector's mean loss.

    Returns:
        {index of a training: what its units came to}, for those that asked.
    """
    of = {id(unit): learnings[k] for k, units in wanted.items() for unit in units}
    weights: dict[int, int] = {}
    for units in wanted.values():
        for unit in units:
            weight = of[id(unit)].objective.weight(unit.item)
            weights[unit.vector] = weights.get(unit.vector, 0) + weight
    vectors = torch.stack([p.detach() for learning in learnings for p in learning.parameters])
    vectors.requires_grad_(leads_back)
    gradient = torch.zeros_like(vectors)

    def run(batch: Sequence[Unit]) -> list[tuple[Unit, float]]:
        with torch.set_grad_enabled(leads_back):
            costs = passes.losses(vectors, batch)
            losses = [of[id(u)].objective.loss(u.item, c) for u, c in zip(batch, costs, strict=True)]
            if leads_back:  # the sum: a mean over all rows would tie the vectors together
                shares = [loss / weights[u.vector] for u, loss in zip(batch, losses, strict=True)]
                gradient.add_(torch.autograd.grad(torch.stack(shares).sum(), vectors)[0])
        return list(zip(batch, torch.stack(losses).tolist(), strict=True))

    asked = [unit for units in wanted.values() for unit in units]
    ran = [pair for batch in passes.batches(asked) for pair in halve_on_oom(run, batch)]
    found = {}
    for k in wanted:
        learning = learnings[k]
        own = gradient[learning.first : learning.first + len(learning.starts)]
        found[k] = Found([(unit, loss) for unit, loss in ran if of[id(unit)] is learning], own)
    return found


def items_a_step(objective: Objective, options: TrainOptions) -> int:
    """Return how many items a step is computed on: a pair of answers is two texts."""
    wanted = max(1, options.texts_a_step // len(objective.train[0]))
    return min(wanted, len(objective.train))


@lru_cache(maxsize=256)
def _order(seed: int, epoch: int, size: int) -> list[int]:
    """Return the order in which a vector meets its texts."""
    order = list(range(size))
    random.Random(key_of("order", seed, epoch)).shuffle(order)
    return order
