"""Judges: one interface, one score type, one registry.

A judge is made for one rubric (what the trait is, and contrasting text that shows it) and answers two
questions: how strongly does each contrasting example show its trait (`score_examples`), and how strongly does
each response (`score_responses`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from traitscope.utils.errors import UserError
from traitscope.utils.stage.flags import flag

if TYPE_CHECKING:
    from traitscope.utils.judge.coherence import TokenText
    from traitscope.utils.judge.language import Grader
    from traitscope.utils.judge.ledger import Ledger
    from traitscope.utils.model.loading import LM

STATES = ("scored", "refused", "unparsable", "low_mass", "error")


@dataclass(frozen=True)
class Score:
    """What a judge said of one text. Where it could not say, `value` is None and `state` says why; None
    is never 0.
    """

    value: float | None  # 0–100
    state: str = "scored"
    mode: str = ""  # how it was measured; scores of different modes are never compared
    prompt: str = ""  # which prompt it answers: kind and hash
    detail: str = ""  # why there is no value, or what was done to it

    def __post_init__(self) -> None:
        assert self.state in STATES, f"{self.state!r} is no state of a score"
        assert (self.value is not None) == (self.state == "scored"), "a value is there exactly when scored"
        assert self.value is None or 0 <= self.value <= 100, "a score lies between 0 and 100"

    @property
    def is_empty(self) -> bool:
        """The text had nothing in it to judge: that is no failure of the judge."""
        return self.value is None and self.detail == "empty"

    def as_json(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value != "" or name == "mode"}


@dataclass(frozen=True)
class Example:
    """One contrasting text of a trait's dataset."""

    side: str  # "pos" or "neg"
    family: (
        int  # examples of one family belong together, and are never split between fitting and testing a judge
    )
    text: str
    line: int = field(default=-1, compare=False)  # where it stands in its file, from 0


@dataclass(frozen=True)
class Rubric:
    """What a judge knows of a trait."""

    trait: str
    definition: str
    examples: tuple[Example, ...]
    eval_prompt: str | None = None


@dataclass(frozen=True)
class Answer:
    """A response to be judged, with the prompt it answers."""

    prompt: str
    response: str
    family: int | None = (
        None  # the family of the rubric's examples that the prompt belongs to; None for a prompt of its own
    )


class Coherence(Protocol):
    """What stage 5 asks of a judge of coherence."""

    identity: dict

    def score(self, texts: "Sequence[TokenText]") -> list[Score]:
        """Score whether texts hold together, in order; an empty one scores 0."""


class Judge(Protocol):
    """What stages 0, 2 and 5 ask of a judge."""

    identity: dict  # what an artifact says about the judge that made its scores

    @property
    def usage(self) -> "Ledger | None":
        """What it used so far; None for a judge that costs nothing."""

    def score_examples(self) -> list[Score]:
        """Score every example of the rubric, in order: 100 is unmistakably the trait, whatever the
        example's side.
        """

    def score_responses(self, answers: Sequence[Answer]) -> list[Score]:
        """Score responses, in order."""

    def coherence(self, lm: "LM", own: "Sequence[TokenText]") -> Coherence:
        """Return a judge of coherence for texts of `lm`, calibrated on its own unsteered texts where it
        needs that.
        """


