"""What was known before the test: how often its questions were looked at, and how far the judge can be
trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from traitscope.utils.files.journal import key_of
from traitscope.utils.records.verdict import Look


@dataclass(frozen=True)
class History:
    """What came before this test.

    A vector that fails on the test questions can be tried again in another place, until one passes. So every
    cell that has been tested on one of these questions counts as a look, and p is multiplied by their number.
    """

    looks: Sequence[Look] = ()  # every earlier test of the trait
    test: Sequence[str] = ()  # this test's questions
    setting: Mapping = field(default_factory=dict)  # what else makes a look another one: the judge, the seed
    reliability: float | None = None  # of the judge

    def after(self, cell: dict) -> list[Look]:
        """Return all looks once this cell has been tested; the same test twice is one look."""
        now = Look(key=key_of([dict(self.setting), list(self.test), cell]), questions=list(self.test))
        return [*(look for look in self.looks if look.key != now.key), now]

    def count(self, cell: dict) -> int:
        """Return how many looks at one of these questions there are, this cell's included."""
        *before, _ = self.after(cell)
        return 1 + sum(bool(set(look.questions) & set(self.test)) for look in before)


FIRST = History()
