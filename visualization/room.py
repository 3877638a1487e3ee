"""Where the model of live chat lives: one model, one reply at a time. The only module of the dashboard
that imports torch; it is imported when asked for.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from traitscope.inference.watch.engine import ChatEngine, Talk, Token
from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.records.choice import best_of
from traitscope.utils.records.vectors import Vector, list_traits, read_vector
from traitscope.utils.stage.experiment import resolve_settings
from traitscope.utils.stage.flags import option_flags, pick
from traitscope.visualization.library import BusyError, Library, as_text, readable, readable_trait

PLACES = 4  # one reply is written, the others wait
PATIENCE = 20.0  # seconds that a reply waits for its turn
SECONDS = 120.0  # that a reply may take, the loading of the model apart


@dataclass(frozen=True)
class Watched:
    """What can be watched and steered in an experiment."""

    model: ModelOptions
    vectors: list[Vector]  # each trait's best vector
    problems: dict[str, str]  # trait → why it cannot be watched


class Room:
    """A model that answers for one page at a time."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._places, self._speaking = threading.BoundedSemaphore(PLACES), threading.Lock()
        self._engine: ChatEngine | None = None

    def look(self, experiment: str) -> Watched:
        """Return what there is to chat with; the model is not loaded.

        Raises:
            UserError: the experiment has no model or no vectors.
        """
        paths = self.library.experiment(experiment)
        with readable(paths.dir, "mend its config.json"):
            flags = option_flags(ModelOptions)
            settings = resolve_settings(paths, flags, {})
            options = pick(ModelOptions, {name: value for name, value in settings.items() if name in flags})
        vectors, problems = [], {}

        for trait in map(as_text, list_traits(paths)):
            try:
                vectors.append(_best(self.library.trait_of(paths, trait)))
            except UserError as error:
                problems[trait] = self.library.relative(str(error))

        if not vectors:
            raise UserError(
                next(
                    iter(problems.values()),
                    f"{experiment} has no vectors; run extraction/run_pipeline.py --experiment {experiment}",
                )
            )
        return Watched(options, vectors, problems)

    def reply(
        self, experiment: str, messages: list[dict[str, str]], doses: dict[str, float], talk: Talk
    ) -> Iterator[Token | str]:
        """Yield a reply token by token, then why it ended: finished, length or time. Whoever stops
        iterating stops the model.

        Raises:
            BusyError: others are being answered.
            UserError: the model cannot be had, or does not take such a conversation.
        """
        with self._turn():
            watched, written, ended = self.look(experiment), 0, "finished"
            with readable(f"the model {watched.model.model:.200}", "mend what config.json says of it"):
                engine = self._ready(watched)
            deadline = time.monotonic() + SECONDS
            for step in engine.reply(messages, doses, talk):
                yield step
                written += 1
                if time.monotonic() > deadline:
                    ended = "time"
                    break
            yield "length" if ended == "finished" and written == talk.max_new_tokens else ended

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise BusyError("the model is busy, and others wait already; try again later")
        try:
            if not self._speaking.acquire(timeout=PATIENCE):
                raise BusyError("the model is answering somebody else; try again later")
            try:
                yield
            finally:
                self._speaking.release()
        finally:
            self._places.release()

    def _ready(self, watched: Watched) -> ChatEngine:
        lm = load_lm(watched.model)
        held = self._engine
        if (
            held is None
            or held.lm is not lm
            or [v.origin for v in held.vectors.values()] != [v.origin for v in watched.vectors]
        ):
            self._engine = held = ChatEngine(lm, watched.vectors)

        return held


def _best(paths: TraitPaths) -> Vector:
    with readable_trait(paths):
        return read_vector(paths, *best_of(paths))
