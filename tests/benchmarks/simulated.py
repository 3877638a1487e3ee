"""Simulated texts for stage 5: models whose answers' scores follow from the pushes by laws that are known."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student_t
from torch import Tensor
from torch.nn.functional import normalize

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.setting import Candidates, Protocol
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import Score
from traitscope.utils.measures.separation import separation
from traitscope.utils.records.vectors import Separation

D, N_EXAMPLES, DEPTH = 48, 60, 30
UNIT = 0.2  # the dose at which effects have the size that a world names


@dataclass(frozen=True)
class World:
    """A model whose answers' scores follow from the pushes by a law that is known."""

    name: str
    tail: str = "normal"  # of random directions' effects: normal, t3 or one in ten
    spread: float = 8.0  # points: their standard deviation, at dose 0.2
    noise: float = 12.0  # points: of one answer's score
    base: tuple[float, float] = (30.0, 70.0)  # unsteered scores
    whole: bool = False  # scores are whole numbers
    layers: int = 4
    methods: int = 2
    likeness: float = 0.9  # of the activations of two layers
    effects_alike: float = 0.9  # of one direction's effects at two layers
    gains: float = 1.0  # how many times as much the last layer reacts as the first
    drift: float = 0.0  # points that any push adds, at dose 0.2
    doses_alike: float = 1.0  # of one direction's effects at dose 0 and at dose 0.4
    clusters: int = 1  # questions that share half of their noise
    questions: int = 16
    share: float = 0.0  # of the activations' variance that the trait's own direction carries
    gain: float = 0.0  # points along the trait's own direction, at dose 0.2
    true_vector: bool = False  # the vector is that direction, else one more random mixture
    pairs: int = Protocol().random_pairs
    choose_by: str = "depth"
    held_out: str = (
        "by lot"  # whose sides the held-out responses have: drawn by lot, the trait's, or nothing is
    )

    @property
    def keys(self) -> list[tuple[str, int]]:
        places = np.linspace(0, DEPTH - 1, self.layers).round().astype(int) if self.layers > 1 else [17]
        return [(f"method {m}", int(layer)) for m in range(self.methods) for layer in places]


