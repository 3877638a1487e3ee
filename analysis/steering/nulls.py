"""The test's arms: the chosen cell, and the nulls, each with the chances that the vector had."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.evidence import Evidence
from traitscope.analysis.steering.search import Cell
from traitscope.analysis.steering.setting import Setting
from traitscope.analysis.steering.treatments import Treatment, compose
from traitscope.utils.measures.directions import apart_from, draw_mixtures, mix_examples


def draw_nulls(setting: Setting, places: Sequence[Treatment], count: int, seed: int) -> list[list[Treatment]]:
    """Return `count` families of random directions, each with one treatment for every place: the same layers,
    shares and gate as the vector's there, and at each layer orthogonal to it.

    The draws follow the covariance of all responses, whose leading component often is the trait itself, so
    without the last step they would hold the trait, and the clearer a trait, the less it could be proved.

    A family is one random mixture of the examples for all layers, so that its layers point as much alike as a
    trait vector's do; two methods' mixtures are as much alike as the methods' vectors.
    """
    methods = list(dict.fromkeys(place.method for place in places))
    n_examples = len(setting.candidates.activations(places[0].layers[0]))
    mixtures = draw_mixtures(_likeness(places, methods), n_examples, count, seed)

    by_place = [_in_place(setting, place, mixtures[methods.index(place.method)]) for place in places]
    return [list(family) for family in zip(*by_place, strict=True)]


def _likeness(places: Sequence[Treatment], methods: Sequence[str]) -> Tensor:
    """Return the mean cosines [n_methods, n_methods] of the methods' vectors at the layers they share."""
    at: dict[int, dict[str, Tensor]] = {}
    for place in places:
        for site in place.sites:
            at.setdefault(site.layer, {})[place.method] = normalize(site.vector.double(), dim=0)

    shared = [torch.stack([by[m] for m in methods]) for by in at.values() if len(by) == len(methods)]
    if not shared:
        return torch.eye(len(methods), dtype=torch.float64)
    return torch.stack([unit @ unit.T for unit in shared]).mean(0)


def _in_place(setting: Setting, place: Treatment, mixtures: Tensor) -> list[Treatment]:
    """Return one treatment per mixture [count, n_examples], in a place of the vector's."""
    drawn = {s.layer: mix_examples(setting.candidates.activations(s.layer), mixtures) for s in place.sites}
    shares = {site.layer: site.share for site in place.sites}
    found = []

    for i in range(len(mixtures)):
        vectors = compose(setting.intervention.multi_layer, {layer: rows[i] for layer, rows in drawn.items()})
        apart = {site.layer: apart_from(vectors[site.layer], site.vector) for site in place.sites}
        found.append(setting.build("random", apart, shares, place.method))

    return found


def plan_test(
    setting: Setting, cell: Cell, strongest: Cell, nulls: Sequence[Treatment]
) -> dict[str, list[Cell]]:
    """Return what is tried on test: the chosen cell, its largest coherent dose, and the nulls at its dose."""
    return {
        "vector": [cell],
        "strongest": [strongest] if strongest is not cell else [],
        "shuffled labels": [rival_cell(setting, cell)],
        "random": [Cell(null, cell.dose) for null in nulls],
    }


def try_on_test(
    setting: Setting, cells: dict[str, list[Cell]], test: Sequence[str]
) -> tuple[Evidence, list[ArmResult]]:
    """Run every arm of the test in one go."""
    named = {(kind, i): cell for kind, found in cells.items() for i, cell in enumerate(found)}
    arms = [
        Arm("unsteered"),
        Arm("system prompt", system_prompt=setting.candidates.system_prompt(cells["vector"][0].sign)),
    ]

    for (kind, i), cell in named.items():
        name = f"{kind} {i}" if kind in ("shuffled labels", "random") else kind
        signs = (("plus", 1), ("minus", -1)) if cell.treatment.has_opposite else (("plus", 1),)
        arms += [
            Arm(f"{name} {label}", cell.pushes(sign), grades_coherence=kind != "random")
            for label, sign in signs
        ]

    results = setting.bench.measure(arms, test)
    rest = iter(results[2:])
    pairs = {
        key: (next(rest), next(rest) if cell.treatment.has_opposite else None) for key, cell in named.items()
    }
    of_kind = {kind: [pair for (k, _), pair in pairs.items() if k == kind] for kind in cells}
    vector = of_kind["vector"][0]
    return Evidence(
        unsteered=results[0],
        vector=vector,
        randoms=of_kind["random"],
        shuffled=of_kind["shuffled labels"],
        system_prompt=results[1],
        strongest=next(iter(of_kind["strongest"]), None),
        extra=setting.bench.extra({"unsteered": results[0], "plus": vector[0], "minus": vector[1]}),
    ), results


def rival_cell(setting: Setting, cell: Cell) -> Cell:
    """Return the vector that the same method fits to shuffled labels, in the chosen one's place and orthogonal to
    it.
    """
    place = cell.treatment
    vectors = compose(
        setting.intervention.multi_layer,
        {layer: setting.candidates.shuffled(place.method, layer) for layer in place.layers},
    )
    shares = {site.layer: site.share for site in place.sites}
    apart = {site.layer: apart_from(vectors[site.layer], site.vector) for site in place.sites}
    return Cell(setting.build("shuffled", apart, shares, place.method), cell.dose)
