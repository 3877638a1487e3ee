"""Two groups of captured prompts (by a field of the prompt set, or by what a judge says of the
responses), compared on every trait.

For example:

    python analysis/compare_groups.py --experiment demo --prompt-set refusal_probe --by success
"""

import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import matplotlib

matplotlib.use("Agg")  # no display is needed
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_figure
from traitscope.utils.files.paths import InferencePaths, TraitPaths
from traitscope.utils.judge import Answer, JudgeOptions, explain_gaps, load_judge
from traitscope.utils.measures.clusters import find_clusters
from traitscope.utils.measures.groups import compare_all
from traitscope.utils.model.encode import text_of
from traitscope.utils.records.comparisons import write_groups
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.readings import mean_projections, read_projected
from traitscope.utils.records.recorded import Record, read_records
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

# what --by may name beside fields and traits
OUTCOMES = {"success": ("behavioral/refusal", {"high": "failure", "low": "success"})}


@dataclass(frozen=True)
class GroupOptions:
    """Compare two groups of prompts: mean projections, Cohen's d, AUROC, permutation p, q over all
    vectors, and a trait × layer heatmap.
    """

    experiment: str = flag(help="Experiment that the prompt set was captured in.")
    prompt_set: str = flag(help="A captured prompt set.")
    by: str = flag(
        help=(
            "A field of the prompts, a trait (its judge splits the responses into high and low), or success "
            "(of a jailbreak: little refusal)."
        )
    )
    groups: tuple[str, ...] = flag(
        (),
        (
            "The two values of the field that are compared, first over second; by default the only two there "
            "are."
        ),
    )
    cluster_by: str = flag(
        "auto",
        (
            "A field whose prompts are variants of one matter, and so no independent evidence; auto takes "
            "request, matter or triple where several prompts share one, and none takes all as independent."
        ),
    )
    over: Literal["response", "prompt", "all"] = flag(
        "response", "Tokens that are averaged: response, prompt or all."
    )
    scale: Literal["raw", "centered", "cosine"] = flag("raw", "raw, centered or cosine.")


def compare_groups(options: GroupOptions, judging: JudgeOptions, thresholds: Thresholds) -> None:
    """Compare, print, draw and store.

    Raises:
        UserError: nothing was captured, or there are no two groups.
    """
    paths = InferencePaths(options.experiment, options.prompt_set)
    records = read_records(paths)
    outcome, how = _outcomes(options, records, judging, thresholds)
    names = _two_groups(options, outcome)
    members = [{r.id for r in records if outcome[r.id] == name} for name in names]
    origins, values = mean_projections(read_projected(paths), options.over, options.scale)
    if not values:
        raise UserError(f"{paths.dir} has no projections; run inference/project_activations.py first")

    clusters, said = _clusters(options, records, members)
    found = compare_all(values, members, clusters)
    cells = [{**origins[label], **row} for label, row in found.items() if row]
    if not cells:
        raise UserError(
            "nothing can be compared: each group takes two projected prompts, and two clusters where "
            "--cluster-by names some"
        )
    how += f", {said}" if said else ""
    about = {
        "by": options.by,
        "how": how,
        "over": options.over,
        "scale": options.scale,
        "groups": dict(zip(names, map(sorted, members), strict=True)),
    }
    left_out = sorted({r.id for r in records} - members[0] - members[1])
    target = write_groups(paths, about | {"left_out": left_out, "vectors": cells})
    figure = target.with_suffix(".png")
    write_figure(figure, draw(cells, names))
    print(render(cells, names))
    sizes = f"{names[0]} ({len(members[0])}) against {names[1]} ({len(members[1])})"
    print(f"[groups] {sizes}, {how}; {target}, {figure.name}")


def _clusters(
    options: GroupOptions, records: Sequence[Record], members: Sequence[set[str]]
) -> tuple[dict[str, str] | None, str]:
    """Return {prompt: cluster}, and in words which those are."""
    try:
        clusters, field = find_clusters({r.id: r.metadata for r in records}, options.by, options.cluster_by)
    except ValueError as error:
        raise UserError(f"--cluster-by: {error}") from None
    if clusters is None:
        return None, ""
    n = len({clusters[prompt] for group in members for prompt in group})
    return clusters, f"prompts of one {field} taken together ({n})"


