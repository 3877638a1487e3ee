"""One way to ask a service many things: many at once, within its limits and our budget, and again where
an answer was lost.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from traitscope.utils.judge.budget import Budget
from traitscope.utils.judge.faults import Fault, read_fault
from traitscope.utils.judge.ledger import Ledger
from traitscope.utils.judge.prompts import Messages
from traitscope.utils.judge.providers import Ask, BadReplyError, Reply, Want, redact

ATTEMPTS = 8
# seconds; doubled after every try, with a random share so that not all come back at once
FIRST_WAIT = 0.5
LAST_WAIT = 30.0
NO_LOGPROBS = "the answer holds no log-probabilities"
PATIENCE = 1800.0  # seconds that a question waits for a service that says we are too fast
HOPELESS = 20  # questions given up in a row, with none answered in between: the service is down


@dataclass(frozen=True)
class Traffic:
    """How fast a service may be asked. 0 is no limit."""

    concurrency: int = 50
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout: float = 60.0  # seconds for one answer


class Pace:
    """Spreads amounts evenly over time: so much a minute, and no burst."""

    def __init__(self, per_minute: int) -> None:
        self.seconds_each = 60 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    async def wait(self, amount: float = 1) -> None:
        now = asyncio.get_running_loop().time()
        start = max(now, self.free_at)
        self.free_at = start + amount * self.seconds_each
        await asyncio.sleep(start - now)


class Asker:
    """Asks within limits. Lives inside one event loop, with the client whose `ask` it uses.

    A service that says we are too fast closes the door to all for the time it names, and halves how many are
    let through at once; every answer opens it a little again.
    """

    def __init__(
        self, ask: Ask, traffic: Traffic, budget: Budget, ledger: Ledger, attempts: int = ATTEMPTS
    ) -> None:
        self.ask = ask
        self.traffic = traffic
        self.budget = budget
        self.ledger = ledger
        self.attempts = attempts
        self.slots = asyncio.Semaphore(traffic.concurrency)
        self.requests, self.tokens = Pace(traffic.requests_per_minute), Pace(traffic.tokens_per_minute)

        self.allowed = float(traffic.concurrency)
        self.closed_until = 0.0
        self.in_flight = self.waiting = self.given_up = 0
        self.stopped: Fault | None = None  # nothing more is asked

    async def ask_all(
        self, asked: Mapping[str, tuple[Messages, Want]], on_reply: Callable[[str, Reply | Fault], None]
    ) -> None:
        """Ask every question, calling `on_reply` with its key the moment it is settled."""

        async def settle(key: str, messages: Messages, want: Want) -> None:
            async with self.slots:
                on_reply(key, await self.ask_one(messages, want))

        async with asyncio.TaskGroup() as group:
            for key, (messages, want) in asked.items():
                group.create_task(settle(key, messages, want))

    async def ask_one(self, messages: Messages, want: Want) -> Reply | Fault:
        """Ask one question until it is answered, or it is clear that it will not be."""
        if self.stopped:
            return Fault("transient", f"not asked: {self.stopped}")

        retrying = AsyncRetrying(
            stop=self._is_enough, wait=_wait, retry=retry_if_exception(self._is_worth_retrying), reraise=True
        )

        try:
            reply: Reply = await retrying(self._send, messages, want)
        except Fault as fault:
            self._note(fault)
            return fault

        self.given_up = 0
        return reply

    def _is_enough(self, state: RetryCallState) -> bool:
        """Stop after so many tries; being too fast is not one of them, but not for ever."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Fault) and error.is_limit:
            state.attempt_number -= 1
            return (state.seconds_since_start or 0) > PATIENCE
        return state.attempt_number >= self.attempts

    def _is_worth_retrying(self, error: BaseException) -> bool:
        return isinstance(error, Fault) and error.kind == "transient" and not self.stopped

    def _note(self, fault: Fault) -> None:
        self.given_up += fault.kind == "transient"
        if fault.kind == "fatal":
            self.stopped = self.stopped or fault
        elif self.given_up >= HOPELESS:
            self.stopped = self.stopped or Fault("fatal", f"it does not answer ({fault})")

    async def _send(self, messages: Messages, want: Want) -> Reply:
        n_bytes = sum(len(m["content"].encode()) for m in messages)
        at_most = self.budget.most(n_bytes, want.max_tokens)
        await self._set_aside(at_most)
        spent = 0.0

        try:
            await self._await_turn(n_bytes / 4)
            self.in_flight += 1
            self.ledger.calls += 1
            try:
                reply, spent = await self._exchange(messages, want)
            except Fault as fault:
                spent = at_most if fault.is_billed else 0.0
                raise
            finally:
                self.in_flight -= 1
            return reply
        finally:
            self.budget.settle(at_most, spent)

    async def _exchange(self, messages: Messages, want: Want) -> tuple[Reply, float]:
        """Send and receive once; return the answer and what it cost."""
        try:
            async with asyncio.timeout(self.traffic.timeout):
                reply = _without_keys(await self.ask(messages, want))
            cost = self._book(reply)
            if want.mode == "logprobs" and not reply.candidates and not reply.is_refused:
                raise BadReplyError(NO_LOGPROBS)
        except MemoryError:
            raise
        except Exception as error:  # whatever it is, it is this question's alone
            fault = read_fault(error)
            self._count(fault)
            raise fault from None

        self.allowed = min(self.traffic.concurrency, self.allowed + 1 / self.allowed)
        return reply, cost

    async def _set_aside(self, at_most: float) -> None:
        """Reserve money before anything else is waited for: two questions must not both take the last
        cent.
        """
        while not self.budget.set_aside(at_most):
            if not self.budget.is_waiting:
                spent = f"${self.budget.spent:.4f} spent in this run"
                raise Fault("fatal", f"--max-cost ${self.budget.limit:g} would be exceeded ({spent})")
            await asyncio.sleep(0.02)  # what is on its way costs less than was set aside for it

    async def _await_turn(self, tokens: float) -> None:
        loop = asyncio.get_running_loop()
        while self.in_flight + self.waiting >= self.allowed or loop.time() < self.closed_until:
            await asyncio.sleep(max(self.closed_until - loop.time(), 0.01) + random.uniform(0, 0.02))
        self.waiting += 1

        try:
            await self.requests.wait()
            await self.tokens.wait(tokens)
        finally:
            self.waiting -= 1

        if self.stopped:
            raise Fault("transient", f"not asked: {self.stopped}")

    def _book(self, reply: Reply) -> float:
        self.ledger.tokens_in += reply.tokens_in
        self.ledger.tokens_out += reply.tokens_out
        cost = self.budget.cost(reply.tokens_in, reply.tokens_out)
        self.ledger.cost = None if self.budget.price is None else (self.ledger.cost or 0.0) + cost
        return cost

    def _count(self, fault: Fault) -> None:
        self.ledger.failures = dict(Counter(self.ledger.failures) + Counter([str(fault).split(":")[0]]))
        now = asyncio.get_running_loop().time()
        if fault.is_limit and now >= self.closed_until:  # once for all who were on their way
            self.allowed = max(1.0, self.allowed / 2)
        if fault.retry_after:
            self.closed_until = max(self.closed_until, now + fault.retry_after)


def _without_keys(reply: Reply) -> Reply:
    """Blank keys that a server sent back, before anything is shown or stored."""
    candidates = reply.candidates and tuple((redact(token), p) for token, p in reply.candidates)
    return replace(reply, text=redact(reply.text), candidates=candidates)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    backoff = min(LAST_WAIT, FIRST_WAIT * 2 ** max(state.attempt_number - 1, 0))
    return (backoff + (error.retry_after if isinstance(error, Fault) else 0.0)) * random.uniform(1, 1.5)
