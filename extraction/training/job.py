"""One trait to be trained: its model, and the texts that it learns from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from traitscope.extraction.training.course import Look, Progress, Start
from traitscope.extraction.training.given import Wanted, given_texts
from traitscope.extraction.training.loop import Task
from traitscope.extraction.training.objectives import (
    LikelyText,
    Objective,
    PreferredAnswer,
    ToldModel,
    pair_up,
)
from traitscope.extraction.training.options import Opposite, TextOptions, TrainOptions
from traitscope.extraction.training.texts import LEAST, Texts, fill_budgets
from traitscope.extraction.training.told import told_texts
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal
from traitscope.utils.files.paths import CAPTURE, SIDES, TraitPaths
from traitscope.utils.model.generation import Sampling
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.activations import (
    ActivationsAbout,
    Captured,
    fitted_sides,
    read_captured,
    read_fitted_on,
)
from traitscope.utils.records.chats import Chats, chats_file, read_chats
from traitscope.utils.records.own_texts import Text, own_texts
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import METHOD_OF
from traitscope.utils.records.vectors import list_vectors
from traitscope.utils.stage.layers import parse_layers, usual_layer

TOLD = ("distill", "delta")  # what the model wrote when it was told to show the trait
UNPAIRED = "without another answer to the same prompt"
DEFAULTS = TextOptions()
LOWERS: dict[str, Callable[[Texts, Opposite], Objective]] = {
    "nll": LikelyText,
    "pref": PreferredAnswer,
    "distill": ToldModel,
}


@dataclass(frozen=True)
class Job:
    """One trait to be trained with one objective, and what its vectors are measured on."""

    paths: TraitPaths
    objective: str
    training: TrainOptions
    sampling: Sampling
    thresholds: Thresholds  # where a score counts as passed
    no_vet: bool = False  # take every response of the trait's own
    given: TextOptions = DEFAULTS
    track: tuple[str, ...] = ()  # trackers that are told how it goes

    @property
    def method(self) -> str:
        return METHOD_OF[self.objective]

    @property
    def stage(self) -> str:
        return f"train_{self.objective}"

    @property
    def journal(self) -> Journal:
        """Where its progress stands."""
        return Journal(self.paths.journal(self.stage))

    @cached_property
    def captured(self) -> Captured:
        """The activations that stage 3 left."""
        return read_captured(self.paths)

    @cached_property
    def chats(self) -> Chats | None:
        """The conversations of the file that the texts come from, where one is named."""
        given = self.given
        return read_chats(chats_file(given.texts_from), given.score_column) if given.texts_from else None

    def load(self, model: ModelOptions) -> LM:
        """Load the model.

        Raises:
            UserError: it is not the one that was read, or its vectors could not be measured; or the texts that are
                given are none.
        """
        _ = self.chats  # what is wrong with a file is said before a model is loaded
        about = self.captured.about
        if about.component != "residual":
            advice = f"run {CAPTURE} with --component residual"
            raise UserError(f"vectors are trained in the residual stream; {advice}")
        fitted_sides(self.captured, read_fitted_on(self.paths), [0])  # refuses what could not be measured

        lm = load_lm(model)
        read = about.made_by.get("model") or {}
        if read.get("identity") != lm.identity["identity"]:
            raise UserError(
                f"the activations of {self.paths.trait} are of {read.get('name')}, and {lm.identity['name']} is to be "
                f"trained through; run {CAPTURE} with the same --model"
            )
        return lm

    @cached_property
    def starts(self) -> list[Start]:
        """The vectors to be learnt: at every layer asked for, with every learning rate and seed.

        Raises:
            UserError: there is no such layer.
        """
        about, training = self.captured.about, self.training
        return [
            Start(layer, rate, seed, about.mean_norms[layer])
            for layer in _layers(self.paths, training.train_layers, about)
            for rate in dict.fromkeys(training.learning_rates)
            for seed in range(training.train_seeds)
        ]

    def task(self, texts: Texts, watch: Callable[[list[Look]], None] = lambda looks: None) -> Task:
        """Return what is to be learnt from the texts."""
        objective = LOWERS[self.objective](texts, self.training.opposite)
        return Task(objective, self.starts, Progress(self.journal, f"{self.stage} {self.paths.trait}", watch))

    def texts(self, lm: LM) -> Texts:
        """Return what is learnt and what validates.

        Raises:
            UserError: there are too few texts.
        """
        found, source = self._find_texts(lm)
        # of this trait: several traits may share a pass
        found = [replace(text, key=f"{self.paths.trait}/{text.key}") for text in found]
        if self.objective == "delta":
            if len(found) < LEAST:
                raise UserError(f"there are {len(found)} texts that the told model wrote; {LEAST} are needed")
            return Texts(found, [], [], source)
        if self.objective == "pref":
            chosen = list(dict.fromkeys(text for pair in pair_up(found) for text in pair))
            if source and len(chosen) < len(found):
                source["counts"][UNPAIRED] = len(found) - len(chosen)
        else:
            chosen = [text for text in found if self._learns_opposite or text.side == "pos"]
        showing = sum(text.side == "pos" for text in chosen)
        if showing < LEAST:  # the other side's texts by themselves teach what the trait is not
            raise UserError(
                f"there are {showing} texts that show {self.paths.trait} and may be learnt; {LEAST} are needed"
            )
        shared = fill_budgets(chosen, self.training.train_tokens, self.training.val_tokens, seed=0)
        return replace(shared, source=source)

    @property
    def _learns_opposite(self) -> bool:
        return self.training.train_opposite and self.objective == "nll"

    def _find_texts(self, lm: LM) -> tuple[list[Text], dict[str, Any]]:
        """Return all texts that there are, and of those of a file, what is to be said of it."""
        about, is_told = self.captured.about, self.objective in TOLD
        if self.chats:
            sides = SIDES if self.objective == "pref" or self._learns_opposite else ("pos",)
            found = given_texts(self.paths, lm, about, self.chats, Wanted(self.thresholds, sides, is_told))
            return found.texts, found.source

        passing = None if self.no_vet else self.thresholds
        if is_told:
            return told_texts(self.paths, lm, about, passing, self.sampling, self.journal), {}
        return own_texts(self.paths, lm, about, passing, in_pairs=self.objective == "pref"), {}


def _layers(paths: TraitPaths, spec: str, about: ActivationsAbout) -> list[int]:
    """Return the layers asked for: by default where stage 5 steers by default."""
    if spec != "best":
        return parse_layers(spec, about.shape[1]) if spec else [usual_layer(about.shape[1])]

    fitted = [vector for vector in list_vectors(paths).values() if vector.origin is None]
    best = best_held_out(paths, fitted)
    if best is None:
        raise UserError(
            f"{paths.trait}: no vector was measured on held-out responses; name layers with --layers"
        )
    return [best.key[1]]
