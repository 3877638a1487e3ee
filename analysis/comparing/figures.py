"""Pictures of compared vectors: how alike they are, and what a text costs under each."""

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

COLOURS = {"plus": "#1f5fa8", "minus": "#b8772e", "line": "#3a3f45", "random": "#9aa3ad"}


def draw_cosines(title: str, tables: Mapping[str, pd.DataFrame]) -> Any:
    """Draw one layer's matrix of cosines.

    Args:
        tables: Those of utils/records/compared_vectors.py, with the rows of one layer.
    """
    methods = tables["vectors"]["method"].tolist()
    found = tables["cosines"].set_index(["method", "other"])["cosine"].to_dict()
    values = np.array([[found.get((a, b), 1.0) for b in methods] for a in methods])

    size = 2.5 + 0.62 * len(methods)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    image = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(methods)), methods, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), methods)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)
    return figure


def draw_costs(title: str, tables: Mapping[str, pd.DataFrame]) -> Any:
    """Draw one layer's perplexities: every vector and its opposite, beside the unsteered model, the prompted one and
    the range of the random directions; whiskers are the interval of the change. A side without texts has no panel.
    """
    costs = tables["costs"]
    sides = [side for side in ("pos", "neg") if (costs["side"] == side).any()]
    methods = tables["vectors"]["method"].tolist()
    dose = tables["vectors"]["dose"].iloc[0]
    height = 1.4 + 0.45 * len(methods)
    figure, panels = plt.subplots(
        max(len(sides), 1),
        1,
        figsize=(8, 0.6 + height * max(len(sides), 1)),
        layout="constrained",
        squeeze=False,
    )
    figure.suptitle(f"{title}, dose {dose:g}", fontsize=10)
    for side, axes in zip(sides, panels[:, 0], strict=False):
        _draw_side(axes, costs[costs["side"] == side], methods, side)
    if not sides:
        panels[0, 0].set_axis_off()
        panels[0, 0].text(0.5, 0.5, "no held-out text", ha="center")
    return figure


def _draw_side(axes: Any, costs: pd.DataFrame, methods: list[str], side: str) -> None:
    rows = {(row["method"], row["arm"]): row for row in costs.to_dict("records")}
    shared = {row["arm"]: row for row in rows.values() if row["method"] not in methods}
    unsteered = shared["unsteered"]["loss"]
    places = np.arange(len(methods))
    for arm, sign, shift in (("plus", "+v", -0.15), ("minus", "−v", 0.15)):
        own = [rows[method, arm] for method in methods]
        values = np.array([row["perplexity"] for row in own])
        reach = [
            np.exp(unsteered + np.array([row[end] for row in own])) for end in ("change_low", "change_high")
        ]
        bars = np.nan_to_num(np.abs(np.array(reach) - values))  # none where no interval follows
        style: dict[str, Any] = {"color": COLOURS[arm], "fmt": "o", "markersize": 5, "capsize": 3}
        axes.errorbar(values, places + shift, xerr=bars, label=sign, **style)

    for arm, dashes in (("unsteered", "-"), ("prompted", "--"), ("told", ":")):
        value = shared.get(arm, {}).get("perplexity", np.nan)
        if np.isfinite(value):
            label = f"{arm} {value:.3g}"
            axes.axvline(value, color=COLOURS["line"], linestyle=dashes, linewidth=1.2, label=label)
    if "random" in shared:
        low, high = (np.exp(shared["random"][name]) for name in ("loss_lowest", "loss_highest"))
        axes.axvspan(low, high, color=COLOURS["random"], alpha=0.35, linewidth=0, label="random directions")

    words = {"pos": "positive", "neg": "negative"}[side]
    n = shared["unsteered"]["n_texts"]
    axes.set_yticks(places, methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"perplexity of {n} held-out {words} responses (log scale)", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
