"""Where is steered: method and layer, chosen by something that the steered effect has no part in, or by it,
and then every random direction chooses as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from traitscope.analysis.steering.doses import DEV_PAIRS, Tried, try_cells
from traitscope.analysis.steering.nulls import draw_nulls
from traitscope.analysis.steering.search import Cell, Measure, Search, signal_of
from traitscope.analysis.steering.setting import Setting
from traitscope.analysis.steering.treatments import Treatment, compose
from traitscope.utils.records.vectors import Separation
from traitscope.utils.records.verdict import Reading
from traitscope.utils.stage.layers import DEPTH

DEV_SEED = 7_919  # added to --null-seed


@dataclass(frozen=True)
class Place:
    """The treatment that is going to be proved, and random directions that had the same chances."""

    treatment: Treatment
    nulls: list[Treatment]  # for the test
    tried: list[Tried]  # what was tried on dev to find it


def find_place(setting: Setting, search: Search, measure: Measure) -> Place:
    """Choose method and layer among the candidates, and draw the random directions."""
    places = _candidates(setting)
    if search.choose_by == "steering" and len(places) > 1:
        return _by_steering(setting, search, places, measure)

    chosen, protocol = _by_merit(setting, search.choose_by, places), setting.bench.protocol
    nulls = draw_nulls(setting, [chosen], protocol.random_pairs, protocol.null_seed)
    return Place(chosen, [family[0] for family in nulls], [])


def draw_dev_nulls(setting: Setting, chosen: Treatment) -> list[Treatment]:
    """Return the few random directions that weigh the doses on dev; none of them is seen again on test."""
    seed = setting.bench.protocol.null_seed + DEV_SEED
    return [family[0] for family in draw_nulls(setting, [chosen], DEV_PAIRS, seed)]


def _by_steering(setting: Setting, search: Search, places: Sequence[Treatment], measure: Measure) -> Place:
    """Let the vector choose by its signal on dev, at one dose, and every random direction by its own."""
    protocol = setting.bench.protocol
    families = draw_nulls(setting, places, protocol.random_pairs, protocol.null_seed)
    dose = min(search.start_mult * search.up_mult, 1.0)

    def cells_of(treatments: Sequence[Treatment]) -> list[Cell]:
        return [Cell(t, dose if t.has_opposite else 1.0) for t in treatments]

    tried = try_cells(cells_of(places), measure)
    best = max(range(len(places)), key=lambda i: (tried[i].holds(setting.gate), _signal(setting, tried[i])))

    # a random direction has no sign: it may choose where its opposite does most
    rivals = try_cells(cells_of([t for family in families for t in family]), measure, graded=False)
    sizes = [abs(_signal(setting, t)) if t.minus else _signal(setting, t) for t in rivals]
    chosen = np.reshape(sizes, (len(families), len(places))).argmax(1)
    nulls = [family[i] for family, i in zip(families, chosen, strict=True)]
    return Place(places[best], nulls, tried)


def _signal(setting: Setting, tried: Tried) -> float:
    """Return a cell's mean signal on dev, 0 where nothing was scored."""
    values = signal_of(tried.plus, tried.minus, setting.unsteered, tried.cell.sign)
    return float(values.mean()) if len(values) else 0.0


def _candidates(setting: Setting) -> list[Treatment]:
    """Return every treatment that may be chosen: one a method and layer, or one a method over all layers."""
    vectors = setting.candidates.vectors
    if setting.intervention.multi_layer == "no":
        return [setting.build(method, {layer: v}) for (method, layer), v in vectors.items()]
    return [_spread(setting, method) for method in dict.fromkeys(m for m, _ in vectors)]


def _spread(setting: Setting, method: str) -> Treatment:
    """Return one treatment over all layers of a method, the dose shared out."""
    how = setting.intervention.multi_layer
    own = {layer: v for (m, layer), v in setting.candidates.vectors.items() if m == method}
    vectors = compose(how, own)

    weights = dict.fromkeys(vectors, 1.0)
    separation = setting.candidates.separation
    if how == "weighted" and any((method, layer) in separation for layer in vectors):
        found = {layer: separation.get((method, layer)) for layer in vectors}
        weights = {layer: max(s.cohens_d, 0.0) if s else 0.0 for layer, s in found.items()}
    total = sum(weights.values())
    shares = {layer: w / total for layer, w in weights.items() if w > 0} or dict.fromkeys(
        vectors, 1 / len(vectors)
    )
    return setting.build(method, {layer: vectors[layer] for layer in shares}, shares)


def _by_merit(setting: Setting, choose_by: str, places: Sequence[Treatment]) -> Treatment:
    """Return the treatment that separates held-out responses best, or the one nearest to the usual depth."""
    usual = DEPTH * len(setting.around.norms)

    def merit(item: tuple[int, Treatment]) -> tuple:
        index, place = item
        read = _separation_of(setting, place) if choose_by == "separation" else None
        ranks = (read.auroc, read.cohens_d) if read else (-1.0, 0.0)
        first = choose_by == "depth" and place.method == places[0].method
        return *ranks, first, -abs(sum(place.layers) / len(place.layers) - usual), -index

    return max(enumerate(places), key=merit)[1]


def reading_of(setting: Setting, place: Treatment, choose_by: str) -> Reading | None:
    """Return how well the chosen treatment's vector separates held-out responses; None where it was not
    measured.
    """
    found = _separation_of(setting, place)
    if found is None:
        return None
    best_of = len(setting.candidates.vectors) if choose_by == "separation" else 1
    return Reading(auroc=found.auroc, n_pos=found.n_pos, n_neg=found.n_neg, best_of=best_of)


def _separation_of(setting: Setting, place: Treatment) -> Separation | None:
    """Return the separation of a treatment's vector; of several layers', that of the one with the largest share.
    What is composed of several layers' vectors was not measured.
    """
    if setting.intervention.multi_layer in ("orthogonal", "incremental"):
        return None
    main = max(place.sites, key=lambda site: site.share)
    return setting.candidates.separation.get((place.method, main.layer))
