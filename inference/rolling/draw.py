"""A picture of rollouts: the trait score against the dose, and coherence beneath."""

from itertools import cycle, product
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

from traitscope.utils.records.rollouts import PLAIN, PROMPTED, PROMPTED_NEG

COLOURS = ("#1f5fa8", "#b8772e", "#3a8f5c", "#9b3f7c", "#6b6f76", "#8a5a2b")
STYLES = [(colour, dash) for dash, colour in product(("-", ":"), COLOURS)]  # where colours end, dotted
LEVELS = {PLAIN: ("#55585f", "-"), PROMPTED: ("#c0392b", "--"), PROMPTED_NEG: ("#7d5ba6", ":")}
UNTOLD = -1  # in place of the number of a system prompt
ROWS = (("trait", "trait score"), ("coherence", "coherence"))


def draw_rollouts(trait: str, variants: pd.DataFrame) -> Any:
    """Draw every steered arm's scores against its dose with their intervals; plain and prompted are lines across.

    Args:
        variants: A row per variant, as `per_variant` makes them.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2))
    for axis, (score, name) in zip(axes, ROWS, strict=True):
        _draw_levels(axis, variants, score)
        for (arm, part), style in zip(list_lines(variants), cycle(STYLES), strict=False):
            _draw_line(axis, part, score, arm, style)
        if not variants[score].notna().any():
            axis.text(0.5, 0.5, "not scored", transform=axis.transAxes, ha="center", color="#888")
        axis.set(ylabel=name, ylim=(-2, 102))
        axis.grid(alpha=0.25)

    axes[0].set_title(trait)
    axes[1].set_xlabel("dose (share of the mean residual norm)")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    return figure


def list_lines(variants: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return every line of the picture, (name, its variants by dose): method, layer and system prompt. At dose 0 stands
    what was not steered: plain, or the same system prompt.
    """
    unsteered = variants[variants["arm"].isin([PLAIN, PROMPTED])].assign(dose=0.0)
    steered = variants[variants["method"].notna() & variants["dose"].notna()]
    lines = []

    for (method, layer, told), part in steered.fillna({"system_prompt": UNTOLD}).groupby(
        ["method", "layer", "system_prompt"], sort=False
    ):
        name = f"{method}, layer {layer}" + ("" if told == UNTOLD else f", prompted {told}")
        middle = unsteered[unsteered["system_prompt"].fillna(UNTOLD) == told]
        lines.append((name, pd.concat([part, middle]).sort_values("dose")))
    return lines


def _draw_levels(axis: Any, variants: pd.DataFrame, score: str) -> None:
    for arm, (colour, style) in LEVELS.items():
        means = variants.loc[variants["arm"] == arm, score].dropna()
        if len(means):
            name = arm if len(means) == 1 else f"{arm} (mean of {len(means)})"
            axis.axhline(float(means.mean()), color=colour, linestyle=style, linewidth=1.2, label=name)


def _draw_line(axis: Any, part: pd.DataFrame, score: str, name: str, style: tuple) -> None:
    known = part[part[score].notna()]
    if known.empty:
        return
    colour, dash = style
    doses, means = known["dose"].astype(float), known[score].astype(float)
    axis.plot(doses, means, color=colour, linestyle=dash, marker="o", markersize=4, linewidth=1.6, label=name)

    ranged = known[known[f"{score}_low"].notna()]
    low, high = (ranged[f"{score}_{end}"].astype(float) for end in ("low", "high"))
    axis.vlines(
        ranged["dose"].astype(float), low.clip(lower=0), high.clip(upper=100), color=colour, alpha=0.5
    )
