"""Pictures of a steering evaluation: dose–response curves, and the null with the vector's mark."""

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import matplotlib

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from utils.artifacts import read_json, write_figure
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from utils.paths import TraitPaths

LINES = ("-", "--", ":", "-.")  # by method
COLOURS = {"vector": "#1f5fa8", "null": "#9aa3ad", "shuffled": "#b8772e", "coherence": "#3a8f5c"}


@dataclass(frozen=True)
class FigureOptions:
    """Draw what stage 5 found: effect and coherence against the dose, and the random directions with the vector among them.

    Args:
        experiment: Experiment whose stage 5 has completed for these traits.
        traits: Traits, separated by commas.
    """

    experiment: str
    traits: tuple[str, ...]


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(FigureOptions)


def main(**given: Any) -> None:
    """Draw every trait's two figures.

    Raises:
        UserError: a trait has no completed stage 5.
    """
    options = pick(FigureOptions, given)
    for trait in options.traits:
        paths = TraitPaths(options.experiment, trait)
        if not paths.manifest("5_steer_evaluate").exists():
            raise UserError(f"{trait} has no completed 5_steer_evaluate in {options.experiment}; run it first")
        results = read_json(paths.steering_results)
        for name, draw in (("dose_response", draw_curves), ("nulls", draw_nulls)):
            write_figure(paths.steering_figure(name), draw(results))
            print(paths.steering_figure(name).relative_to(paths.root))


def draw_curves(results: dict) -> Any:
    """Effect and coherence against the dose, one line per method and layer; the chosen cell is ringed."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2))
    methods, layers = (list(dict.fromkeys(str(p[key]) for p in results["dev"])) for key in ("method", "layer"))
    for method, layer in dict.fromkeys((str(p["method"]), str(p["layer"])) for p in results["dev"]):
        points = sorted((p for p in results["dev"] if (p["method"], str(p["layer"])) == (method, layer) and p["effect"] is not None), key=lambda p: p["dose"])
        colour, dashes = plt.get_cmap("viridis")(layers.index(layer) / max(len(layers), 2)), LINES[methods.index(method) % len(LINES)]
        style = {"color": colour, "linestyle": dashes, "marker": "o", "markersize": 4, "linewidth": 1.3}
        doses = [p["dose"] for p in points]
        upper.plot(doses, [p["effect"] for p in points], label=f"{method}, layer {layer}", **style)
        upper.fill_between(doses, [p["effect_low"] for p in points], [p["effect_high"] for p in points], color=colour, alpha=0.08, linewidth=0)
        lower.plot(doses, [p["coherence"] for p in points], **style)
    chosen = next(p for p in results["dev"] if all(p[k] == results["chosen"][k] for k in ("method", "layer", "dose")))
    upper.plot(chosen["dose"], chosen["effect"], "o", markersize=13, markerfacecolor="none", markeredgecolor="black")
    upper.axhline(0, color="black", linewidth=0.6)
    upper.set(ylabel="effect on dev (points)", title=f"{results['trait']}: {results['verdict']}")
    upper.legend(fontsize=7, ncols=2, frameon=False)
    lower.set(ylabel="coherence", xlabel="dose (share of the residual norm)", ylim=(0, 102), xscale="log")
    lower.xaxis.set_major_formatter(ScalarFormatter())
    lower.xaxis.set_minor_formatter(NullFormatter())
    lower.xaxis.set_major_locator(FixedLocator(_ticks([p["dose"] for p in results["dev"]])))
    return figure


def _ticks(doses: list[float]) -> list[float]:
    """Return the doses tried, less those too close to another to be written beside it."""
    kept: list[float] = []
    for dose in sorted({round(d, 3) for d in doses}):
        if not kept or dose > 1.12 * kept[-1]:
            kept.append(dose)
    return kept


def draw_nulls(results: dict) -> Any:
    """The odd parts of the random directions, and where the vector and the shuffled labels fall."""
    figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    null = results["random"] or {"odd_parts": [], "z": float("nan")}
    axes.hist([abs(x) for x in null["odd_parts"]], bins=12, color=COLOURS["null"], label="random directions")
    marks = (("vector", results["odd_part"]), ("shuffled labels", results["shuffled_labels_odd_part"]))
    for (name, found), colour in zip(marks, (COLOURS["vector"], COLOURS["shuffled"]), strict=True):
        if found:
            value = found["mean"] if name == "vector" else abs(found["mean"])
            axes.axvline(value, color=colour, linewidth=2.5, label=f"{name} {found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]")
            axes.axvspan(max(found["low"], 0), max(found["high"], 0), color=colour, alpha=0.12) if name == "vector" else None
    axes.set(xlabel="size of the odd part on test (points)", ylabel="directions", title=f"{results['trait']}: z = {null['z']:.1f}", xlim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(FigureOptions) or "")
