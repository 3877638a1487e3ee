"""A picture of rollouts: the trait score against the dose, and coherence beneath."""

from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

COLOURS = ("#1f5fa8", "#b8772e", "#3a8f5c", "#9b3f7c", "#6b6f76", "#8a5a2b")
LEVELS = {"plain": ("#55585f", "-"), "prompted": ("#c0392b", "--"), "prompted_neg": ("#7d5ba6", ":")}
ROWS = (("trait", "trait score"), ("coherence", "coherence"))


def draw_rollouts(trait: str, variants: pd.DataFrame) -> Any:
    """Draw every steered arm's scores against its dose with their intervals; plain and prompted are lines across.

    Args:
        variants: A row per variant, as `per_variant` makes them.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2))
    steered = variants[variants["method"].notna() & variants["dose"].notna()]
    for axis, (score, name) in zip(axes, ROWS, strict=True):
        _draw_levels(axis, variants, score)
        for (arm, part), colour in zip(_arms(steered), _repeated(COLOURS), strict=False):
            _draw_arm(axis, part, score, arm, colour)
        axis.set(ylabel=name, ylim=(-2, 102))
        axis.grid(alpha=0.25)

    axes[0].set_title(trait)
    axes[1].set_xlabel("dose (share of the mean residual norm)")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    return figure


def _repeated(colours: tuple[str, ...]) -> list[str]:
    return list(colours) * 20


def _arms(steered: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return every line of the picture: method, layer and system prompt, by dose."""
    lines = []
    for (method, layer, told), part in steered.groupby(
        ["method", "layer", "system_prompt"], dropna=False, sort=False
    ):
        name = f"{method}, layer {layer}" + ("" if pd.isna(told) else f", prompted {told}")
        lines.append((name, part.sort_values("dose")))
    return lines


def _draw_levels(axis: Any, variants: pd.DataFrame, score: str) -> None:
    for arm, (colour, style) in LEVELS.items():
        means = variants.loc[variants["arm"] == arm, score].dropna()
        if len(means):
            name = arm if len(means) == 1 else f"{arm} (mean of {len(means)})"
            axis.axhline(float(means.mean()), color=colour, linestyle=style, linewidth=1.2, label=name)


def _draw_arm(axis: Any, part: pd.DataFrame, score: str, name: str, colour: str) -> None:
    known = part[part[score].notna()]
    if known.empty:
        return
    doses, means = known["dose"].astype(float), known[score].astype(float)
    axis.plot(doses, means, color=colour, marker="o", markersize=4, linewidth=1.6, label=name)

    ranged = known[known[f"{score}_low"].notna()]
    low, high = (ranged[f"{score}_{end}"].astype(float) for end in ("low", "high"))
    axis.vlines(
        ranged["dose"].astype(float), low.clip(lower=0), high.clip(upper=100), color=colour, alpha=0.5
    )
