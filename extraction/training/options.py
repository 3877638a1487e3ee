"""How vectors are trained: the flags, and what they come to."""

from dataclasses import dataclass
from typing import Literal

from traitscope.utils.errors import UserError
from traitscope.utils.model.hooks import Positions
from traitscope.utils.records.chats import SCORE, identify_chats
from traitscope.utils.stage.flags import flag

Opposite = Literal["negative", "null"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class TextOptions:
    """Where the texts come from."""

    texts_from: str = flag(
        "",
        (
            'A JSON-lines file of conversations, {"messages": [{"role", "content"}, …], "score"?}, to train on in '
            "place of the trait's own responses."
        ),
        also=("from",),
        identify=identify_chats,
    )
    score_column: str = flag(
        SCORE,
        (
            "Field of that file which says how strongly a response shows the trait: --pos-threshold and "
            "--neg-threshold tell the sides apart. Without it, every response does; '' reads none."
        ),
    )

    heading = "Texts"
    is_setting = True


@dataclass(frozen=True)
class TrainOptions:
    """How a vector is trained."""

    train_layers: str = flag(
        "",
        (
            "Layers to train a vector at: 15, 5-20, 30%-70%:4, or best, which separates held-out responses best; by "
            "default the one at which stage 5 steers by default."
        ),
        also=("layers",),
    )
    learning_rates: tuple[float, ...] = flag(
        (0.1,), "Learning rates; all are tried in one pass, and validation chooses."
    )
    train_seeds: int = flag(
        1, "Seeds; each gives another order of the texts, and so another first direction.", also=("seeds",)
    )
    steps: int = flag(60, "Steps of the optimiser.")
    epochs: float = flag(0.0, "Passes over the training texts, in place of --steps.")
    texts_a_step: int = flag(4, "Texts that a step is computed on; a pair of answers is two.")
    schedule: Schedule = flag("cosine", "How the learning rate goes down: constant, linear or cosine.")
    warmup: int = flag(5, "Steps over which the learning rate goes up first.")
    patience: int = flag(
        3, "Validations without a lower loss after which a vector is finished; 0 never ends early."
    )
    train_tokens: int = flag(0, "Response tokens to train on; 0 takes all that validation leaves.")
    val_tokens: int = flag(0, "Response tokens to validate on; 0 takes a fifth.")
    train_doses: tuple[float, ...] = flag(
        (0.1, 0.2, 0.3, 0.4), "Doses at which a direction is trained, one drawn for each text."
    )
    free_norm: bool = flag(
        False, "Learn the vector's length too, from zero on, in place of a direction at the doses."
    )
    train_opposite: bool = flag(
        True,
        "Train on the texts of the other side as well, under the vector's opposite; else on the trait's side alone.",
    )
    opposite: Opposite = flag(
        "negative",
        (
            "What acts against the trait where the other side is trained on: the vector's negative, or null, which removes "
            "what points its way."
        ),
    )
    positions: Positions = flag("all", "all, or response (from the last prompt token on).")
    traits_a_pass: int = flag(
        1,
        (
            "Traits that are trained together, their rows in the same passes; it pays where one trait's rows do not "
            "fill a GPU."
        ),
        cosmetic=True,
    )
    gradient_checkpointing: bool = flag(
        False, "Keep less in memory and compute the blocks again on the way back.", cosmetic=True
    )

    heading = "Training"
    is_setting = True  # a key of config.json

    def check(self) -> None:
        """Raise UserError where the flags say what cannot be."""
        positive = {
            "learning-rates": min(self.learning_rates, default=0),
            "train-seeds": self.train_seeds,
            "texts-a-step": self.texts_a_step,
            "traits-a-pass": self.traits_a_pass,
            "train-doses": min(self.train_doses, default=0),
            "steps": self.steps,
        }
        for name, value in positive.items():
            if not value > 0:
                raise UserError(f"--{name} must be above 0")
        not_negative = {
            "warmup": self.warmup,
            "patience": self.patience,
            "train-tokens": self.train_tokens,
            "val-tokens": self.val_tokens,
            "epochs": self.epochs,
        }
        for name, value in not_negative.items():
            if value < 0:
                raise UserError(f"--{name} must not be below 0")