class Bench:
    """One draw of a world: a model, its activations, and a vector."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed
        self.protocol = Protocol(random_pairs=world.pairs)
        self.rng = np.random.default_rng(seed)
        count = 2 * world.questions
        self.questions = [f"question {i}" for i in range(count)]
        self.base = dict(zip(self.questions, self.rng.uniform(*world.base, count), strict=True))
        self.trait = _unit(self.rng)
        self.layers = sorted({layer for _, layer in world.keys})
        self.weights = self._alike(world.effects_alike)
        self.late_weights = self._alike(world.effects_alike)
        self.activations = self._activations()

    def _alike(self, likeness: float) -> dict[int, np.ndarray]:
        """Return, per layer, the unit direction along which effects are read, alike between layers."""
        common, rest = _unit(self.rng), math.sqrt(1 - likeness**2)
        # the trait's own direction does what `gain` says, and nothing else
        return {
            layer: _apart(likeness * common + rest * _unit(self.rng), self.trait) for layer in self.layers
        }

    def _activations(self) -> dict[int, Tensor]:
        world, rng = self.world, self.rng
        common, rest = rng.normal(size=(N_EXAMPLES, D)), math.sqrt(1 - world.likeness**2)
        sides = np.repeat([1.0, -1.0], N_EXAMPLES // 2)[:, None]
        # a component of that share of the variance
        size = math.sqrt(D * world.share / (1 - world.share)) if world.share < 1 else 0.0
        shown = size * sides * self.trait
        found = {}
        for layer in self.layers:
            own = world.likeness * common + rest * rng.normal(size=(N_EXAMPLES, D))
            found[layer] = torch.tensor(own + shown).float()
        return found

    def candidates(self) -> Candidates:
        """Return the vectors, which are the trait's direction or mixtures like any random one."""
        world = self.world
        mixture = {m: self.rng.normal(size=N_EXAMPLES) for m in ("common", *(k for k, _ in world.keys))}

        def vector(method: str, layer: int) -> Tensor:
            if world.true_vector:
                return torch.tensor(self.trait).float()
            mixed = 0.9 * mixture["common"] + math.sqrt(1 - 0.81) * mixture[method]
            centred = self.activations[layer] - self.activations[layer].mean(0)
            return torch.tensor(mixed).float() @ centred

        def shuffled(method: str, layer: int) -> Tensor:
            sides = np.random.default_rng([self.seed, 1]).permutation(N_EXAMPLES) < N_EXAMPLES // 2
            acts = self.activations[layer]
            return acts[sides].mean(0) - acts[~sides].mean(0)

        vectors = {key: vector(*key) for key in world.keys}
        # of one more random direction it is not known, so that nothing but its effect can give it away
        is_known = world.share > 0 and world.held_out != "nothing"
        return Candidates(
            vectors,
            self.activations.__getitem__,
            np.arange(N_EXAMPLES) < N_EXAMPLES // 2,
            shuffled,
            1,
            lambda wanted: f"show it {wanted}",
            separation={key: self._reading(v) for key, v in vectors.items()} if is_known else {},
        )

    def _reading(self, vector: Tensor) -> Separation:
        """Return how a vector tells twelve held-out responses of a side apart."""
        world = self.world
        shown = np.repeat([1.0, -1.0], 12)
        size = math.sqrt(D * world.share / (1 - world.share))
        responses = self.rng.normal(size=(24, D)) + size * shown[:, None] * self.trait
        sides = shown if world.held_out == "the trait's" or world.true_vector else self.rng.permutation(shown)
        projected = responses @ vector.double().numpy()
        return Separation.model_validate(separation(projected[sides > 0], projected[sides < 0], 0.0))

    def open(self, questions) -> ArmResult:
        return self.measure([Arm("unsteered")], questions)[0]

    def norms(self) -> list[float]:
        return [100.0] * DEPTH

    def gate(self, vector, layer, quantile) -> float:
        return 0.0

    def extra(self, arms) -> dict:
        return {}

    def measure(self, arms, questions) -> list[ArmResult]:
        return [self._answer(arm, questions) for arm in arms]

    def _answer(self, arm: Arm, questions) -> ArmResult:
        world = self.world
        shift = sum(self._effect(p.vector, p.layer, p.coefficient) for p in arm.pushes)
        force = sum(abs(p.coefficient) * float(p.vector.norm()) for p in arm.pushes) / 100
        marks = [[p.layer, p.coefficient, p.vector[:2].tolist()] for p in arm.pushes]
        rng = np.random.default_rng([self.seed, int(key_of([arm.name, marks, len(questions)]), 16) % 2**32])
        own = rng.normal(size=len(questions))
        shared = np.repeat(rng.normal(size=len(questions)), world.clusters)[: len(questions)]
        noise = own if world.clusters == 1 else (own + shared) / math.sqrt(2)
        base = np.array([self.base[q] for q in questions])
        values = np.clip(base + shift + world.noise * noise, 0, 100)
        values = values.round() if world.whole else values

        n = len(questions)
        coherence = [Score(95.0 if force < 0.24 else 20.0)] * n
        scores = [Score(float(v)) for v in values]
        return ArmResult(arm, list(questions), [[1]] * n, [[2]] * n, ["text"] * n, scores, coherence)

    def _effect(self, vector: Tensor, layer: int, coefficient: float) -> float:
        """Return the points that a push adds: odd in its sign but for the drift."""
        world = self.world
        unit = normalize(vector.double(), dim=0).numpy()
        dose = coefficient * float(vector.norm()) / 100
        late = min(abs(dose) / 0.4, 1.0) * (1 - world.doses_alike)
        along = math.sqrt(D) * float(
            unit @ _normalised((1 - late) * self.weights[layer] + late * self.late_weights[layer])
        )
        gain = world.gains ** (layer / DEPTH)
        direction = world.spread * TAILS[world.tail](along) * (abs(dose) / UNIT) ** 1.5 * np.sign(dose)
        trait = world.gain * float(unit @ self.trait) * dose / UNIT
        return gain * (direction + trait) + world.drift * abs(dose) / UNIT


