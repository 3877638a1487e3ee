"""Which of a trait's vectors separates held-out responses best, and what that is worth: the best of many is
better by luck too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.measures.separation import auroc_interval, cohens_d_interval
from traitscope.utils.records.activations import read_fitted_on
from traitscope.utils.records.vectors import RANDOM, Key, Separation, VectorAbout


@dataclass(frozen=True)
class BestHeldOut:
    """The vector of the highest held-out AUROC."""

    about: VectorAbout
    best_of: int  # vectors that were measured, the random ones left out
    separation: Separation  # its own, with intervals that hold 95 % of the best of so many

    @property
    def key(self) -> Key:
        return self.about.key

    def __str__(self) -> str:
        own = self.separation
        return f"{own.auroc:.2f} [{own.auroc_low:.2f}, {own.auroc_high:.2f}], best of {self.best_of}"


def best_held_out(paths: TraitPaths, found: Sequence[VectorAbout]) -> BestHeldOut | None:
    """Return the best of some vectors of a trait; None where none was measured. This is the one ranking
    there is.

    Its intervals are those of one vector at the level 0.95^(1/k) (Šidák 1967), where k independent vectors
    would be as lucky as those that were measured (`independent_candidates`, by stage 4). Every vector whose
    luck stage 4 did not measure, such as an imported one, counts as one more.
    """
    measured = [about for about in found if about.rank[0] >= 0]
    if not measured:
        return None

    best = max(measured, key=lambda about: about.rank)
    level = 0.95 ** (1 / _independent(paths, measured))
    own = best.val
    assert own is not None  # what has a rank was measured
    auroc = auroc_interval(own.auroc, own.n_pos, own.n_neg, level)
    d = cohens_d_interval(own.cohens_d, own.n_pos, own.n_neg, level)
    limits = {"auroc_low": auroc[0], "auroc_high": auroc[1], "cohens_d_low": d[0], "cohens_d_high": d[1]}
    rounded = {name: round(value, 6) for name, value in limits.items()}
    return BestHeldOut(best, len(measured), own.model_copy(update=rounded))


def _independent(paths: TraitPaths, measured: Sequence[VectorAbout]) -> float:
    fitted_on = read_fitted_on(paths) if is_there(paths.fitted_on) else None
    if fitted_on is None or fitted_on.candidates is None:
        return len(measured)

    known = {name for name in fitted_on.vectors if not name.startswith(f"{RANDOM}_layer")}
    others = sum(paths.vector(*about.key).name not in known for about in measured)
    return min(float(len(measured)), fitted_on.candidates + others)
