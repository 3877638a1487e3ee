"""What is compared, and how thoroughly."""

from dataclasses import dataclass

from traitscope.utils.errors import UserError
from traitscope.utils.model.hooks import Positions
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class ComparisonOptions:
    """Which vectors stand side by side, and what they are measured on."""

    compare_methods: tuple[str, ...] = flag(
        (), "Methods to compare; by default all that have a vector at the layer.", also=("methods",)
    )
    compare_layers: str = flag(
        "",
        "Layers, as in stage 5: 17, 5-20, 30%-70%:4; by default the one at which it steers by default.",
        also=("layers",),
    )
    compare_dose: float = flag(
        0.2, "Dose at which every vector is added, and every random direction.", also=("dose",)
    )
    compare_texts: int = flag(
        16, "Held-out responses of each side that are read; 0 reads all.", also=("texts",)
    )
    compare_draws: int = flag(8, "Random directions, which are the noise as well.", also=("draws",))
    neutral_texts: int = flag(16, "Neutral questions whose unsteered answers the divergence is measured on.")
    positions: Positions = flag("all", "all, or response (from the last prompt token on).")
    null_seed: int = flag(0, "Seed of the random directions.")

    heading = "Comparison"
    is_setting = True  # a key of config.json

    def check(self) -> None:
        """Raise UserError where the flags say what cannot be."""
        if not self.compare_dose > 0:
            raise UserError("--dose must be above 0")
        if self.compare_draws < 2:
            raise UserError("--draws must be 2 or more, so that there is a range")
        if self.compare_texts < 0 or self.neutral_texts < 0:
            raise UserError("--texts and --neutral-texts are 0 or more")
