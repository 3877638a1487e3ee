"""Money that a run may spend on judges, whichever of its processes asks.

A run is every process that judges for one experiment while at least one of them is alive: the workers of a
pipeline, or two shells side by side. They share a small file in the experiment's folder, under a lock. Who
comes when nobody else is left begins a new run.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import temporary_name
from traitscope.utils.files.locks import hold
from traitscope.utils.files.reading import parse_json, read_bytes
from traitscope.utils.judge.ledger import Price

BYTES_PER_TOKEN = (
    1  # no tokenizer makes more tokens than a text has bytes: what may be spent is never underestimated
)
SILENCE = 900.0  # seconds after which a process on another machine that spent nothing is taken to have ended


@dataclass
class Account:
    """What one process has spent, and what it has set aside for questions that are on their way."""

    spent: float = 0.0
    set_aside: float = 0.0
    seen: float = field(default_factory=time.time)


Accounts = dict[str, Account]  # process → its account
_own_accounts: Accounts = {}  # of a process that judges for no experiment


def own_name() -> str:
    """Return this process's name: host, pid and start, so that a pid that is used again is another
    process.
    """
    return _own_name(os.getpid())


@cache
def _own_name(pid: int) -> str:  # by pid: a forked process is not its parent
    return _name(psutil.Process(pid))


def _name(process: psutil.Process) -> str:
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}"


class Budget:
    """What a call may cost at most is set aside before it is sent, and settled when its answer is there.

    Args:
        limit: Dollars; 0 is no limit.
        price: Dollars per million tokens, in and out.
        file: Where the processes of a run keep their accounts; None where there is no experiment.

    Raises:
        UserError: there is a limit, and the price is not known.
    """

    def __init__(self, limit: float, price: Price | None, file: Path | None = None) -> None:
        if limit and price is None:
            advice = "pass --judge-price with dollars per million tokens, in and out (0.4,1.6)"
            raise UserError(f"--max-cost needs the judge's price: {advice}")
        self.limit, self.price, self.file = limit, price, file if limit else None

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Return what a call cost."""
        return (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if self.price else 0.0

    def most(self, n_bytes: int, tokens_out: int) -> float:
        """Return what a call of so many bytes can cost at most."""
        # 64: what the service puts around messages
        return self.cost(n_bytes // BYTES_PER_TOKEN + 64, tokens_out)

    def set_aside(self, amount: float) -> bool:
        """Set an amount aside if the limit allows it, and tell whether it did."""
        with self._accounts() as accounts:
            if self.limit and sum(a.spent + a.set_aside for a in accounts.values()) + amount > self.limit:
                return False
            accounts[own_name()].set_aside += amount
            return True

    def settle(self, amount: float, spent: float) -> None:
        """Book what a call cost, and release what was set aside for it."""
        with self._accounts() as accounts:
            own = accounts[own_name()]
            own.set_aside = max(0.0, own.set_aside - amount)
            own.spent += spent

    @property
    def spent(self) -> float:
        """What the run has spent so far; of a process that was killed, also what it had set aside:
        perhaps it was billed.
        """
        with self._accounts() as accounts:
            return sum(a.spent + (0.0 if is_alive(name, a) else a.set_aside) for name, a in accounts.items())

    @property
    def is_waiting(self) -> bool:
        """Whether calls are on their way, whose price may turn out lower than what is set aside for them."""
        with self._accounts() as accounts:
            return any(a.set_aside > 1e-12 and is_alive(name, a) for name, a in accounts.items())

    @contextmanager
    def _accounts(self) -> Iterator[Accounts]:
        """Yield every account of the run, this process's among them; what is changed is kept."""
        if self.file is None:
            _own_accounts.setdefault(own_name(), Account())
            yield _own_accounts
            return

        with hold(self.file.with_name(f"{self.file.name}.lock"), "", wait=True):
            accounts = _read(self.file)
            if not any(is_alive(name, account) for name, account in accounts.items()):
                accounts = {}  # a new run
            accounts.setdefault(own_name(), Account()).seen = time.time()
            yield accounts
            content = json.dumps({name: vars(account) for name, account in accounts.items()}, indent=1)
            temporary = temporary_name(self.file)
            temporary.write_text(content)
            temporary.replace(self.file)


def _read(file: Path) -> Accounts:
    try:
        accounts = {name: Account(**account) for name, account in parse_json(read_bytes(file)).items()}
        amounts = [amount for account in accounts.values() for amount in vars(account).values()]
        if not all(name.count("/") == 2 for name in accounts) or not all(amount >= 0 for amount in amounts):
            raise ValueError
        return accounts
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is damaged; delete it, and what was spent so far is forgotten") from None


def is_alive(name: str, account: Account) -> bool:
    """Tell whether a process still runs: by its pid on this machine, by when it was last heard of on
    another.
    """
    host, pid, _ = name.split("/")
    if host != socket.gethostname():
        return time.time() - account.seen < SILENCE

    try:
        return _name(psutil.Process(int(pid))) == name
    except (psutil.Error, ValueError):
        return False