TAILS: dict[str, Callable[[float], float]] = {  # of a standard normal value, to standard deviation 1
    "normal": lambda x: x,
    "t3": lambda x: float(student_t.ppf(norm.cdf(x), 3)) / math.sqrt(3),
    "one in ten": lambda x: math.sqrt(10) * math.copysign(abs(x) > norm.ppf(0.95), x),
}


def _unit(rng: np.random.Generator) -> np.ndarray:
    return _normalised(rng.normal(size=D))


def _apart(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    return _normalised(values - (values @ unit) * unit)


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


def nulls() -> Iterator[World]:
    """Worlds in which the vector is one more random direction."""
    plain = World("normal")
    yield plain
    yield replace(plain, name="normal, weak", spread=3.5, noise=20.0)
    yield replace(plain, name="t, 3 degrees of freedom", tail="t3")
    yield replace(plain, name="one direction in ten matters", tail="one in ten")
    yield replace(plain, name="floor, whole numbers", base=(0.0, 4.0), whole=True)
    yield replace(plain, name="ceiling", base=(94.0, 100.0))
    yield replace(plain, name="clusters of four questions", clusters=4)
    yield replace(plain, name="every push adds 15", drift=15.0)
    yield replace(plain, name="last layers react 5 times as much", gains=5.0)
    yield replace(plain, name="layers alike, effects less", likeness=0.985, effects_alike=0.7, layers=30)
    yield replace(plain, name="other effects at other doses", doses_alike=0.0)
    yield replace(plain, name="one candidate", layers=1, methods=1)
    yield replace(plain, name="sixty candidates", layers=30)
    yield replace(plain, name="sixty candidates, one in ten", layers=30, tail="one in ten")
    yield replace(plain, name="40 questions", questions=40)
    yield replace(plain, name="40 questions, t3", questions=40, tail="t3")


def exact() -> Iterator[World]:
    """The same, where steered effects choose among the candidates, and every random direction chooses too."""
    for world in nulls():
        if world.name in ("normal", "t, 3 degrees of freedom", "last layers react 5 times as much"):
            yield replace(world, name=f"{world.name}, by steering", choose_by="steering")


def mixtures() -> Iterator[World]:
    """Worlds in which the vector is a random mixture of activations that carry a real trait."""
    plain = World("", gain=28.0, spread=3.5, noise=19.8)
    for share in (0.05, 0.1, 0.2, 0.3, 0.5):
        yield replace(plain, name=f"mixture, trait carries {share:.0%}", share=share)
    # a mixture that holds the trait by luck steers, and tells the trait's own sides apart: it is no chance
    yield replace(plain, name="the same at 20%, nothing held out", share=0.2, held_out="nothing")
    yield replace(
        plain, name="the same at 20%, held-out sides are the trait's", share=0.2, held_out="the trait's"
    )


def traits() -> Iterator[World]:
    """Worlds with one true direction, at the noise of the embedded model: an odd part's standard error of 3.5
    over 16 questions, random directions' spread of 5.0.
    """
    plain = World("", share=0.2, true_vector=True, spread=3.5, noise=19.8)
    for gain in (5.0, 10.0, 15.0, 25.0):
        yield replace(plain, name=f"+{gain:g} points, the trait carries 20% of the variance", gain=gain)
    for share in (0.05, 0.5):
        yield replace(plain, name=f"+15 points, the trait carries {share:.0%}", gain=15.0, share=share)
    yield replace(plain, name="+10 points, 40 questions", gain=10.0, questions=40)
    yield replace(plain, name="+10 points, 48 random pairs", gain=10.0, pairs=48)
