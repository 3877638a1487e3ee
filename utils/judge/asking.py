"""One way to ask a service many things: many at once, within its limits and our budget, and again where an answer was lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from utils.judge.faults import Fault, read_fault
from utils.judge.ledger import Ledger, Purse
from utils.judge.prompts import Messages
from utils.judge.providers import Ask, BadReplyError, Reply, Want

ATTEMPTS = 8
FIRST_WAIT, LAST_WAIT = 0.5, 30.0  # seconds; doubled after every try, with a random share so that not all come back at once
NO_LOGPROBS = "the answer holds no log-probabilities"
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
    """Asks within limits. Lives inside one event loop, with the client whose `ask` it uses."""

    def __init__(self, ask: Ask, traffic: Traffic, purse: Purse, ledger: Ledger, attempts: int = ATTEMPTS) -> None:
        self.ask, self.traffic, self.purse, self.ledger, self.attempts = ask, traffic, purse, ledger, attempts
        self.slots = asyncio.Semaphore(traffic.concurrency)
        self.requests, self.tokens = Pace(traffic.requests_per_minute), Pace(traffic.tokens_per_minute)
        self.closed_until = 0.0  # the service asked everyone to wait
        self.in_flight = self.given_up = 0
        self.stopped: Fault | None = None  # nothing more is asked

    async def ask_all(self, asked: Mapping[str, tuple[Messages, Want]], on_reply: Callable[[str, Reply | Fault], None]) -> None:
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
        retrying = AsyncRetrying(stop=stop_after_attempt(self.attempts), wait=_wait, retry=retry_if_exception(self._is_worth_retrying), reraise=True)
        try:
            reply: Reply = await retrying(self._send, messages, want)
        except Fault as fault:
            self._note(fault)
            return fault
        self.given_up = 0
        return reply

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
        at_most = self.purse.most(n_bytes, want.max_tokens)
        await self._await_turn(n_bytes / 4, at_most)
        Purse.set_aside += at_most
        self.in_flight += 1
        self.ledger.calls += 1
        spent = 0.0
        try:
            async with asyncio.timeout(self.traffic.timeout):
                reply = await self.ask(messages, want)
            spent = self._book(reply)
            if want.mode == "logprobs" and not reply.candidates and not reply.is_refused:
                raise BadReplyError(NO_LOGPROBS)
            return reply
        except Exception as error:
            fault = read_fault(error)
            if fault is None:
                raise
            spent = spent or (at_most if isinstance(error, TimeoutError | OSError) else 0.0)  # perhaps answered, and billed, though it never arrived
            self._count(fault)
            raise fault from None
        finally:
            Purse.set_aside -= at_most
            Purse.spent += spent
            self.in_flight -= 1

    async def _await_turn(self, tokens: float, at_most: float) -> None:
        while not self.purse.fits(at_most):
            if not self.in_flight:
                raise Fault("fatal", f"--max-cost ${self.purse.limit:g} would be exceeded (${Purse.spent:.4f} spent in this run)")
            await asyncio.sleep(0.02)  # what is on its way costs less than was set aside for it
        await self.requests.wait()
        await self.tokens.wait(tokens)
        await asyncio.sleep(max(0.0, self.closed_until - asyncio.get_running_loop().time()))
        if self.stopped:
            raise Fault("transient", f"not asked: {self.stopped}")

    def _book(self, reply: Reply) -> float:
        self.ledger.tokens_in += reply.tokens_in
        self.ledger.tokens_out += reply.tokens_out
        cost = self.purse.cost(reply.tokens_in, reply.tokens_out)
        self.ledger.cost = None if self.purse.price is None else (self.ledger.cost or 0.0) + cost
        return cost

    def _count(self, fault: Fault) -> None:
        self.ledger.failures = dict(Counter(self.ledger.failures) + Counter([str(fault).split(":")[0]]))
        if fault.retry_after:
            self.closed_until = max(self.closed_until, asyncio.get_running_loop().time() + fault.retry_after)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    backoff = min(LAST_WAIT, FIRST_WAIT * 2 ** (state.attempt_number - 1)) * random.uniform(0.5, 1)
    return max(backoff, error.retry_after if isinstance(error, Fault) else 0.0)
