"""Scores of every token of recorded responses on more traits, layers or methods, and a table of their means."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

import pandas as pd

from inference.cards import CardOptions, read_cards
from inference.projection import check_cards
from inference.records import Record, read_record, read_scores, recorded_prompts
from inference.scoring import made_from, score_records, vector_id
from utils.artifacts import read_json, write_text
from utils.cli import run_cli
from utils.errors import UserError
from utils.experiment import resolve_settings
from utils.flags import Flag, option_flags, pick
from utils.model import LM, ModelOptions, load_lm
from utils.paths import ExperimentPaths, InferencePaths
from utils.vectors import Card


@dataclass(frozen=True)
class ProjectOptions:
    """Project recorded responses on trait vectors; what is stored stays, what is missing is read from raw streams or by feeding the tokens again.

    Args:
        experiment: Experiment that the prompt set was captured in.
        prompt_set: A captured prompt set; "adhoc" holds the prompts given on the command line.
        centered: Centre the table's scores on the midpoint of the trait's two sides, so that 0 is neither.
        cosine: Give the table's scores as cosines of the activation and the vector.
    """

    experiment: str
    prompt_set: str
    centered: bool = False
    cosine: bool = False

    @property
    def scale(self) -> str:
        if self.centered and self.cosine:
            raise UserError("pass --centered or --cosine, not both")
        return "centered" if self.centered else "cosine" if self.cosine else "raw"


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(ProjectOptions) | option_flags(CardOptions) | option_flags(ModelOptions)


def main(**given: Any) -> None:
    """Project, and print the mean of every vector.

    Raises:
        UserError: nothing was captured, or a vector does not fit.
    """
    options = pick(ProjectOptions, given)
    scale = options.scale
    paths = InferencePaths(options.experiment, options.prompt_set)
    records = [read_record(paths, name) for name in recorded_prompts(paths)]
    cards = read_cards(options.experiment, pick(CardOptions, given))
    reader = read_json(paths.index)["made_by"]["model"]
    computed = score_records(paths, records, cards, reader, lambda: _load(options.experiment, given, reader, cards))
    table = tabulate(paths, records, cards, reader, scale)
    write_text(paths.table(f"projections_{scale}"), table.to_csv(index=False))
    means = table.groupby(["trait", "method", "layer"], sort=False)[["prompt", "response"]].mean()
    print(means.to_string(float_format="{:.3f}".format))
    print(f"[project] {options.experiment}, {paths.prompt_set}: {len(records)} prompts × {len(cards)} vectors, {computed} computed, {scale}")
    print(f"  {paths.table(f'projections_{scale}')}")


def _load(experiment: str, given: dict[str, Any], reader: dict, cards: Sequence[Card]) -> LM:
    flags = option_flags(ModelOptions)
    settings = resolve_settings(ExperimentPaths(experiment), flags, {k: v for k, v in given.items() if k in flags})
    lm = load_lm(pick(ModelOptions, settings))
    if lm.identity != reader:
        raise UserError(f"the responses were read by {reader['name']} ({reader['dtype']}), not by {lm.identity['name']} ({lm.identity['dtype']})")
    check_cards(lm, cards)
    return lm


def tabulate(paths: InferencePaths, records: Sequence[Record], cards: Sequence[Card], reader: dict, scale: str) -> pd.DataFrame:
    """Return a row per prompt and vector: the mean, greatest and last score of the response, and the mean of the prompt."""
    wanted = {vector_id(card.origin) for card in cards}
    rows = []
    for record in records:
        for scores in read_scores(paths, record.id, made_from(record, reader)):
            if vector_id(scores.origin) in wanted:
                rows.append(_row(record, scores.origin, pd.Series(scores.on(scale))))
    return pd.DataFrame(rows)


def _row(record: Record, origin: dict, scores: pd.Series) -> dict:
    prompt, response = scores[record.span("prompt")], scores[record.span("response")]
    figures = {"prompt": prompt.mean(), "response": response.mean(), "response_max": response.max(), "response_last": response.tail(1).mean()}
    return {"id": record.id, **{name: origin[name] for name in ("trait", "method", "layer")}, **figures, "tokens": len(response)}


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(ProjectOptions) or "")
