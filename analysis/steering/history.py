"""What was known before the test: how often its questions were looked at, and how far the judge can be
trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from traitscope.utils.files.journal import key_of


@dataclass(frozen=True)
class History:
    """What came before this test.

    A vector that fails on the test questions can be tried again in another place, until one passes. So every
    cell that these questions have judged counts as a look, and p is multiplied by their number.
    """

    looks: Sequence[str] = ()  # keys of the earlier looks at these test questions
    setting: Mapping = field(default_factory=dict)  # what else makes a look another one: the judge, the seed
    reliability: float | None = None  # of the judge

    def after(self, cell: dict) -> list[str]:
        """Return the keys of all looks once this cell has been tested; the same look twice is one."""
        return list(dict.fromkeys([*self.looks, key_of([dict(self.setting), cell])]))

    def count(self, cell: dict) -> int:
        """Return how many looks there are, this cell's included."""
        return len(self.after(cell))


FIRST = History()
