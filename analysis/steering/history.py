"""What was known before the test: what else was tested of the trait, and how far the judge can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from traitscope.utils.files.journal import key_of
from traitscope.utils.judge.reliability import Reliability
from traitscope.utils.records.verdict import Look


@dataclass(frozen=True)
class History:
    """What came before this test.

    A trait that is not proved can be tried again, at another layer or dose, with another judge or other random
    directions, until it is. So every test counts as a look, whatever it asked. The same vector in the same place
    against the same directions is no new look, neither on the same questions nor on fresh ones.
    """

    looks: Sequence[Look] = ()  # every earlier test of the trait
    test: Sequence[str] = ()  # this test's questions
    setting: Mapping = field(default_factory=dict)  # what else makes a look another one
    vectors: Mapping[tuple[str, int], str] = field(default_factory=dict)  # (method, layer) → digest
    reliability: Reliability | None = None  # of the judge

    def after(self, cell: dict) -> list[Look]:
        """Return all looks once this cell has been tested, this one last."""
        key = self._key(cell)
        before = [question for look in self.looks if look.key == key for question in look.questions]
        now = Look(key=key, questions=list(dict.fromkeys([*before, *self.test])))
        return [*(look for look in self.looks if look.key != key), now]

    def count(self, cell: dict) -> int:
        """Return how many looks there are, this cell's included."""
        return len(self.after(cell))

    def _key(self, cell: dict) -> str:
        layer = cell.get("layer", 0)
        layers = layer if isinstance(layer, list) else [layer]
        vectors = [self.vectors.get((cell.get("method", ""), layer)) for layer in layers]
        place = {name: cell.get(name) for name in ("method", "layer", "dose", "operation")}
        return key_of([dict(self.setting), place, vectors])


FIRST = History()


def allow_for_looks(p: float, looks: int) -> float:
    """Return p at the k-th look, p · 2^(k − 1).

    However often one looks, the chance that one of the looks is at most α by luck stays below α (1 + ½ + ¼ + …)
    = 2 α. Were p multiplied by k, it would grow without an end.
    """
    return min(1.0, p * 2 ** (looks - 1))
