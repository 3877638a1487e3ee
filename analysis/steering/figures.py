"""Pictures of a steering evaluation: dose–response curves, and the null with the vector's mark."""

import inspect
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import matplotlib

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt

from utils.artifacts import read_json, write_bytes
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from utils.paths import TraitPaths

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
            save(draw(results), paths.steering_figure(name))
            print(paths.steering_figure(name).relative_to(paths.root))


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, without the date that would make every file differ."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    write_bytes(path, data.getvalue())


def draw_curves(results: dict) -> Any:
    """Effect and coherence against the dose, one line per method and layer; the chosen cell is ringed."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2))
    places = sorted({(p["method"], str(p["layer"])) for p in results["dev"]})
    for i, place in enumerate(places):
        points = sorted((p["dose"], p["effect"], p["coherence"]) for p in results["dev"] if (p["method"], str(p["layer"])) == place and p["effect"] is not None)
        doses, effects, coherences = zip(*points, strict=True) if points else ((), (), ())
        style = {"color": plt.get_cmap("viridis")(i / max(len(places), 2)), "marker": "o", "markersize": 4, "linewidth": 1.3}
        upper.plot(doses, effects, label=f"{place[0]} {place[1]}", **style)
        lower.plot(doses, coherences, **style)
    chosen = next(p for p in results["dev"] if all(p[k] == results["chosen"][k] for k in ("method", "layer", "dose")))
    upper.plot(chosen["dose"], chosen["effect"], "o", markersize=13, markerfacecolor="none", markeredgecolor="black")
    upper.axhline(0, color="black", linewidth=0.6)
    upper.set(ylabel="effect on dev (points)", title=f"{results['trait']}: {results['verdict']}")
    upper.legend(fontsize=7, ncols=2, frameon=False)
    lower.set(ylabel="coherence", xlabel="dose (share of the residual norm)", ylim=(0, 102), xscale="log")
    return figure


def draw_nulls(results: dict) -> Any:
    """The odd parts of the random directions, and where the vector and the shuffled labels fall."""
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    null = results["random"] or {"odd_parts": [], "z": float("nan")}
    axes.hist([abs(x) for x in null["odd_parts"]], bins=12, color=COLOURS["null"], label="random directions")
    marks = (("vector", results["odd_part"]), ("shuffled labels", results["shuffled_labels_odd_part"]))
    for (name, found), colour in zip(marks, (COLOURS["vector"], COLOURS["shuffled"]), strict=True):
        if found:
            value = found["mean"] if name == "vector" else abs(found["mean"])
            axes.axvline(value, color=colour, linewidth=2.5, label=f"{name} {found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]")
            axes.axvspan(max(found["low"], 0), max(found["high"], 0), color=colour, alpha=0.12) if name == "vector" else None
    axes.set(xlabel="size of the odd part on test (points)", ylabel="directions", title=f"{results['trait']}: z = {null['z']:.1f}", xlim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(FigureOptions) or "")