def _outcomes(
    options: GroupOptions, records: Sequence[Record], judging: JudgeOptions, thresholds: Thresholds
) -> tuple[dict[str, str], str]:
    """Return {prompt: group} ("" for none), and in words where that comes from."""
    if any(options.by in record.metadata for record in records):
        return {r.id: str(r.metadata.get(options.by, "")) for r in records}, f"by the field {options.by}"

    trait, words = OUTCOMES.get(options.by, (options.by, {"high": "high", "low": "low"}))
    if "/" not in trait:
        fields = ", ".join(sorted({name for r in records for name in r.metadata}))
        raise UserError(
            f"no prompt has a field {options.by!r}; name one of {fields or 'none'}, a trait "
            f"(category/name), or {', '.join(OUTCOMES)}"
        )

    paths = TraitPaths(options.experiment, trait)
    judge = load_judge(judging, read_trait(paths).rubric, paths.spending)
    scores = judge.score_responses([Answer(text_of(r.prompt), r.response) for r in records])
    if gaps := explain_gaps(scores, judging.max_unjudged):
        raise UserError(f"{trait}: {gaps}")

    sides = {"high": lambda v: v >= thresholds.pos_threshold, "low": lambda v: v <= thresholds.neg_threshold}
    values = {r.id: score.value for r, score in zip(records, scores, strict=True)}
    found = {
        name: next((words[side] for side, holds in sides.items() if v is not None and holds(v)), "")
        for name, v in values.items()
    }
    limits = f"at {thresholds.pos_threshold:g} and above, and {thresholds.neg_threshold:g} and below"
    return found, f"by the {judging.judge} judge's score for {trait}, {limits}"


def _two_groups(options: GroupOptions, outcome: Mapping[str, str]) -> tuple[str, str]:
    """Return the two groups' names.

    Raises:
        UserError: there are more or fewer than two, or one of them is too small.
    """
    sizes = {name: sum(v == name for v in outcome.values()) for name in sorted(set(outcome.values()) - {""})}
    chosen = options.groups or tuple(sizes)
    listed = ", ".join(f"{name} ({n})" for name, n in sizes.items()) or "none"
    if len(chosen) != 2 or len(set(chosen)) < 2:
        raise UserError(f"--by {options.by} gives {listed}; name two of them with --groups first,second")

    small = [name for name in chosen if sizes.get(name, 0) < 2]
    if small:
        raise UserError(f"--by {options.by}: fewer than two prompts are {small[0]}; there are {listed}")

    return chosen[0], chosen[1]


def render(cells: Sequence[dict], names: tuple[str, str]) -> str:
    """Return the comparison for a terminal, the clearest differences first."""
    rows = [
        {
            "trait": c["trait"],
            "vector": f"{c['method']} {c['layer']}",
            **{name: f"{mean:.2f}" for name, mean in zip(names, c["means"], strict=True)},
            "d [95 %]": f"{c['d']:+.2f} [{c['d_interval'][0]:+.2f}, {c['d_interval'][1]:+.2f}]",
            "AUROC": f"{c['auroc']:.2f}",
            "p": f"{c['p']:.4f}",
            "q": f"{c['q']:.4f}",
        }
        for c in sorted(cells, key=lambda c: (c["q"], -abs(c["d"])))
    ]
    return pd.DataFrame(rows).to_string(index=False)


def draw(cells: Sequence[dict], names: tuple[str, str]) -> plt.Figure:
    """Return a heatmap of Cohen's d, traits by layers; the strongest method of a cell is shown, and a dot
    where q < 0.05.
    """
    traits, layers = sorted({c["trait"] for c in cells}), sorted({c["layer"] for c in cells})
    grid = np.full((len(traits), len(layers)), np.nan)
    figure, axes = plt.subplots(
        figsize=(2.5 + 0.45 * len(layers), 1.5 + 0.35 * len(traits)), layout="constrained"
    )

    for cell in sorted(cells, key=lambda c: abs(c["d"])):
        place = traits.index(cell["trait"]), layers.index(cell["layer"])
        grid[place] = cell["d"]
        if cell["q"] < 0.05:
            axes.plot(place[1], place[0], ".", color="black", markersize=4)

    limit = max(np.nanmax(np.abs(grid)), 0.1)
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(traits)), traits)
    axes.set(xlabel="layer", title=f"{names[0]} against {names[1]}")
    figure.colorbar(image, label="Cohen's d")
    return figure


if __name__ == "__main__":
    command(compare_groups)
