"""Pictures of a steering evaluation: dose–response curves, and the null with the vector's mark.

For example:

    python analysis/draw_steering.py --experiment demo --traits behavioral/formality
"""

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

import matplotlib

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_figure
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.verdict import Interval, Verdict, require_verdict
from traitscope.utils.stage.command import command
from traitscope.utils.stage.each import Each
from traitscope.utils.stage.flags import flag

LINES = ("-", "--", ":", "-.")  # by method
COLOURS = {"vector": "#1f5fa8", "null": "#9aa3ad", "shuffled": "#b8772e", "coherence": "#3a8f5c"}


@dataclass(frozen=True)
class FigureOptions:
    """Draw what stage 5 found: effect and coherence against the dose, and the random directions with the
    vector among them.
    """

    experiment: str = flag(help="Experiment whose stage 5 has completed for these traits.")
    traits: tuple[str, ...] = flag(help="Traits, separated by commas.", also=("trait",))


def draw_steering(options: FigureOptions) -> None:
    """Draw every trait's two figures.

    Raises:
        UserError: a trait has no completed stage 5.
    """
    each = Each([TraitPaths(options.experiment, trait) for trait in options.traits])
    each.do(draw_trait)
    each.finish()


def draw_trait(paths: TraitPaths) -> None:
    """Draw one trait's figures."""
    found = require_verdict(paths)
    for name, draw in (("dose_response", draw_curves), ("nulls", draw_nulls)):
        write_figure(paths.steering_figure(name), draw(found))
        print(paths.steering_figure(name).relative_to(paths.root))


def draw_curves(found: Verdict) -> Any:
    """Draw effect and coherence against the dose, one line per method and layer; the chosen cell is
    ringed.
    """
    place = (found.chosen.method, found.chosen.layer, found.chosen.dose)
    chosen = next((p for p in found.dev if (p.method, p.layer, p.dose) == place), None)
    if chosen is None:
        raise UserError(
            f"{found.trait}: the chosen cell is not among those tried; run stage 5 again with --force"
        )

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7, 6), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    methods = list(dict.fromkeys(p.method for p in found.dev))
    layers = list(dict.fromkeys(str(p.layer) for p in found.dev))
    for method, layer in dict.fromkeys((p.method, str(p.layer)) for p in found.dev):
        own = [p for p in found.dev if (p.method, str(p.layer)) == (method, layer) and p.effect is not None]
        points = sorted(own, key=lambda p: p.dose)
        colour = plt.get_cmap("viridis")(layers.index(layer) / max(len(layers), 2))
        dashes = LINES[methods.index(method) % len(LINES)]
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": dashes,
            "marker": "o",
            "markersize": 4,
            "linewidth": 1.3,
        }

        doses = [p.dose for p in points]
        band = ([p.effect_low for p in points], [p.effect_high for p in points])
        upper.plot(doses, [p.effect for p in points], label=f"{method}, layer {layer}", **style)
        upper.fill_between(doses, *band, color=colour, alpha=0.08, linewidth=0)
        lower.plot(doses, [p.coherence for p in points], **style)

    upper.plot(
        chosen.dose, chosen.effect, "o", markersize=13, markerfacecolor="none", markeredgecolor="black"
    )
    upper.axhline(0, color="black", linewidth=0.6)
    upper.set(ylabel="effect on dev (points)", title=f"{found.trait}: {found.verdict}")
    upper.legend(fontsize=7, ncols=2, frameon=False)

    lower.set(
        ylabel="coherence, weaker side",
        xlabel="dose (share of the residual norm)",
        ylim=(0, 102),
        xscale="log",
    )
    lower.xaxis.set_major_formatter(ScalarFormatter())
    lower.xaxis.set_minor_formatter(NullFormatter())
    lower.xaxis.set_major_locator(FixedLocator(_ticks([p.dose for p in found.dev])))
    return figure


def _ticks(doses: list[float]) -> list[float]:
    """Return the doses tried, less those too close to another to be written beside it."""
    kept: list[float] = []
    for dose in sorted({round(d, 3) for d in doses}):
        if not kept or dose > 1.12 * kept[-1]:
            kept.append(dose)
    return kept


def draw_nulls(found: Verdict) -> Any:
    """Draw the odd parts of the random directions, and where the vector and the shuffled labels fall."""
    figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    odd_parts, z = (found.random.odd_parts, found.random.z) if found.random else ([], None)
    axes.hist([abs(x) for x in odd_parts], bins=12, color=COLOURS["null"], label="random directions")

    for name, part in (("vector", found.odd_part), ("shuffled", found.shuffled_labels_odd_part)):
        if part:
            _mark(axes, name, part)
    title = found.trait if z is None else f"{found.trait}: z = {z:.1f}"
    axes.set(xlabel="size of the odd part on test (points)", ylabel="directions", title=title, xlim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _mark(axes: Any, name: str, part: Interval) -> None:
    """Draw where a vector's odd part falls; of shuffled labels its size, whatever its sign."""
    words = {"vector": "vector", "shuffled": "shuffled labels"}[name]
    value = part.mean if name == "vector" else abs(part.mean)
    label = f"{words} {part.mean:+.1f} [{part.low:+.1f}, {part.high:+.1f}]"
    axes.axvline(value, color=COLOURS[name], linewidth=2.5, label=label)
    if name == "vector":
        axes.axvspan(max(part.low, 0), max(part.high, 0), color=COLOURS[name], alpha=0.12)


if __name__ == "__main__":
    command(draw_steering)
