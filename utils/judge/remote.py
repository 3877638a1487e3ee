"""Judges behind an API: which way a model can be asked, and its answers from the cache or from the
service.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.judge import JudgeOptions, Score
from traitscope.utils.judge.answers import AnswerCache
from traitscope.utils.judge.asking import NO_LOGPROBS, Asker, Traffic
from traitscope.utils.judge.budget import Budget
from traitscope.utils.judge.faults import Fault
from traitscope.utils.judge.ledger import Ledger, price_of
from traitscope.utils.judge.parsing import parse_text, weigh_tokens
from traitscope.utils.judge.prompts import Messages, Question
from traitscope.utils.judge.providers import (
    LARGEST_LOGPROB,
    PROVIDERS,
    Reply,
    Want,
    key_of_provider,
    require_key,
    require_network,
    server_of,
)
from traitscope.utils.model.thoughts import without_thoughts

FRESH = 600.0  # seconds for which a service that answered is taken to be there
# a model whose tokens are whole numbers begins its answer with "60", one whose tokens are digits with "6"
PROBE: Messages = (
    {
        "role": "user",
        "content": "How many minutes does an hour have? Answer with the number and nothing else.",
    },
)


class RemoteGrader:
    """Grades questions with a model of one provider.

    Raises:
        UserError: no key, a refused one, no network, an unknown model; before anything else is asked.
    """

    def __init__(
        self, provider: str, model: str, options: JudgeOptions, spending: Path | None = None
    ) -> None:
        self.spec = PROVIDERS[provider]
        self.name, self.server = f"{provider}:{model}", server_of(provider)
        self.model, self.options = model, options
        if not key_of_provider(provider) and not (provider == "openai" and self.server):
            raise UserError(
                f"the judge {self.name} needs {' or '.join(self.spec.keys)}, in the environment or in .env; "
                "or pass --judge embedded"
            )

        require_key(provider)
        require_network()
        price = price_of(model, options.judge_price) if not self.server or options.judge_price else None
        self.ledger = Ledger(cost=0.0 if price else None)
        self.budget = Budget(options.max_cost, price, spending)
        self.traffic = Traffic(
            options.judge_concurrency, options.judge_rpm, options.judge_tpm, options.judge_timeout
        )
        self.cache = AnswerCache()
        self._fingerprint = key_of(key_of_provider(provider))[:8]
        self._seen = time.time()
        known = self.cache.get([self._way_key], _stored_way).get(self._way_key)
        if known:
            self.want, self.why, self._seen = known
        else:
            self.want, self.why = asyncio.run(self._find_way())

    def mode_of(self, *, wants_text: bool) -> str:
        mode = "text" if wants_text else self.want.mode
        draws = self.options.judge_draws if mode == "text" else 1
        return f"{self.name}/{mode}" + (f"×{draws}" if draws > 1 else "")

    @property
    def identity(self) -> dict:
        server = {"server": self.server} if self.server else {}
        return {
            "judge": self.name,
            "mode": self.mode_of(wants_text=False),
            "why": self.why,
            "temperature": self.want.temperature,
            **server,
        }

    def meet(self) -> None:
        """Make sure that the service still answers as it did: a key may have been revoked, a server
        replaced. Not twice in ten minutes.

        Raises:
            UserError: it cannot be asked.
        """
        if time.time() - self._seen > FRESH:
            self.want, self.why = asyncio.run(self._find_way())

    @property
    def _way_key(self) -> str:
        return key_of("way", self.name, self.server, self._fingerprint)

    async def _find_way(self) -> tuple[Want, str]:
        """Ask one trivial question in each way, the best first, until the model answers it usably."""
        problems: list[str] = []
        async with self.spec.connect(self.model, self.traffic.timeout) as ask:
            asker = Asker(ask, self.traffic, self.budget, self.ledger, attempts=5)
            for want in self.spec.wants:
                problem = await self._try_way(asker, want)
                if not problem:
                    why = problems[0] if problems else ""
                    self._seen = time.time()
                    self.cache.put(
                        self._way_key, asdict(want) | {"why": why, "seen": self._seen}, replace=True
                    )
                    return want, why
                problems.append(problem)

        raise UserError(f"the judge {self.name} cannot be asked: {'; '.join(dict.fromkeys(problems))}")

    async def _try_way(self, asker: Asker, want: Want) -> str:
        """Return why a way of asking does not serve, "" if it does."""
        reply = await asker.ask_one(PROBE, want)
        if isinstance(reply, Reply):
            return problem_with_tokens(reply) if want.mode == "logprobs" else problem_with_text(reply)
        if reply.kind == "fatal" or (reply.kind == "transient" and NO_LOGPROBS not in str(reply)):
            raise UserError(
                f"the judge {self.name}{f' at {self.server}' if self.server else ''} cannot be asked: {reply}"
            )

        return str(reply)

    def grade(self, questions: Sequence[Question], label: str = "judge") -> list[Score]:
        """Score questions, in order. Those asked before, by any experiment, come from the cache;
        identical ones are asked once.

        Raises:
            UserError: the service refuses us, or the money is spent; what was answered is kept.
        """
        wants = [self._want(question) for question in questions]
        keys = [
            [self._key(q, w, draw) for draw in range(self._draws(w))]
            for q, w in zip(questions, wants, strict=True)
        ]
        asked = {
            key: (q.messages, w) for q, w, row in zip(questions, wants, keys, strict=True) for key in row
        }
        known = self.cache.get(list(asked), _stored_reply)
        self.ledger.cached += len(known)
        self.ledger.repeated += sum(map(len, keys)) - len(asked)
        answers = {
            **known,
            **asyncio.run(self._ask_rest({k: v for k, v in asked.items() if k not in known}, label)),
        }

        return [
            self._score(q, w, [answers[key] for key in row])
            for q, w, row in zip(questions, wants, keys, strict=True)
        ]

    def _want(self, question: Question) -> Want:
        """Return how a question is asked. A prompt that asks for JSON is read as text; several draws are
        drawn at the model's own temperature.
        """
        want = replace(self.want, mode="text") if question.wants_text else self.want
        return replace(want, temperature=None) if self._draws(want) > 1 else want

    def _draws(self, want: Want) -> int:
        return self.options.judge_draws if want.mode == "text" else 1

    def _key(self, question: Question, want: Want, draw: int) -> str:
        return key_of(
            self.name, self.server, want.mode, want.temperature, draw, question.prompt, question.messages
        )

    async def _ask_rest(
        self, asked: dict[str, tuple[Messages, Want]], label: str
    ) -> dict[str, Reply | Fault]:
        answers: dict[str, Reply | Fault] = {}
        if not asked:
            return answers

        def keep(key: str, answer: Reply | Fault) -> None:
            answers[key] = answer
            if isinstance(answer, Reply) and _read(answer, asked[key][1])[1] == "scored":
                self.cache.put(key, asdict(answer))
            bar.update()

        with tqdm(total=len(asked), desc=label, unit="score", disable=None, leave=False) as bar:
            async with self.spec.connect(self.model, self.traffic.timeout) as ask:
                asker = Asker(ask, self.traffic, self.budget, self.ledger)
                try:
                    await asker.ask_all(asked, keep)
                except ExceptionGroup as group:  # the cache cannot be written, say
                    raise group.exceptions[0] from None
        if asker.stopped:
            done = sum(isinstance(a, Reply) for a in answers.values())
            raise UserError(
                f"the judge {self.name} was stopped: {asker.stopped}; {done} of {len(asked)} new answers "
                "are kept, and the same command asks only for the rest"
            )
        return answers

    def _score(self, question: Question, want: Want, answers: Sequence[Reply | Fault]) -> Score:
        """Return the mean of the draws that gave a score, if at least half did; else the first reason why
        not.
        """
        read = [_read(answer, want) for answer in answers]
        values = [value for value, _, _ in read if value is not None]
        mode = f"{self.name}/{want.mode}" + (f"×{len(answers)}" if len(answers) > 1 else "")
        if len(values) * 2 >= len(answers):
            lost = f"{len(values)} of {len(answers)} draws" if len(values) < len(answers) else ""
            return Score(sum(values) / len(values), "scored", mode, question.prompt, lost)

        _, state, detail = next(r for r in read if r[0] is None)
        # half a character cannot be stored
        return Score(None, state, mode, question.prompt, detail.encode("utf-8", "replace").decode())


def problem_with_tokens(reply: Reply) -> str:
    """Return why the first token of the answer to PROBE cannot be read as a score, "" if it can."""
    token = max(reply.candidates or [("", 0.0)], key=lambda c: c[1])[0].strip()
    if token == "60":
        return ""

    return (
        "its tokens are digits, not whole numbers"
        if token.isdigit()
        else f"its answers begin with {token[:20]!r}, not with a number"
    )


def problem_with_text(reply: Reply) -> str:
    """Return why the written answer to PROBE is of no use, "" if it is: a model that writes nothing there will
    write nothing elsewhere.
    """
    if without_thoughts(reply.text).strip() or reply.is_refused:
        return ""
    return "its answer is empty" + (
        "; it spends all its tokens on thoughts, or is no chat model" if reply.is_cut else ""
    )


def _stored_reply(stored: dict) -> Reply:
    """Return an answer of the cache; raise what its wrong shape raises."""
    listed = stored["candidates"]
    candidates = tuple((str(token), float(p)) for token, p in listed) if listed is not None else None
    reply = Reply(**stored | {"candidates": candidates})
    if not isinstance(reply.text, str) or not all(p <= LARGEST_LOGPROB for _, p in candidates or ()):
        raise ValueError("no answer")
    return reply


def _stored_way(stored: dict) -> tuple[Want, str, float]:
    """Return how a model is asked, why, and when it was found out; raise what its wrong shape raises."""
    want = Want(stored["mode"], stored["temperature"])
    if want.mode not in ("logprobs", "text") or not isinstance(want.temperature, float | int | None):
        raise ValueError("no way to ask")
    return want, str(stored["why"]), float(stored.get("seen", 0.0))


def _read(answer: Reply | Fault, want: Want) -> tuple[float | None, str, str]:
    """Return (value, state, detail) of one answer."""
    if isinstance(answer, Fault):
        return None, "refused" if answer.kind == "refused" else "error", str(answer)
    if answer.is_refused:
        return None, "refused", answer.text[:80]
    if want.mode == "text":
        value, state = parse_text(answer.text, answer.is_cut)
        return value, state, "" if value is not None else answer.text[:80]

    value, mass = weigh_tokens(answer.candidates or ())
    if value is not None:
        return value, "scored", ""

    state = "refused" if parse_text(answer.text)[1] == "refused" else "low_mass"
    return None, state, f"probability {mass:.2f} on numbers; it began with {answer.text[:40]!r}"
