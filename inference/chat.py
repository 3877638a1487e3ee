"""A chat in the terminal: replies stream, every reply shows its trait scores, and traits are steered live.

For example:

    python inference/chat.py --experiment demo --system-prompt "Be brief."
"""

import runpy
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import numpy as np

from traitscope.inference.watch.engine import ChatEngine, Talk
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

HELP = """/steer TRAIT DOSE    push by a share of the residual norm (0.1 to 0.6; below 0 for less of the trait); /steer TRAIT 0 stops it
/steer               show what is steered
/undo                take back the last question and its reply
/reset               begin a new conversation
/quit                leave (or Ctrl-D); Ctrl-C stops a reply"""
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class ChatOptions:
    """Chat with an experiment's model in the terminal: trait scores per reply, and live steering with
    /steer category/name 0.3 (/help lists all).
    """

    experiment: str = flag(help="Experiment whose model and vectors are used.")
    system_prompt: str = flag("", "System message of the conversation.")


def chat(options: ChatOptions, watched: WatchOptions, model: ModelOptions, talk: Talk) -> None:
    """Talk until the input ends.

    Raises:
        UserError: there are no vectors, or they do not fit the model.
    """
    vectors = read_watched(options.experiment, watched)
    if len({vector.trait for vector in vectors}) < len(vectors):
        raise UserError("a chat watches one vector per trait: name one layer with --layers")

    conversation = Chat(ChatEngine(load_lm(model), vectors), talk, options.system_prompt)
    names = ", ".join(f"{v.trait} ({v.method} {v.layer})" for v in vectors)
    print(f"watching {names}; /help lists the commands")
    while not conversation.is_over:
        try:
            line = input("> ").strip()
        except EOFError:
            break
        try:
            conversation.take(line)
        except UserError as error:
            print(f"error: {error}")


class Chat:
    """A conversation and what is steered in it."""

    def __init__(self, engine: ChatEngine, talk: Talk, system_prompt: str) -> None:
        self.engine, self.talk, self.is_over = engine, talk, False
        self.opening = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.messages = list(self.opening)
        self.doses: dict[str, float] = {}

    def take(self, line: str) -> None:
        """Answer a line, or do what a command says."""
        commands = {
            "/help": lambda _: print(HELP),
            "/steer": self._steer,
            "/undo": self._undo,
            "/reset": self._reset,
            "/quit": self._quit,
        }
        word, *rest = line.split() or [""]
        if word.startswith("/"):
            if word not in commands:
                raise UserError(f"unknown command {word}; /help lists them")
            commands[word](rest)
        elif line:
            self._answer(line)

    def _answer(self, line: str) -> None:
        asked = [*self.messages, {"role": "user", "content": line}]
        texts: list[str] = []
        scores: dict[str, list[float]] = {trait: [] for trait in self.engine.vectors}

        try:
            for step in self.engine.reply(asked, self.doses, self.talk):
                print(step.text, end="", flush=True)
                texts.append(step.text)
                for trait, score in step.scores.items():
                    scores[trait].append(score)
        except KeyboardInterrupt:
            print(" [stopped]", end="")

        print()
        self.messages = [*asked, {"role": "assistant", "content": "".join(texts)}]

        for trait, course in scores.items():
            if course:
                print(f"  {trait:32}{np.mean(course):+8.2f}  {sparkline(course)}")

    def _steer(self, words: list[str]) -> None:
        if words:
            if len(words) != 2:
                raise UserError("write /steer TRAIT DOSE, such as /steer behavioral/formality 0.3")
            doses = self.doses | {words[0]: _number(words[1])}
            self.engine.pushes(doses)
            self.doses = {trait: dose for trait, dose in doses.items() if dose}
        print(
            "steering " + (", ".join(f"{trait} {dose:+g}" for trait, dose in self.doses.items()) or "nothing")
        )

    def _undo(self, _: list[str]) -> None:
        kept = len(self.opening)
        self.messages = self.messages[:kept] + self.messages[kept:-2]
        print(f"{len(self.messages[kept:]) // 2} questions left")

    def _reset(self, _: list[str]) -> None:
        self.messages = list(self.opening)
        print("a new conversation")

    def _quit(self, _: list[str]) -> None:
        self.is_over = True


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{text!r} is no dose; write a number such as 0.3")
    return value


def sparkline(values: list[float], width: int = 40) -> str:
    """Return a course as a line of bars, from its least value to its greatest."""
    parts = [float(np.mean(part)) for part in np.array_split(np.array(values), min(width, len(values)))]
    low, high = min(parts), max(parts)
    return (
        "".join(
            BARS[round((v - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[0] for v in parts
        )
        + f"  {low:+.1f} … {high:+.1f}"
    )


if __name__ == "__main__":
    command(chat)
