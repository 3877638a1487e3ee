"""The test's arms: the chosen cell, and the nulls, each with the chances that the vector had."""

from collections.abc import Sequence

import numpy as np

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.conclusion import Evidence
from traitscope.analysis.steering.search import Cell, Finalist
from traitscope.analysis.steering.setting import Setting
from traitscope.analysis.steering.treatments import compose
from traitscope.utils.measures.directions import draw_directions
from traitscope.utils.measures.intervals import effective_number


def plan_test(
    setting: Setting,
    cell: Cell,
    strongest: Cell,
    finalists: Sequence[Finalist],
    tried: Sequence[tuple[Cell, ArmResult]],
) -> dict[str, list[Cell]]:
    """Return what is tried on test: the chosen cell, its largest coherent dose, and the nulls, each with
    the chances the vector had.
    """
    treatments = list(dict.fromkeys(c.treatment for c, _ in tried))
    return {
        "vector": [cell],
        "strongest": [strongest] if strongest is not cell else [],
        "shuffled labels": rival_cells(setting, cell, finalists),
        "random": random_cells(setting, cell),
        "candidates": [Cell(t, cell.dose) for t in treatments],
    }


def try_on_test(
    setting: Setting, cells: dict[str, list[Cell]], test: Sequence[str]
) -> tuple[Evidence, list[ArmResult]]:
    """Run every arm of the test in one go."""
    named = {
        (kind, i): c
        for kind in ("vector", "strongest", "shuffled labels", "random")
        for i, c in enumerate(cells[kind])
    }
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
    extra = setting.bench.extra({"unsteered": results[0], "plus": vector[0], "minus": vector[1]})
    strongest = next(iter(of_kind["strongest"]), None)
    return Evidence(
        results[0],
        vector,
        of_kind["random"],
        of_kind["shuffled labels"],
        results[1],
        n_independent(cells["candidates"]),
        strongest,
        extra,
    ), results


def n_independent(cells: Sequence[Cell]) -> float:
    """Return how many independent candidates the vector was chosen from: neighbouring layers and methods
    are much alike.
    """
    layers = sorted({layer for cell in cells for layer in cell.treatment.layers})
    rows = []

    for cell in cells:
        unit = {site.layer: site.vector.float() / float(site.vector.norm()) for site in cell.treatment.sites}
        # one layer's vectors are compared wherever they stand: the residual stream is one space; several
        # layers' are summed
        rows.append(np.sum([unit[layer].numpy() for layer in layers if layer in unit], axis=0))

    return effective_number(np.stack(rows))


def random_cells(setting: Setting, cell: Cell) -> list[Cell]:
    """Return random directions in the vector's place: the same layers, shares and dose.

    At every layer a direction is the same random mixture of the examples, so that the layers of one null
    point as much alike as those of a trait vector do. What the choice among layers is worth is paid for in
    `allow_for_selection`, not here: directions at layers that react less would be easy to beat.
    """
    protocol, sites = setting.bench.protocol, {site.layer: site for site in cell.treatment.sites}
    drawn = {
        layer: draw_directions(
            setting.candidates.activations(layer), protocol.random_pairs, protocol.null_seed
        )
        for layer in sites
    }
    shares = {layer: site.share for layer, site in sites.items()}
    cells = []

    for i in range(protocol.random_pairs):
        vectors = compose(setting.intervention.multi_layer, {layer: drawn[layer][i] for layer in sites})
        cells.append(Cell(setting.build("random", vectors, shares, cell.treatment.method), cell.dose))

    return cells


def rival_cells(setting: Setting, cell: Cell, finalists: Sequence[Finalist]) -> list[Cell]:
    """Return vectors fitted on shuffled labels, for the chosen treatment and up to two others that came
    as far as the finals.
    """
    places = list(dict.fromkeys([cell.treatment, *(f[0].treatment for f in finalists)]))[:3]
    cells = []

    for treatment in places:
        vectors = compose(
            setting.intervention.multi_layer,
            {layer: setting.candidates.shuffled(treatment.method, layer) for layer in treatment.layers},
        )
        cells.append(
            Cell(
                setting.build(
                    "shuffled",
                    vectors,
                    {site.layer: site.share for site in treatment.sites},
                    treatment.method,
                ),
                cell.dose,
            )
        )

    return cells