def identify_judge(name: str) -> str:
    """Return what a manifest remembers of a judge: provider and model, the server, and the version of the
    prompts.
    """
    from traitscope.utils.judge.prompts import prompt_ids
    from traitscope.utils.judge.providers import PROVIDERS, server_of

    provider, _, model = (choose_judge() if name == "auto" else name).partition(":")
    if provider == "embedded":
        return provider
    prompts = ", prompts " + "-".join(text.split(":")[1][:4] for text in prompt_ids().values())
    if provider not in PROVIDERS:
        from traitscope.utils.model.loading import identify_model

        return f"{provider}:{identify_model(model.partition('@')[0])}{prompts}"
    server = f" at {server_of(provider)}" if server_of(provider) else ""
    return f"{provider}:{model or PROVIDERS[provider].default_model}{server}{prompts}"


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges."""

    judge: str = flag(
        "auto",
        (
            "auto (the first of openai, anthropic, gemini whose key is set, else embedded), PROVIDER or "
            "PROVIDER:MODEL, local:MODEL[@device], or embedded."
        ),
        identify=identify_judge,
    )
    judge_draws: int = flag(
        1, "Answers averaged where a model is read as text; they are drawn at the model's own temperature."
    )
    max_unjudged: float = flag(
        0.05,
        "Share of texts that the judge may leave without a score before the stage ends in error.",
        cosmetic=True,
    )
    max_cost: float = flag(
        0.0,
        "Dollars that a run may spend on judging, all its processes together; 0 is no limit.",
        cosmetic=True,
    )
    judge_concurrency: int = flag(50, "Questions asked at once.", cosmetic=True)
    judge_rpm: int = flag(0, "Requests a minute at most; 0 is no limit.", cosmetic=True)
    judge_tpm: int = flag(0, "Tokens a minute at most; 0 is no limit.", cosmetic=True)
    judge_timeout: float = flag(60.0, "Seconds to wait for one answer.", cosmetic=True)
    judge_price: tuple[float, ...] = flag(
        (),
        "Dollars per million tokens, in and out, of a model whose price is not known: 0.4,1.6.",
        cosmetic=True,
    )

    heading = "Judge"
    is_setting = True  # a key of config.json

    def check(self) -> None:
        """Raise UserError for a value that means nothing."""
        if min(self.judge_draws, self.judge_concurrency) < 1 or self.judge_timeout <= 0:
            raise UserError(
                "--judge-draws and --judge-concurrency start at 1, and --judge-timeout is above 0"
            )
        if (
            min(self.max_cost, self.judge_rpm, self.judge_tpm, *self.judge_price, 0) < 0
            or not 0 <= self.max_unjudged <= 1
            or len(self.judge_price) > 2
        ):
            raise UserError(
                "--max-cost, --judge-rpm and --judge-tpm are 0 or more, --max-unjudged is from 0 to 1, "
                "--judge-price is one or two prices"
            )


def choose_judge() -> str:
    """Return the judge that "auto" stands for: the first provider whose key is in the environment, else
    embedded.
    """
    from traitscope.utils.judge.providers import PROVIDERS, key_of_provider

    return next(
        (f"{name}:{PROVIDERS[name].default_model}" for name in PROVIDERS if key_of_provider(name)), "embedded"
    )


def load_judge(options: JudgeOptions, rubric: Rubric, spending: Path | None = None) -> Judge:
    """Return the judge that `options` names, ready for this rubric. A service is asked one trivial
    question when it is first met.

    Args:
        spending: Where the processes that judge for one experiment share what --max-cost allows.

    Raises:
        UserError: no such judge, no key or a refused one, no network, or it cannot be fitted on this rubric.
    """
    options.check()
    name = choose_judge() if options.judge == "auto" else options.judge
    if name == "embedded":
        from traitscope.utils.judge.embedded import (
            EmbeddedJudge,  # scikit-learn and transformers take seconds to import
        )

        _say_once("judge: embedded")
        return EmbeddedJudge(rubric)
    from traitscope.utils.judge.language import LanguageJudge

    grader = _load_grader(name, options, spending)
    _say_once(
        f"judge: {grader.identity['mode']}" + (f" ({why})" if (why := grader.identity.get("why")) else "")
    )
    return LanguageJudge(grader, rubric)


def prepare_judge(options: JudgeOptions, spending: Path | None = None) -> None:
    """Meet a judge behind an API before anything is loaded, so that a wrong key costs no time.

    Raises:
        UserError: it cannot be asked.
    """
    options.check()
    name = choose_judge() if options.judge == "auto" else options.judge
    if name != "embedded" and not name.startswith("local"):
        meet = getattr(_load_grader(name, options, spending), "meet", None)
        if meet:
            meet()


def _load_grader(name: str, options: JudgeOptions, spending: Path | None) -> "Grader":
    from traitscope.utils.judge.providers import PROVIDERS

    kind, _, model = name.partition(":")
    if kind in PROVIDERS:
        from traitscope.utils.judge.remote import RemoteGrader

        return RemoteGrader(kind, model or PROVIDERS[kind].default_model, options, spending)
    if kind == "local":
        from traitscope.utils.judge.local import LocalGrader

        return LocalGrader(model, options)
    raise UserError(
        f"unknown judge {name!r}; choose auto, embedded, local:MODEL[@device], "
        f"{', '.join(f'{p}[:MODEL]' for p in PROVIDERS)}"
    )


@cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def count_states(scores: Sequence[Score]) -> dict[str, int]:
    """Count the scores in each state that occurs."""
    return {state: n for state in STATES if (n := sum(s.state == state for s in scores))}


def explain_gaps(scores: Sequence[Score], max_unjudged: float) -> str:
    """Return, in words, that too large a share of the texts could not be judged, "" if not. Empty texts
    are not the judge's failure.

    Raises:
        UserError: the scores were measured in different modes, and cannot be compared.
    """
    if len(modes := {s.mode for s in scores if s.value is not None}) > 1:
        raise UserError(
            f"scores of different modes cannot be compared: {', '.join(sorted(modes))}; run again with "
            "--force"
        )

    lost = [s for s in scores if s.value is None and not s.is_empty]
    if not lost or len(lost) <= max_unjudged * len(scores):
        return ""

    counts = ", ".join(f"{n} {state}" for state, n in count_states(lost).items())
    # a detail can quote a model: what would break the line, or speak to the terminal, is blanked
    first = "".join(c if c.isprintable() else " " for c in lost[0].detail or lost[0].state)
    return (
        f"{len(lost)} of {len(scores)} texts could not be judged ({counts}; first: {first}), more than "
        f"--max-unjudged {max_unjudged:g} allows; the same command asks only for these"
    )
