"""The same tokens read by two models (base and instruct, before and after a fine-tune): where their
projections on the same vectors differ.

For example:

    python analysis/compare_models.py --experiment demo --other tuned --prompt-set general
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


import numpy as np
import pandas as pd

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.measures.groups import top_spans
from traitscope.utils.measures.intervals import benjamini_hochberg, mean_interval, permutation_p
from traitscope.utils.records.comparisons import write_comparison
from traitscope.utils.records.readings import Projections, read_projected, vector_id
from traitscope.utils.records.recorded import Record, read_records
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class CompareOptions:
    """Compare two models on the same recorded tokens and the same vectors: differences per token, per
    layer and trait, and where they are largest.
    """

    experiment: str = flag(help="Experiment whose model wrote the responses.")
    other: str = flag(
        help=(
            "Experiment whose model read the same tokens (captured there with --responses-from and "
            "--vectors-from)."
        )
    )
    prompt_set: str = flag(help="The prompt set captured in both.")
    traits: tuple[str, ...] = flag(
        (), "Traits, separated by commas; by default all that both have.", also=("trait",)
    )
    over: Literal["response", "prompt", "all"] = flag(
        "response", "Tokens that are compared: response, prompt or all."
    )
    window: int = flag(8, "Tokens of a stretch in the list of largest differences.")
    top: int = flag(10, "How many stretches are listed per vector.")


def compare_models(options: CompareOptions) -> None:
    """Compare, print and store.

    Raises:
        UserError: the two experiments share no tokens or no vectors.
    """
    if options.window < 1 or options.top < 1:
        raise UserError("--window and --top are 1 or more")

    paths = InferencePaths(options.experiment, options.prompt_set)
    records = _shared(paths, paths.within(options.other))
    pairs = _pairs(paths, paths.within(options.other), records, options)
    labels = list(dict.fromkeys(first.label for _, first, _ in pairs))
    if not labels:
        how = f"--responses-from {options.experiment} --vectors-from {options.experiment}"
        raise UserError(
            f"{options.other} has no projections of these tokens on the same vectors; capture the set there "
            f"with {how}"
        )

    found = [_compare([pair for pair in pairs if pair[1].label == label], options) for label in labels]
    for row, q in zip(found, benjamini_hochberg([row["p"] for row in found]), strict=True):
        row["q"] = q
    about = {
        "experiment": options.experiment,
        "other": options.other,
        "over": options.over,
        "n_prompts": len(records),
    }
    target = write_comparison(paths, about | {"vectors": found})
    print(render(found))
    print(
        f"[compare] {options.other} − {options.experiment}: {len(records)} prompts × {len(labels)} vectors, "
        f"over the {options.over}; {target}"
    )


def _shared(first: InferencePaths, second: InferencePaths) -> list[Record]:
    """Return the records that both experiments hold with the very same ids."""
    there = {record.id: record.ids for record in read_records(second)}
    same = [record for record in read_records(first) if there.get(record.id) == record.ids]
    if len(same) < 2:
        raise UserError(
            f"{len(same)} prompts of {first.prompt_set} have the same tokens in {first.experiment} and {second.experiment}; "
            f"capture the set in {second.experiment} with --responses-from {first.experiment}"
        )

    return same


Pair = tuple[Record, Projections, Projections]


def _pairs(
    first: InferencePaths, second: InferencePaths, records: Sequence[Record], options: CompareOptions
) -> list[Pair]:
    """Return every record with its projections by both models on the same vector."""
    theirs = {(r.id, *vector_id(s.origin)): s for r, s in read_projected(second)}
    wanted = {record.id for record in records}
    return [
        (record, scores, theirs[record.id, *vector_id(scores.origin)])
        for record, scores in read_projected(first)
        if record.id in wanted
        and (record.id, *vector_id(scores.origin)) in theirs
        and (not options.traits or scores.origin["trait"] in options.traits)
    ]


def _compare(pairs: Sequence[Pair], options: CompareOptions) -> dict:
    """Return one vector's comparison; d is the mean of the prompts' mean differences over their spread
    (paired, d_z).
    """
    spans = {record.id: record.span(options.over) for record, _, _ in pairs}
    by_token = {record.id: (second.raw - first.raw)[spans[record.id]] for record, first, second in pairs}
    means = np.array([values.mean() for values in by_token.values() if len(values)])
    if len(means) < 2:
        raise UserError(
            f"{len(means)} prompts have tokens in the {options.over}, and a comparison takes 2; choose "
            "another --over"
        )
    mean, low, high = mean_interval(means)
    records = {record.id: record for record, _, _ in pairs}
    stretches = []

    for prompt, start, value in top_spans(by_token, options.window, options.top):
        begin = int(spans[prompt].start) + start
        text = "".join(records[prompt].tokens[begin : begin + options.window])
        stretches.append({"id": prompt, "start": begin, "mean": round(value, 6), "text": text})

    return {
        **{name: pairs[0][1].origin[name] for name in ("trait", "method", "layer")},
        "difference": {"mean": mean, "low": low, "high": high},
        "d": float(mean / max(means.std(ddof=1), 1e-12)),
        "p": permutation_p(means),
        "n": len(means),
        "top": stretches,
        "by_token": {prompt: [float(f"{v:.6g}") for v in values] for prompt, values in by_token.items()},
        "first_token": {prompt: int(span.start) for prompt, span in spans.items()},
    }


def render(found: Sequence[dict]) -> str:
    """Return the comparison for a terminal: a row per vector, and each one's largest differences."""
    rows = [
        {
            "trait": row["trait"],
            "vector": f"{row['method']} {row['layer']}",
            "difference [95 %]": f"{row['difference']['mean']:+.2f} [{row['difference']['low']:+.2f}, {row['difference']['high']:+.2f}]",
            "d": f"{row['d']:+.2f}",
            "p": f"{row['p']:.4f}",
            "q": f"{row['q']:.4f}",
        }
        for row in sorted(found, key=lambda row: (row["q"], -abs(row["d"])))
    ]
    lines = [pd.DataFrame(rows).to_string(index=False)]

    for row in found:
        lines.append(f"{row['trait']} {row['method']} {row['layer']}, largest differences:")
        lines += [
            f"  {s['mean']:+9.2f}  {s['id']}, token {s['start']}: {' '.join(s['text'].split())}"
            for s in row["top"][:3]
        ]

    return "\n".join(lines)


if __name__ == "__main__":
    command(compare_models)
